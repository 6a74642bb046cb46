package lease

import (
	"context"
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
	mem      *memRecord // the record, where it was granted in memory
	x        *ending    // made when somebody wants to hear of the end
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
