package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// executorWorker is one of an executor's jobs at once.
type executorWorker[J, R any] struct {
	e    *Executor[J, R]
	name string
	jobs *jobTable
	free func() // gives its place back
}

// Info names the worker; it has no deadline but its own, for the time in a
// queue is not the task's.
func (w *executorWorker[J, R]) Info() WorkerInfo {
	return WorkerInfo{Name: w.name, Labels: w.e.Labels, Batches: -1, OwnLimits: true}
}

// Release gives the place back.
func (w *executorWorker[J, R]) Release(context.Context, error) error {
	w.free()
	return nil
}

// Run runs the tasks of a batch one after the other.
func (w *executorWorker[J, R]) Run(ctx context.Context, b Batch[J], emit func(Event[R])) error {
	for i := range b.Tasks {
		t := b.Tasks[i]
		if ctx.Err() != nil {
			return nil //nolint:nilerr // those that were not started go back, or are aborted
		}
		j := Job[J]{Task: t, Attempt: b.Attempt[t.ID], Executor: w.e.Name, Account: charged(w.e, &t), BeforeScript: w.e.BeforeScript}
		v, r := w.job(ctx, j, func() { emit(Event[R]{Task: t.ID, Started: true}) })
		emit(Event[R]{Task: t.ID, Verdict: v, Result: r})
	}
	return nil
}

func (w *executorWorker[J, R]) job(ctx context.Context, j Job[J], started func()) (Verdict, R) {
	info := w.jobs.begin(JobInfo{Task: j.Task.ID, Executor: j.Executor, Account: j.Account, Worker: w.name, Attempt: j.Attempt, State: JobPending})
	defer w.jobs.end(info)
	if w.e.Runner == nil {
		p := &polled[J, R]{e: w.e, job: j, started: started, jobs: w.jobs, info: info}
		return p.run(ctx)
	}
	w.jobs.tell(info, JobRunning, "", 0)
	started()
	limited := ctx
	if j.Task.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, j.Task.Timeout)
		defer cancel()
	}
	v, r := w.e.Runner.Run(limited, j)
	switch {
	case v.Status == Passed && v.Infra == nil: // it was in time, whatever the clock says since
	case ctx.Err() != nil:
		v = Verdict{Status: Aborted, Exit: v.Exit}
	case limited.Err() != nil:
		v = Verdict{Status: TimedOut, Exit: v.Exit}
	}
	return v, r
}

// polled is one job of a queueing system, from Submit to its end.
type polled[J, R any] struct {
	e       *Executor[J, R]
	job     Job[J]
	started func()
	jobs    *jobTable
	info    *JobInfo

	id        string
	submitted time.Time
	ran       time.Time // first seen running; zero: not yet
	told      time.Time // when a state was known last
	last      JobState
	reason    string // what the last Poll said that is not a state
}

// call bounds one call of the Submitter.
func (p *polled[J, R]) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, p.e.CallTimeout, fmt.Errorf("no answer of executor %s within %v", p.e.Name, p.e.CallTimeout))
}

func (p *polled[J, R]) run(ctx context.Context) (v Verdict, r R) {
	c, cancel := p.call(ctx)
	id, err := p.e.Submitter.Submit(c, p.job)
	cancel()
	p.id, p.submitted = id, time.Now()
	p.jobs.submitted(p.info, id)
	p.told, p.last = p.submitted, JobPending
	switch {
	case err == nil && id == "":
		return Verdict{Status: Errored, Infra: Infra(fmt.Errorf("executor %s: Submit returned neither an id nor an error", p.e.Name))}, r
	case err != nil:
		v = Verdict{Status: Errored, Infra: Infra(fmt.Errorf("executor %s: submit: %w", p.e.Name, err))}
		if ctx.Err() != nil {
			v = Verdict{Status: Aborted}
		}
		if id != "" {
			return p.cancel(ctx, v)
		}
		return v, r
	}
	interval := p.e.PollInterval
	for {
		wait, end := p.wait(interval)
		if end != nil {
			return p.cancel(ctx, *end)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return p.cancel(ctx, Verdict{Status: Aborted})
		case <-timer.C:
		}
		before := p.last
		s, final := p.poll(ctx)
		if final {
			return s.verdict(p.id), s.Result
		}
		if p.last != before {
			interval = p.e.PollInterval
		} else {
			interval = min(interval+interval/2, p.e.MaxPollInterval)
		}
	}
}

