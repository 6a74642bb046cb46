package scheduler

import (
	"context"
)

// Source gives workers. The scheduler asks for one by a demand and chooses what
// it runs when it arrives.
type Source[J, R any] interface {
	// Worker waits for a worker that fits the demand. When the context ends,
	// the demand is withdrawn; a worker that arrives all the same is still
	// returned and is released by the scheduler. An error that wraps
	// ErrImpossible says that no worker can ever fit.
	Worker(ctx context.Context, d Demand) (Worker[J, R], error)
}

// Demand is what a worker is wanted for.
type Demand struct {
	Labels   map[string]string // of the most urgent task that fits nowhere yet
	Priority int
	Task     string // the task that asks, for people
	// Avoid names workers (and hosts, where a source knows them) on which the
	// task already failed for want of a sound environment: to stay away from
	// if others fit. A worker of such a name that is given all the same is
	// used: there is no elsewhere.
	Avoid []string
}

// Worker runs batches. The scheduler calls one Run at a time unless MaxTasks is
// greater than one, and Release once, when no Run is under way.
type Worker[J, R any] interface {
	Info() WorkerInfo
	// Run runs the tasks of a batch and calls emit, from any goroutine but one
	// at a time, as each is started and when it has ended: ended once per
	// task, final. Tasks that were started but not ended when Run returns were
	// lost with the worker; tasks not started go back untouched. When the
	// context ends, Run interrupts what runs, waits for the grace time and
	// kills. An error that wraps Infra says that the worker is broken and must
	// not be used again; any other error counts as one.
	Run(ctx context.Context, b Batch[J], emit func(Event[R])) error
	// Release gives the worker back with the reason, nil for healthy.
	// Its context is never one that has ended.
	Release(ctx context.Context, reason error) error
}

// WorkerInfo describes a worker.
type WorkerInfo struct {
	// Name is unique among the workers that a run holds: a second one of a name
	// is released unused and counts as a failure of the source. Without a name
	// that cannot be told.
	Name   string
	Labels map[string]string
	// MaxTasks is how many batches it runs at once; zero: 1.
	MaxTasks int
	// Batches is how many batches it takes before it is released; zero: 1,
	// negative: no bound.
	Batches int
	// OwnLimits says that the worker bounds its tasks itself, such as one that
	// has a queue of its own, where the time in it does not count against
	// Task.Timeout. Else the scheduler interrupts a batch that is not back when
	// the timeouts of all of its tasks and the grace time have passed.
	OwnLimits bool
}

// Batch is what one worker runs without a rollback in between: one group or a
// cut of it.
type Batch[J any] struct {
	Group string
	Tasks []Task[J]
	// Attempt counts from one, per task by its ID.
	Attempt map[string]int
	// Executor is the name of the executor whose Source the worker is of, and
	// BeforeScript that executor's text, to go before whatever each task runs.
	Executor, BeforeScript string
}

// Event is a worker's news of one task.
type Event[R any] struct {
	Task    string
	Started bool // else ended
	Verdict Verdict
	Result  R
}

// Verdict is how a task ended. Status is one of package result's words.
type Verdict struct {
	Status string
	Exit   int
	// Infra: the environment failed; the task may be retried elsewhere, unless
	// the error wraps ErrPending, ErrAbandoned (it may still run) or
	// ErrImpossible.
	Infra error
}
