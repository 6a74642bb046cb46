package pool

import (
	"errors"
	"fmt"
	"time"
)

// What can go wrong, to be tested with errors.Is.
var (
	// ErrClosed: the pool is closed or closing.
	ErrClosed = errors.New("pool is closed")
	// ErrImpossible: nothing that the pool has or could make satisfies the
	// want, however long one waits.
	ErrImpossible = errors.New("impossible")
	// ErrBusy: nothing is free right now, and the call does not wait.
	ErrBusy = errors.New("nothing is free now")
	// ErrReleased: the guest was given back; its machine is out of reach.
	ErrReleased = errors.New("guest was released")
	// ErrTimeout: the wait took longer than Want.Timeout.
	ErrTimeout = errors.New("timeout of the want passed")
	// ErrQuota: as many machines are kept by Hold as there may be.
	ErrQuota = errors.New("quota of kept machines is used up")
)

// OpError is the error of every operation of this package.
type OpError struct {
	Op   string // "acquire", "release", "close", ...
	What string // which want, guest, host or machine
	// Waited is how long the call waited; zero: it did not.
	Waited time.Duration
	// Why is what stood in the way, such as who holds the machines.
	Why string
	Err error
}

// Error is "pool: waited 1m0s for one of 4 machines (held: TestUpgrade 12m3s):
// context deadline exceeded" for waits, and "pool: op what: why: err" else.
func (e *OpError) Error() string {
	s := "pool: " + e.Op
	if e.Waited > 0 || e.Op == opWait {
		s = "pool: waited " + people(e.Waited).String() + " for"
	}
	if e.What != "" {
		s += " " + e.What
	}
	if e.Why != "" {
		s += " (" + e.Why + ")"
	}
	return fmt.Sprintf("%s: %v", s, e.Err)
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

const opWait = "wait"

// Broken marks a reason for Guest.Release: the machine, not the job, failed. The
// machine is destroyed rather than renewed in place and the failure counts
// against its host and template. Broken(nil) is nil.
func Broken(err error) error {
	if err == nil {
		return nil
	}
	return &broken{err}
}

type broken struct{ err error }

func (b *broken) Error() string       { return "machine is broken: " + b.err.Error() }
func (b *broken) Unwrap() error       { return b.err }
func (b *broken) BrokenMachine() bool { return true }

// IsBroken reports whether an error says that a machine failed: made by Broken,
// or with a method BrokenMachine() bool that answers true.
func IsBroken(err error) bool {
	if err == nil {
		return false
	}
	var b interface{ BrokenMachine() bool }
	return errors.As(err, &b) && b.BrokenMachine()
}

// people rounds a duration to what people want to read.
func people(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d
}