// poll asks once and notes what is new; final for a job that has ended.
func (p *polled[J, R]) poll(ctx context.Context) (s JobStatus[R], final bool) {
	c, cancel := p.call(ctx)
	defer cancel()
	s, err := p.e.Submitter.Poll(c, p.id)
	defer func() {
		reason := s.Reason
		if p.last == JobUnknown {
			reason = p.reason
		}
		if now := p.jobs.tell(p.info, p.last, reason, 1); p.e.Polled != nil {
			p.e.Polled(now)
		}
	}()
	if err != nil || !s.State.known() {
		p.last = JobUnknown
		switch {
		case err != nil:
			p.reason = err.Error()
		default:
			p.reason = fmt.Sprintf("state %q%s", s.State, behind(s.Reason))
		}
		return s, false
	}
	p.last, p.told = s.State, time.Now()
	if (s.State == JobRunning || s.State == JobComplete || s.State == JobFailed) && p.ran.IsZero() {
		p.ran = p.told
		p.started()
	}
	return s, s.State.Final()
}

// wait returns how long to wait for the next poll, or the verdict of a job that
// has run out of one of its times.
func (p *polled[J, R]) wait(interval time.Duration) (time.Duration, *Verdict) {
	now := time.Now()
	due := func(since time.Time, limit time.Duration) bool {
		left := limit - now.Sub(since)
		interval = min(interval, left)
		return left <= 0
	}
	if p.last == JobUnknown && due(p.told, p.e.UnknownTimeout) {
		return 0, &Verdict{Status: Errored, Infra: Infra(fmt.Errorf("%w: job %s of executor %s for %v, last: %s",
			ErrJobUnknown, p.id, p.e.Name, now.Sub(p.told), p.reason))}
	}
	if p.ran.IsZero() {
		limit := p.e.MaxPendTime
		if p.job.Task.PendingLimit != 0 {
			limit = p.job.Task.PendingLimit
		}
		if limit > 0 && due(p.submitted, limit) {
			return 0, &Verdict{Status: Errored, Infra: Infra(fmt.Errorf("%w: job %s of executor %s is %s for %v, limit %v",
				ErrPending, p.id, p.e.Name, p.last, now.Sub(p.submitted), limit))}
		}
		return interval, nil
	}
	if limit := p.job.Task.Timeout; limit > 0 && due(p.ran, limit) {
		return 0, &Verdict{Status: TimedOut}
	}
	return interval, nil
}

// cancel ends a job and waits until that is seen. A job that had an end of its
// own in the same moment keeps it; one that does not end may still run, and so
// is not tried again.
func (p *polled[J, R]) cancel(ctx context.Context, v Verdict) (Verdict, R) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), p.e.CancelTimeout)
	defer stop()
	begun := time.Now()
	asked := false
	var failed error
	interval := min(p.e.PollInterval, max(p.e.CancelTimeout/20, time.Millisecond))
	for {
		if !asked {
			c, cancel := p.call(ctx)
			failed = p.e.Submitter.Cancel(c, p.id)
			cancel()
			asked = failed == nil
		}
		s, final := p.poll(ctx)
		switch {
		case final && s.State == JobCancelled:
			return v, s.Result
		case final:
			return s.verdict(p.id), s.Result
		}
		timer := time.NewTimer(interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			lost := fmt.Errorf("%w: job %s of executor %s may still run, it is %s %v after it was cancelled",
				ErrAbandoned, p.id, p.e.Name, p.last, time.Since(begun))
			var none R
			return Verdict{Status: Errored, Infra: Infra(errors.Join(lost, failed, v.Infra))}, none
		}
	}
}
