package lease

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Raise gives the lease a new token: what was handed out under the old one is
// fenced off from then on, here and wherever tokens are compared. After an
// error that leaves open whether the store did it, the old token still counts
// here and the next Raise or Release finds out.
func (l *Lease) Raise(ctx context.Context) (uint64, error) {
	rec, err := l.change(ctx, "raise", true, nil, nil)
	return rec.Token, err
}

// Fix turns a lease that is renewed into one of a fixed term from now: it
// survives the Manager and its process, and can be extended, released from
// anywhere with key and token, or adopted by who is told them.
func (l *Lease) Fix(ctx context.Context, term time.Duration) error {
	if term < leastTTL {
		return &OpError{Op: "fix", Key: l.key, Token: l.Token(), Err: fmt.Errorf("for %v, want %v or more", term, leastTTL)}
	}
	o := Options{Term: term}
	s := newTerm(l.m, l, o)
	start := l.m.clock.now()
	_, err := l.change(ctx, "fix", false,
		func(r *Record) { r.Session, r.Lock, r.Boot, r.TTL = "", "", "", term },
		func() {
			l.sess.Load().stopTerm()
			s.startTerm(start, o)
			l.sess.Store(s)
		})
	return err
}

// change swaps the record of a held lease. edit makes the new record, and done
// is called with mu held when the store has it and the lease is still held.
func (l *Lease) change(ctx context.Context, op string, newToken bool, edit func(*Record), done func()) (Record, error) {
	m := l.m
	if err := l.Check(); err != nil {
		return Record{}, l.failure(op)
	}
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	m.mu.Lock()
	if err := l.begin(ctx); err != nil {
		m.mu.Unlock()
		return Record{}, &OpError{Op: op, Key: l.key, Token: l.token.Load(), Err: err}
	}
	if l.over() {
		l.finish()
		m.mu.Unlock()
		return Record{}, l.failure(op)
	}
	prev := Record{Key: l.key, Token: l.token.Load(), Renewals: l.renewals}
	next := l.sess.Load().terms
	m.mu.Unlock()

	next.Key, next.Note = l.key, l.note
	next.Since, next.Renewed = time.Unix(0, l.since), time.Now()
	if edit != nil {
		edit(&next)
	}
	rec, err := m.store.Swap(ctx, prev, next, newToken)
	for range mostConflicts {
		if err == nil || !errors.Is(err, ErrConflict) || !l.isOurs(rec) {
			break
		}
		// An earlier change of ours was done although its answer was lost.
		rec, err = m.store.Swap(ctx, rec, next, newToken)
	}
	m.mu.Lock()
	l.finish()
	var after func()
	switch {
	case err == nil:
		l.renewals = rec.Renewals
		l.token.Store(rec.Token)
		if done != nil && !l.over() {
			done()
		}
	case errors.Is(err, ErrConflict):
		after = l.taken(rec)
	}
	over := l.over()
	m.mu.Unlock()
	if after != nil {
		after()
	}
	if over {
		if err == nil && l.state.Load() == stateLost {
			// Written too late: nobody is to wait for what nobody has.
			ctx, cancel := m.cleanup(ctx)
			defer cancel()
			if err := m.store.Delete(ctx, rec); err != nil {
				m.log.Warn("lease: a record that was changed too late is left to expire", "key", l.key, "err", err)
			}
		}
		return Record{}, l.failure(op)
	}
	if err != nil {
		return Record{}, &OpError{Op: op, Key: l.key, Token: prev.Token, Err: err}
	}
	return rec, nil
}

// isOurs: the stored record is this lease's, under a token or a count that we
// did not hear of. Only for leases that are in held.
func (l *Lease) isOurs(rec Record) bool {
	return rec.Token != 0 && (rec.Token == l.token.Load() || l.sess.Load().key != "" && rec.Session == l.sess.Load().key)
}

// taken ends a lease whose record turned out to be another's, and gives what is to
// be called without mu. Called with mu held.
func (l *Lease) taken(rec Record) func() {
	if !l.state.CompareAndSwap(stateHeld, stateLost) {
		return nil
	}
	how := "its record is gone"
	if !rec.Zero() {
		how = "now " + holderText(rec, time.Now())
	}
	l.extra().err = fmt.Errorf("%w: %s", ErrLost, how)
	l.clean = true
	if l.m.held[l.key] == l {
		delete(l.m.held, l.key)
	}
	l.m.wake(l.key)
	after := l.end()
	return func() {
		l.m.log.Error("lease: lost", "key", l.key, "token", l.token.Load(), "how", how)
		if after != nil {
			after()
		}
	}
}
