package lease

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// TryAny takes the first of keys that is free now, in their order. Like
// TryAcquire it does not wait for holders. ErrHeld when none is free.
func (m *Manager) TryAny(ctx context.Context, keys []string, o *Options) (*Lease, error) {
	if len(keys) == 0 {
		return nil, errors.New("lease: TryAny of no keys, want at least one")
	}
	if m.claimer != nil && m.mem == nil && len(keys) > 1 {
		l, err := m.claim(ctx, keys, o)
		if l != nil || !errors.Is(err, ErrHeld) {
			return l, err
		}
		if keys, err = m.takeable(ctx, keys); err != nil {
			return nil, err
		}
	}
	var last error
	for _, key := range keys {
		l, err := m.acquire(ctx, "try", key, o, false)
		if err == nil || !errors.Is(err, ErrHeld) {
			return l, err
		}
		last = err
	}
	if last == nil {
		last = ErrHeld
	}
	if len(keys) == 1 {
		return nil, last
	}
	return nil, fmt.Errorf("lease: none of %d keys is free, the last: %w", len(keys), last)
}

// claim has a Claimer choose. All keys are marked meanwhile, so that it is
// known that a record of this session on one of them is this claim's.
func (m *Manager) claim(ctx context.Context, keys []string, o *Options) (*Lease, error) {
	options, err := checkOptions(o)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return nil, err
		}
	}
	fail := func(err error) (*Lease, error) {
		return nil, &OpError{Op: "try", Key: fmt.Sprintf("one of %d keys", len(keys)), Err: err}
	}
	for {
		if ctx.Err() != nil {
			return fail(ended(ctx))
		}
		now := time.Now()
		l, err := m.newLease(ctx, "", options)
		if err != nil {
			return fail(err)
		}
		marked, busy, err := m.markAll(l, keys)
		if errors.Is(err, errLostMeanwhile) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		if busy != nil { // another claim is at them
			select {
			case <-busy:
			case <-ctx.Done():
			}
			continue
		}
		if len(marked) == 0 {
			return fail(ErrHeld)
		}
		bounded, cancel := m.bounded(ctx)
		next := l.sess.Load().terms
		next.Note, next.Since, next.Renewed = l.note, now, now
		start := m.clock.now()
		rec, err := m.claimer.Claim(bounded, marked, next)
		cancel()
		m.unmarkAll(l, marked, rec.Key, err)
		switch {
		case err == nil:
			err = m.grant(ctx, l, rec, start, options)
			if err == nil {
				return l, nil
			}
			m.mu.Lock()
			m.unmark(l)
			m.mu.Unlock()
			if errors.Is(err, errLostMeanwhile) {
				continue
			}
		case errors.Is(err, ErrConflict):
			err = ErrHeld
		}
		return fail(err)
	}
}

// markAll marks those of keys that nobody here holds or waits for. When they
// are all in another claim, busy is closed at its end.
func (m *Manager) markAll(l *Lease, keys []string) (marked []string, busy <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, nil, ErrClosed
	}
	if l.sess.Load().gone {
		return nil, nil, errLostMeanwhile
	}
	for _, key := range keys {
		if m.held[key] == nil && m.queues[key] == nil {
			m.held[key] = l
			marked = append(marked, key)
		} else if ch := m.claimed(key); ch != nil {
			busy = ch
		}
	}
	if len(marked) > 0 {
		l.busy = true
		return marked, nil, nil
	}
	return nil, busy, nil
}

// unmarkAll leaves l marked under the key that it got only.
func (m *Manager) unmarkAll(l *Lease, marked []string, got string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range marked {
		if err != nil && !errors.Is(err, ErrConflict) {
			m.doubts[key] = 0
		}
		if err != nil || key != got {
			if m.held[key] == l {
				delete(m.held, key)
			}
			m.wake(key)
		}
	}
	if err == nil {
		l.key = got
	}
	l.finish()
}

// claimed gives a channel that is closed when the claim that key is marked for
// has ended; nil when there is none. Called with mu held.
func (m *Manager) claimed(key string) <-chan struct{} {
	l := m.held[key]
	if l == nil || l.key != "" {
		return nil
	}
	x := l.extra()
	if x.idle == nil {
		x.idle = make(chan struct{})
	}
	return x.idle
}

// takeable leaves those of keys that are free, or whose holders are dead.
func (m *Manager) takeable(ctx context.Context, keys []string) ([]string, error) {
	var out []string
	for _, key := range keys {
		m.mu.Lock()
		here := m.held[key] != nil || m.queues[key] != nil
		m.mu.Unlock()
		if here {
			continue
		}
		free, err := m.isTakeable(ctx, key)
		if err != nil {
			return nil, &OpError{Op: "try", Key: key, Err: err}
		}
		if free {
			out = append(out, key)
		}
	}
	return out, nil
}

func (m *Manager) isTakeable(ctx context.Context, key string) (bool, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	rec, err := m.store.Load(ctx, key)
	if err != nil || rec.Zero() || rec.Session != "" && rec.Session == m.SessionKey() {
		return err == nil, err
	}
	j, err := m.judge(ctx, rec)
	return j.free, err
}
