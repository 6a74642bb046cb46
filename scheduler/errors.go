package scheduler

import (
	"errors"
	"fmt"
)

// What can go wrong, to be asked for with errors.Is.
var (
	// ErrImpossible: no worker can ever fit a demand. A Source returns it.
	ErrImpossible = errors.New("no worker can ever fit")
	// ErrInfra: the environment failed, not the test; see Infra.
	ErrInfra = errors.New("the environment failed")
	// ErrUnknown: a name that no task has.
	ErrUnknown = errors.New("unknown task")
	// ErrDuplicate: a second task of the same name.
	ErrDuplicate = errors.New("duplicate task")
	// ErrCycle: tasks that wait for each other.
	ErrCycle = errors.New("dependency cycle")
	// ErrEnded: the run is over, or was begun before.
	ErrEnded = errors.New("the run has ended")
	// ErrLost: the worker ended, or returned, without ending the task.
	ErrLost = errors.New("lost with its worker")
	// ErrPoison: started and lost too often to be tried again.
	ErrPoison = errors.New("poison: started and lost too often")
	// ErrPending: waited for a worker for longer than its limit.
	ErrPending = errors.New("pending limit reached")
	// ErrRespawns: workers failed one after the other, with nothing done
	// between.
	ErrRespawns = errors.New("workers keep failing")
	// ErrMostFailures: Config.MostFailures was reached.
	ErrMostFailures = errors.New("most failures reached")
	// ErrAbandoned: it did not return within the grace time and its margin
	// after it was interrupted.
	ErrAbandoned = errors.New("did not return after it was interrupted")
)

// OpError says what the scheduler was doing with which task.
type OpError struct {
	Op   string // "add", "run", "source", "release", "replay", ...
	Task string // may be empty
	Err  error
}

func (e *OpError) Error() string {
	if e.Task == "" {
		return fmt.Sprintf("scheduler: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("scheduler: %s %q: %v", e.Op, e.Task, e.Err)
}

// Unwrap returns what is wrapped.
func (e *OpError) Unwrap() error { return e.Err }

type infraError struct{ err error }

func (e *infraError) Error() string        { return e.err.Error() }
func (e *infraError) Unwrap() error        { return e.err }
func (e *infraError) Is(target error) bool { return target == ErrInfra }

// Infra marks an error as one of the environment: what ran may be tried again
// elsewhere. Infra(nil) is nil; marking twice is harmless.
func Infra(err error) error {
	if err == nil || IsInfra(err) {
		return err
	}
	return &infraError{err: err}
}

// IsInfra reports whether an error is one of the environment.
func IsInfra(err error) bool { return errors.Is(err, ErrInfra) }
