package scheduler

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"
)

// Scheduler runs tasks on workers of a Source. All methods are safe for
// concurrent use. Make one with New; it needs no Close: what Run starts has
// ended when Run's loop ends.
type Scheduler[J, R any] struct {
	src  Source[J, R]
	conf Config

	mu       sync.Mutex
	m        *machine
	epoch    time.Time
	tasks    []Task[J]
	attempts map[int32][]Attempt[R]
	run      *run[J, R] // nil before Run
	err      error      // why the run ended early
	notes    []func()   // for the logger, when the lock is given back
}

// New returns a Scheduler. The error names what of the configuration is wrong.
func New[J, R any](src Source[J, R], c Config) (*Scheduler[J, R], error) {
	if src == nil {
		return nil, fmt.Errorf("scheduler: New: the source is nil")
	}
	conf, err := c.filled()
	if err != nil {
		return nil, err
	}
	return &Scheduler[J, R]{
		src: src, conf: conf, m: newMachine(conf), epoch: time.Now(), attempts: make(map[int32][]Attempt[R]),
	}, nil
}

// Add takes all of the tasks or none. Dependencies may name tasks of the same
// Add in any order, and of earlier ones. Unknown names, names that are taken
// and cycles (with their path) are errors here: ErrUnknown, ErrDuplicate,
// ErrCycle; ErrEnded once the run is over. Tasks may be added while the run
// goes on; hold it open with Hold. The slices and maps of the tasks belong to
// the scheduler from then on.
func (s *Scheduler[J, R]) Add(tasks ...Task[J]) error {
	if len(tasks) == 0 {
		return nil
	}
	specs := make([]spec, len(tasks))
	for i := range tasks {
		specs[i] = specOf(&tasks[i], s.conf.Estimate)
	}
	s.mu.Lock()
	defer s.unlock()
	if s.m.finished() {
		return &OpError{Op: "add", Task: tasks[0].ID, Err: ErrEnded}
	}
	s.tasks = append(s.tasks, tasks...)
	err := s.feed(&input{Kind: inAdd, Specs: specs})
	if err != nil {
		clear(s.tasks[len(s.tasks)-len(tasks):])
		s.tasks = s.tasks[:len(s.tasks)-len(tasks)]
	}
	return err
}

// Hold keeps the run open when all tasks have ended, for more are to come. It
// ends with the returned func, which may be called more than once; a cancelled
// run ends all the same.
func (s *Scheduler[J, R]) Hold() (release func()) {
	s.mu.Lock()
	defer s.unlock()
	_ = s.feed(&input{Kind: inHold})
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.unlock()
		_ = s.feed(&input{Kind: inUnhold})
	})
}

// Err returns why the run ended before all tasks were tried: the cause of the
// context, ErrMostFailures, ErrEnded for a second Run; nil for a whole run. A
// consumer that left the loop is no error.
func (s *Scheduler[J, R]) Err() error {
	s.mu.Lock()
	defer s.unlock()
	return s.err
}

// Run starts the tasks and yields each outcome as it becomes final, every task
// once. The loop ends when all tasks have ended, nothing holds the run open and
// every worker was released. When the context ends, what runs is interrupted
// and waited for (Config.Grace), the rest is aborted; leaving the loop early
// does the same and waits too. A slow consumer does not hold up the run. Run
// may be ranged over once; a second time it yields nothing and Err says so.
func (s *Scheduler[J, R]) Run(ctx context.Context) iter.Seq[Outcome[R]] {
	return func(yield func(Outcome[R]) bool) {
		r := s.begin(ctx)
		if r == nil {
			return
		}
		defer r.wait()
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(ended)
			r.cancel(context.Cause(ctx))
		})
		defer func() {
			if !stop() {
				<-ended
			}
		}()
		// A panic in the consumer's loop body comes through here too.
		finished := false
		defer func() {
			if !finished {
				r.cancel(nil)
			}
		}()
		for {
			out, more := r.next()
			if !more {
				finished = true
				return
			}
			for i := range out {
				if !yield(out[i]) {
					return
				}
			}
		}
	}
}
