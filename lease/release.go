package lease

import (
	"context"
	"errors"
)

// Release gives the right back and deletes the record, also when ctx has
// ended. It is idempotent; of a lease that was lost it deletes the record only
// if nobody else has it. When the store fails, the right is gone here all the
// same, the error is returned, and the deletion is tried again by the next
// Release, behind the renewals, and by Close.
func (l *Lease) Release(ctx context.Context) error {
	m := l.m
	m.mu.Lock()
	var after func()
	if l.state.CompareAndSwap(stateHeld, stateReleased) {
		after = l.end()
		m.ended(l, "released")
		if m.mem != nil && m.releaseInMemory(l) {
			m.mu.Unlock()
			if after != nil {
				after()
			}
			return nil
		}
	}
	ctx, cancel := m.cleanup(ctx)
	defer cancel()
	err := l.begin(ctx)
	if err != nil || l.clean {
		if err == nil {
			l.finish()
		}
		m.mu.Unlock()
		if after != nil {
			after()
		}
		return l.releaseError(err)
	}
	prev := Record{Key: l.key, Token: l.token.Load(), Renewals: l.renewals}
	mine := m.held[l.key] == l
	m.mu.Unlock()
	if after != nil {
		after()
	}
	err = m.store.Delete(ctx, prev)
	if err != nil && errors.Is(err, ErrConflict) {
		err = l.deleteChanged(ctx, mine)
	}
	m.mu.Lock()
	l.finish()
	if err == nil {
		l.clean = true
		delete(m.undone, l)
		if m.held[l.key] == l {
			delete(m.held, l.key)
			if len(m.queues) > 0 {
				m.wake(l.key)
			}
		}
	} else if mine {
		m.undone[l] = true
	}
	m.mu.Unlock()
	return l.releaseError(err)
}

func (l *Lease) releaseError(err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: "release", Key: l.key, Token: l.token.Load(), Err: err}
}

// deleteChanged deletes the record when it is still this lease's.
func (l *Lease) deleteChanged(ctx context.Context, mine bool) error {
	for range mostConflicts {
		rec, err := l.m.store.Load(ctx, l.key)
		if err != nil {
			return err
		}
		if rec.Token != l.token.Load() && !(mine && l.isOurs(rec)) {
			return nil // gone, or the next holder's
		}
		err = l.m.store.Delete(ctx, rec)
		if err == nil || !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}

// Release gives back the right to key that was granted under token, from any
// process: it needs neither the handle nor the holder's memory. It is
// idempotent and never touches another token's record. The holder itself does
// not hear of it before its next Raise.
func (m *Manager) Release(ctx context.Context, key string, token uint64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	m.mu.Lock()
	l := m.held[key]
	m.mu.Unlock()
	if l != nil && l.token.Load() == token {
		return l.Release(ctx)
	}
	ctx, cancel := m.cleanup(ctx)
	defer cancel()
	for range mostConflicts {
		rec, err := m.store.Load(ctx, key)
		if err == nil && rec.Token == token && token != 0 {
			err = m.store.Delete(ctx, rec)
			if errors.Is(err, ErrConflict) {
				continue // extended in between: the token may be the same
			}
			m.wakeUp(key)
		}
		if err != nil {
			return &OpError{Op: "release", Key: key, Token: token, Err: err}
		}
		return nil
	}
	return &OpError{Op: "release", Key: key, Token: token, Err: ErrConflict}
}
