package scheduler

import (
	"context"
	"maps"
)

// sourcedWorker is a worker of an executor's own Source.
type sourcedWorker[J, R any] struct {
	inner Worker[J, R]
	place *executorWorker[J, R]
}

// sourced asks the executor's source for a worker, for a place that is taken.
func sourced[J, R any](ctx context.Context, place *executorWorker[J, R], d Demand) (Worker[J, R], error) {
	d.Labels = maps.Clone(d.Labels)
	maps.DeleteFunc(d.Labels, func(key, value string) bool { // what the executor has the source need not have
		has, is := place.e.Labels[key]
		return is && has == value
	})
	w, err := place.e.Source.Worker(ctx, d)
	if err != nil {
		place.free()
		return nil, err
	}
	return &sourcedWorker[J, R]{inner: w, place: place}, nil
}

// Info is the worker's, with the executor's labels; it takes one batch at a
// time, for it has one of the executor's places.
func (w *sourcedWorker[J, R]) Info() WorkerInfo {
	info := w.inner.Info()
	labels := maps.Clone(w.place.e.Labels)
	for key, value := range info.Labels {
		if _, is := labels[key]; !is {
			labels[key] = value
		}
	}
	info.Labels, info.MaxTasks = labels, 1
	return info
}

// Run adds what is the executor's to the batch.
func (w *sourcedWorker[J, R]) Run(ctx context.Context, b Batch[J], emit func(Event[R])) error {
	e, table := w.place.e, w.place.jobs
	b.Executor, b.BeforeScript = e.Name, e.BeforeScript
	name := w.inner.Info().Name
	under := make(map[string]*JobInfo, len(b.Tasks))
	for i := range b.Tasks {
		t := &b.Tasks[i]
		j := table.begin(JobInfo{Task: t.ID, Executor: e.Name, Account: charged(e, t), Worker: name, Attempt: b.Attempt[t.ID], State: JobPending})
		defer table.end(j)
		under[t.ID] = j
	}
	return w.inner.Run(ctx, b, func(ev Event[R]) {
		if j := under[ev.Task]; j != nil {
			if ev.Started {
				table.tell(j, JobRunning, "", 0)
			} else {
				table.end(j)
			}
		}
		emit(ev)
	})
}

// Release gives the worker back to its source, and then the place.
func (w *sourcedWorker[J, R]) Release(ctx context.Context, reason error) error {
	defer w.place.free()
	return w.inner.Release(ctx, reason)
}

// charged is the account of a task: its own, else the executor's.
func charged[J, R any](e *Executor[J, R], t *Task[J]) string {
	if t.Account != "" {
		return t.Account
	}
	return e.Account
}
