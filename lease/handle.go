package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Lease is the right to one key. It ends once, by Release or by being lost.
// All methods are safe for concurrent use.
type Lease struct {
	m     *Manager
	key   string
	note  string
	sess  atomic.Pointer[session]
	since int64 // wall clock, for people
	token atomic.Uint64
	state atomic.Uint32

	// Guarded by m.mu. renewals is written by whoever is busy.
	busy     bool // a store operation on the record is under way
	clean    bool // the record is deleted
	renewals uint64
	x        *ending // made when somebody wants to hear of the end
}

const (
	statePending  uint32 = iota // being asked for
	stateHeld                   // ours as long as the session lives
	stateReleased               // given back
	stateLost
	stateClosed // the Manager was closed
)

// ending is what a lease has only when somebody asked for it.
type ending struct {
	done  chan struct{}
	calls map[*func(error)]struct{}
	idle  chan struct{} // closed when busy ends
	err   error         // why it was lost, where that is not the session's loss
}

// Key is what it is the right to.
func (l *Lease) Key() string { return l.key }

// Token is the present fencing token; Raise changes it.
func (l *Lease) Token() uint64 { return l.token.Load() }

// Note is the text given in Options.
func (l *Lease) Note() string { return l.note }

// Since is when the lease was granted, for people.
func (l *Lease) Since() time.Time { return time.Unix(0, l.since) }

// Check answers nil while the right is held and otherwise an error that is
// ErrLost, ErrReleased or ErrClosed. It reads a clock and memory only, so it
// is cheap enough for the start of every operation, and it is right at the
// instant at which it looks, also just after the process was stopped or the
// machine asleep.
func (l *Lease) Check() error {
	if l.state.Load() == stateHeld && l.sess.Load().check(l.m.clock.now()) {
		return nil
	}
	return l.failure("check")
}

// Err is Check under the name that contexts use.
func (l *Lease) Err() error { return l.Check() }

// Fence gives a Check that also fails once the token was raised: it is bound
// to the token of this moment.
func (l *Lease) Fence() func() error {
	token := l.token.Load()
	return func() error {
		if now := l.token.Load(); now != token {
			return &OpError{Op: "check", Key: l.key, Token: token, Err: fmt.Errorf("%w: handed on under token %d", ErrLost, now)}
		}
		return l.Check()
	}
}

// failure says how the lease ended.
func (l *Lease) failure(op string) error {
	e := &OpError{Op: op, Key: l.key, Token: l.token.Load()}
	switch l.state.Load() {
	case stateReleased:
		e.Err = ErrReleased
	case stateClosed:
		e.Err = ErrClosed
	default:
		l.m.mu.Lock()
		e.Err = l.sess.Load().err
		if l.x != nil && l.x.err != nil {
			e.Err = l.x.err
		}
		l.m.mu.Unlock()
		if e.Err == nil { // seen before the watchdog saw it
			e.Err = l.sess.Load().expired()
		}
	}
	return e
}

// Done is closed when the lease has ended.
func (l *Lease) Done() <-chan struct{} {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	x := l.extra()
	if x.done == nil {
		x.done = make(chan struct{})
		if l.over() {
			close(x.done)
		}
	}
	return x.done
}

// Context gives a context that ends with the lease, with the error of Check as
// its cause, or with ctx. Call cancel when it is no longer needed.
func (l *Lease) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	c, cancel := context.WithCancelCause(ctx)
	call := func(err error) { cancel(err) }
	l.m.mu.Lock()
	over := l.over()
	if !over {
		x := l.extra()
		if x.calls == nil {
			x.calls = make(map[*func(error)]struct{})
		}
		x.calls[&call] = struct{}{}
	}
	l.m.mu.Unlock()
	if over {
		cancel(l.failure("hold"))
		return c, func() {}
	}
	return c, func() {
		l.m.mu.Lock()
		delete(l.x.calls, &call)
		l.m.mu.Unlock()
		cancel(nil)
	}
}

// over is called with mu held.
func (l *Lease) over() bool { return l.state.Load() > stateHeld }

func (l *Lease) extra() *ending {
	if l.x == nil {
		l.x = new(ending)
	}
	return l.x
}

// end makes the state final and returns what is to be called once mu is free.
// It is called with mu held, by the one who changed the state.
func (l *Lease) end() func() {
	l.sess.Load().stopTerm()
	x := l.x
	if x == nil {
		return nil
	}
	if x.done != nil {
		close(x.done)
	}
	calls := x.calls
	x.calls = nil
	if len(calls) == 0 {
		return nil
	}
	return func() {
		err := l.failure("hold")
		for call := range calls {
			(*call)(err)
		}
	}
}

// begin makes the caller the only one who works on the record. It is called
// with mu held, and may let go of it while it waits for another.
func (l *Lease) begin(ctx context.Context) error {
	for l.busy {
		x := l.extra()
		if x.idle == nil {
			x.idle = make(chan struct{})
		}
		idle := x.idle
		l.m.mu.Unlock()
		var err error
		select {
		case <-idle:
		case <-ctx.Done():
			err = ended(ctx)
		}
		l.m.mu.Lock()
		if err != nil {
			return err
		}
	}
	l.busy = true
	return nil
}

// finish ends what begin began. Called with mu held.
func (l *Lease) finish() {
	l.busy = false
	if l.x != nil && l.x.idle != nil {
		close(l.x.idle)
		l.x.idle = nil
	}
}

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

// taken ends a lease whose record turned out to be another's. Called with mu
// held.
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
	l.m.log.Error("lease: lost", "key", l.key, "token", l.token.Load(), "how", how)
	return l.end()
}

// Release gives the right back and deletes the record, also when ctx has
// ended. It is idempotent; of a lease that was lost it deletes the record only
// if nobody else has it. When the store fails, the right is gone here all the
// same, the error is returned, and the deletion is tried again by the next
// Release, behind the renewals, and by Close.
func (l *Lease) Release(ctx context.Context) error {
	m := l.m
	ctx, cancel := m.cleanup(ctx)
	defer cancel()
	m.mu.Lock()
	var after func()
	if l.state.CompareAndSwap(stateHeld, stateReleased) {
		after = l.end()
	}
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
