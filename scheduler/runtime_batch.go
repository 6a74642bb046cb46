package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// start runs a batch on a worker.
func (r *run[J, R]) start(id, worker int32) {
	s, m := r.s, r.s.m
	mb := &m.batches[id]
	h := r.workers[worker]
	b := &running[J, R]{id: id, worker: worker, tasks: make(map[string]int32, len(mb.tasks)),
		began: make(map[int32]time.Time), at: time.Now()}
	batch := Batch[J]{Attempt: make(map[string]int, len(mb.tasks))}
	if mb.group >= 0 {
		batch.Group = m.groups[mb.group]
	}
	for _, t := range mb.tasks {
		batch.Tasks = append(batch.Tasks, s.tasks[t])
		batch.Attempt[m.ids[t]] = int(m.tasks[t].tries) + 1
		b.tasks[m.ids[t]] = t
	}
	if batch.Group == "" {
		batch.Group = batch.Tasks[0].Group // one that is tried again on its own
	}
	b.ctx, b.cancel = context.WithCancelCause(r.base)
	r.batches[id] = b
	r.live++
	go func() {
		err, panicked := r.work(b, h.worker, batch)
		b.cancel(nil)
		s.mu.Lock()
		defer s.unlock()
		if b.stopped {
			s.note(slog.LevelWarn, "a worker returned after it was given up", "worker", h.info.Name, "error", err)
			return
		}
		r.endBatch(b)
		text := ""
		if err != nil {
			text = err.Error()
			if text == "" {
				text = fmt.Sprintf("%T", err)
			}
			h.last = Infra(err)
			if m.cancelled == "" {
				s.note(slog.LevelWarn, "a worker broke", "worker", h.info.Name, "error", err)
			}
		}
		_ = s.feed(&input{Kind: inOver, ID: b.id, Text: text, Panic: panicked})
	}()
}

// work calls Run, unless the batch was interrupted before.
func (r *run[J, R]) work(b *running[J, R], w Worker[J, R], batch Batch[J]) (err error, panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			err, panicked = fmt.Errorf("the worker panicked: %v\n%s", p, debug.Stack()), true
		}
	}()
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx), false
	}
	return w.Run(b.ctx, batch, func(e Event[R]) { r.event(b, e) }), false
}

// endBatch stops listening to a batch. s.mu is held.
func (r *run[J, R]) endBatch(b *running[J, R]) {
	b.stopped = true
	delete(r.batches, b.id)
	r.live--
}

// event takes a worker's news of one task.
func (r *run[J, R]) event(b *running[J, R], e Event[R]) {
	s := r.s
	s.mu.Lock()
	defer s.unlock()
	dropped := func(why string) {
		s.note(slog.LevelWarn, "an event of a worker was dropped", "task", e.Task, "status", e.Verdict.Status, "why", why)
	}
	if b.stopped {
		dropped("it came after its batch was over")
		return
	}
	t, is := b.tasks[e.Task]
	if !is {
		dropped("the task is not in the batch")
		return
	}
	m := s.m
	k := &m.tasks[t]
	if k.batch != b.id || k.state != stateGiven && k.state != stateStarted {
		dropped("the task has ended already")
		return
	}
	now := time.Now()
	if e.Started {
		if k.state == stateStarted {
			dropped("the task was started already")
			return
		}
		b.began[t] = now
		_ = s.feed(&input{Kind: inStarted, ID: b.id, Task: t})
		return
	}
	begun, is := b.began[t]
	if !is {
		begun = b.at
	}
	r.attempt(t, Attempt[R]{Worker: r.workers[b.worker].info.Name, Verdict: e.Verdict, Result: e.Result,
		Start: begun, Duration: now.Sub(begun)})
	in := &input{Kind: inEnded, ID: b.id, Task: t, Status: e.Verdict.Status, Exit: e.Verdict.Exit}
	if e.Verdict.Infra != nil {
		in.Infra, in.Text = true, e.Verdict.Infra.Error()
		in.Final = errors.Is(e.Verdict.Infra, ErrPending) || errors.Is(e.Verdict.Infra, ErrAbandoned) || errors.Is(e.Verdict.Infra, ErrImpossible)
	}
	_ = s.feed(in)
}

func (r *run[J, R]) attempt(t int32, a Attempt[R]) {
	r.s.attempts[t] = append(r.s.attempts[t], a)
}

// lose notes an attempt that gave no verdict.
func (r *run[J, R]) lose(a *action) {
	m := r.s.m
	v := Verdict{Status: Errored, Infra: Infra(fmt.Errorf("%w: %s", ErrLost, a.text))}
	h := r.workers[a.worker]
	switch {
	case m.cancelled != "":
		v = Verdict{Status: Aborted}
	case h.last != nil:
		v.Infra = Infra(fmt.Errorf("%w: %w", ErrLost, h.last))
	}
	begun := r.s.epoch.Add(time.Duration(a.at))
	r.attempt(a.id, Attempt[R]{Worker: h.info.Name, Verdict: v, Start: begun, Duration: time.Since(begun)})
}

// finish hands an outcome to the consumer.
func (r *run[J, R]) finish(t int32) {
	s, m := r.s, r.s.m
	k := &m.tasks[t]
	o := Outcome[R]{Task: m.ids[t], Group: s.tasks[t].Group, Attempts: s.attempts[t]}
	delete(s.attempts, t)
	var last error
	if n := len(o.Attempts); n > 0 {
		a := &o.Attempts[n-1]
		o.Verdict, o.Result, o.Worker, o.Duration = a.Verdict, a.Result, a.Worker, a.Duration
		last = a.Verdict.Infra
		o.Queued = max(0, a.Start.Sub(s.epoch.Add(time.Duration(k.ready))))
	}
	if k.cold >= 0 && m.loose[k.cold].cause != causeNone {
		o.Cause, o.Verdict.Infra = m.explainEnd(t, last)
		o.Verdict.Status = k.status.String()
	}
	var zero J
	s.tasks[t].Payload = zero // a run of a million need not hold them all
	r.outcomes = append(r.outcomes, o)
}
