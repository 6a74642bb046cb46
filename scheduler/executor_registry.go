package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Registry holds executors by name and is the Source of a Scheduler that runs
// tasks on them: each task on the executor that its ExecutorLabel names. Each
// job at once is a worker, so Config.Workers is the most jobs of the run; give
// Limits to Config.Executors. The zero value is empty and ready; all methods are
// safe for concurrent use, and several schedulers may share one: MaxJobs holds
// for all of them together.
type Registry[J, R any] struct {
	mu sync.Mutex
	by map[string]*registered[J, R]

	jobs jobTable
}

type registered[J, R any] struct {
	Executor[J, R]
	places []bool        // which of the numbers are taken
	taken  int           // how many are
	freed  chan struct{} // closed, and made anew, when one is given back
}

// Register takes an executor in. A name that is taken, and an executor that is
// not whole, are errors that wrap ErrExecutor.
func (r *Registry[J, R]) Register(e Executor[J, R]) error {
	e, err := e.filled()
	if err != nil {
		return &OpError{Op: "register", Err: err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, is := r.by[e.Name]; is {
		return &OpError{Op: "register", Err: fmt.Errorf("%w %q is registered already", ErrExecutor, e.Name)}
	}
	if r.by == nil {
		r.by = make(map[string]*registered[J, R])
	}
	r.by[e.Name] = &registered[J, R]{Executor: e, freed: make(chan struct{})}
	return nil
}

// Get returns the executor of a name, its defaults filled in; for a name that
// there is not the error wraps ErrExecutor and names those that are near.
func (r *Registry[J, R]) Get(name string) (Executor[J, R], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.get(name)
	if err != nil {
		return Executor[J, R]{}, &OpError{Op: "executor", Err: err}
	}
	got := e.Executor
	got.Labels = maps.Clone(got.Labels)
	return got, nil
}

func (r *Registry[J, R]) get(name string) (*registered[J, R], error) {
	if e, is := r.by[name]; is {
		return e, nil
	}
	there := "there is none"
	if len(r.by) > 0 {
		there = "there are " + strings.Join(r.names(), ", ")
	}
	return nil, fmt.Errorf("%w %q is not registered%s (%s)", ErrExecutor, name, suggest(name, maps.Keys(r.by)), there)
}

// Names returns the names of all, sorted.
func (r *Registry[J, R]) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names()
}

func (r *Registry[J, R]) names() []string { return slices.Sorted(maps.Keys(r.by)) }

// Limits returns MaxJobs by name, of those that have one, for Config.Executors:
// so the scheduler asks for no more than there will be.
func (r *Registry[J, R]) Limits() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits := make(map[string]int)
	for name, e := range r.by {
		if e.MaxJobs > 0 {
			limits[name] = e.MaxJobs
		}
	}
	return limits
}

// String lists the executors, a line each: name, kind, jobs at once of how
// many, account.
func (r *Registry[J, R]) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s strings.Builder
	for _, name := range r.names() {
		e := r.by[name]
		kind, most := "runs", "any number"
		if e.Submitter != nil {
			kind = "submits, polls every " + e.PollInterval.String()
		}
		if e.Source != nil {
			kind = "runs on workers of its own"
		}
		if e.MaxJobs > 0 {
			most = fmt.Sprint(e.MaxJobs)
		}
		fmt.Fprintf(&s, "%s: %s, %d jobs of %s", name, kind, e.taken, most)
		if e.Account != "" {
			s.WriteString(", account " + e.Account)
		}
		if e.BeforeScript != "" {
			s.WriteString(", before script")
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// Choose returns the executor of a task: the one that its ExecutorLabel names,
// or the only one there is. That it has the other labels that the task wants is
// checked too.
func (r *Registry[J, R]) Choose(t Task[J]) (Executor[J, R], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.choose(t.Labels)
	if err != nil {
		return Executor[J, R]{}, &OpError{Op: "executor", Task: t.ID, Err: err}
	}
	return e.Executor, nil
}

func (r *Registry[J, R]) choose(labels map[string]string) (*registered[J, R], error) {
	name, is := labels[ExecutorLabel]
	if !is {
		if len(r.by) != 1 {
			return nil, fmt.Errorf("%w: label %q is missing, want one of %s", ErrExecutor, ExecutorLabel, strings.Join(r.names(), ", "))
		}
		name = r.names()[0]
	}
	e, err := r.get(name)
	if err != nil {
		return nil, err
	}
	if lacks := e.lacks(labels); lacks != "" {
		return nil, fmt.Errorf("%w %q does not fit: %s", ErrExecutor, name, lacks)
	}
	return e, nil
}

// Assign chooses for all tasks before they are added: it sets the label of
// those that name no executor, the account of those that have none, so that
// Config.Accounts holds for them, and the pending limit of those that have none
// and wait for a worker of the executor's Source. With an error no task was
// changed.
func (r *Registry[J, R]) Assign(tasks []Task[J]) error {
	chosen := make([]Executor[J, R], len(tasks))
	for i := range tasks {
		e, err := r.Choose(tasks[i])
		if err != nil {
			return err
		}
		chosen[i] = e
	}
	for i := range tasks {
		t := &tasks[i]
		if _, is := t.Labels[ExecutorLabel]; !is {
			labels := maps.Clone(t.Labels)
			if labels == nil {
				labels = make(map[string]string, 1)
			}
			labels[ExecutorLabel] = chosen[i].Name
			t.Labels = labels
		}
		if t.Account == "" {
			t.Account = chosen[i].Account
		}
		if t.PendingLimit == 0 && chosen[i].Source != nil {
			t.PendingLimit = chosen[i].MaxPendTime
		}
	}
	return nil
}

// Worker waits until the executor of a demand has room. A demand that no
// executor fits is ErrImpossible.
func (r *Registry[J, R]) Worker(ctx context.Context, d Demand) (Worker[J, R], error) {
	for {
		r.mu.Lock()
		e, err := r.choose(d.Labels)
		if err != nil {
			r.mu.Unlock()
			return nil, &OpError{Op: "executor", Task: d.Task, Err: fmt.Errorf("%w: %w", ErrImpossible, err)}
		}
		if e.MaxJobs == 0 || e.taken < e.MaxJobs {
			w := r.take(e)
			r.mu.Unlock()
			if e.Source != nil {
				return sourced(ctx, w, d)
			}
			return w, nil
		}
		freed := e.freed
		r.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, &OpError{Op: "executor", Task: d.Task, Err: fmt.Errorf("all %d jobs of %s are taken: %w", e.MaxJobs, e.Name, context.Cause(ctx))}
		}
	}
}

// take makes a worker of the first free number.
func (r *Registry[J, R]) take(e *registered[J, R]) *executorWorker[J, R] {
	n := slices.Index(e.places, false)
	if n < 0 {
		n = len(e.places)
		e.places = append(e.places, false)
	}
	e.places[n] = true
	e.taken++
	return &executorWorker[J, R]{e: &e.Executor, jobs: &r.jobs, name: fmt.Sprintf("%s/%d", e.Name, n+1), free: sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		e.places[n] = false
		e.taken--
		close(e.freed)
		e.freed = make(chan struct{})
	})}
}
