package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// run is the runtime of one Run: it feeds the machine with what happens and
// does what it decides. Decisions are carried out by starting goroutines and
// ending contexts only, so all of it happens under the scheduler's lock and in
// the order in which it was decided.
type run[J, R any] struct {
	s    *Scheduler[J, R]
	base context.Context // the caller's values, without its end

	// All of this is under s.mu.
	demands  map[int32]*asking
	workers  map[int32]*held[J, R]
	batches  map[int32]*running[J, R]
	outcomes []Outcome[R]
	live     int // goroutines that are waited for
	over     bool
	timer    *time.Timer

	wake    chan struct{} // something is in outcomes, or live fell
	done    chan struct{} // closed at the end, for the clock
	stopped chan struct{} // closed by the clock
}

type asking struct {
	cancel   context.CancelFunc
	deserted bool
}

type held[J, R any] struct {
	worker Worker[J, R]
	info   WorkerInfo
	last   error // what its last Run returned
}

type running[J, R any] struct {
	id      int32
	worker  int32
	tasks   map[string]int32
	began   map[int32]time.Time
	cancel  context.CancelCauseFunc
	ctx     context.Context
	at      time.Time
	stopped bool // its events are dropped
}

// note says something to the logger once the lock is given back.
func (s *Scheduler[J, R]) note(level slog.Level, text string, args ...any) {
	s.notes = append(s.notes, func() { s.conf.Logger.Log(context.Background(), level, text, args...) })
}

// unlock gives the lock back and then tells the logger what there is to tell.
func (s *Scheduler[J, R]) unlock() {
	notes := s.notes
	s.notes = nil
	s.mu.Unlock()
	for _, note := range notes {
		note()
	}
}

// feed is called with s.mu held.
func (s *Scheduler[J, R]) feed(in *input) error {
	in.At = time.Since(s.epoch)
	if err := s.m.feed(in); err != nil {
		return err
	}
	s.conf.Log.record(s.conf, in, s.m.out)
	if s.m.cancelCause == causeMostFailures && s.err == nil {
		s.err = &OpError{Op: "run", Err: fmt.Errorf("%w: %s", ErrMostFailures, s.m.cancelled)}
	}
	out := s.m.out
	s.m.out = nil
	for i := range out {
		s.act(&out[i])
	}
	if cap(s.m.out) == 0 {
		clear(out)
		s.m.out = out[:0]
	}
	if s.run != nil {
		s.run.setTimer()
		s.run.signal()
	}
	return nil
}

// begin starts the run; nil when there was one before.
func (s *Scheduler[J, R]) begin(ctx context.Context) *run[J, R] {
	s.mu.Lock()
	defer s.unlock()
	if s.run != nil {
		s.err = &OpError{Op: "run", Err: fmt.Errorf("%w: Run was ranged over before", ErrEnded)}
		return nil
	}
	r := &run[J, R]{
		s: s, base: context.WithoutCancel(ctx),
		demands: make(map[int32]*asking), workers: make(map[int32]*held[J, R]), batches: make(map[int32]*running[J, R]),
		wake: make(chan struct{}, 1), done: make(chan struct{}), stopped: make(chan struct{}),
		timer: time.NewTimer(time.Hour),
	}
	s.run = r
	r.live++
	go r.clock()
	if ctx.Err() != nil {
		r.cancelLocked(context.Cause(ctx))
	}
	_ = s.feed(&input{Kind: inStart})
	return r
}

func (r *run[J, R]) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// setTimer arms the clock for the machine's next tick.
func (r *run[J, R]) setTimer() {
	at, ok := r.s.m.next()
	if !ok {
		r.timer.Stop()
		return
	}
	r.timer.Reset(max(0, time.Duration(at)-time.Since(r.s.epoch)))
}

// clock feeds the ticks until the run is over.
func (r *run[J, R]) clock() {
	defer close(r.stopped)
	for {
		select {
		case <-r.done:
			r.timer.Stop()
			return
		case <-r.timer.C:
			r.s.mu.Lock()
			_ = r.s.feed(&input{Kind: inTick})
			r.s.unlock()
		}
	}
}

func (r *run[J, R]) cancel(cause error) {
	r.s.mu.Lock()
	defer r.s.unlock()
	r.cancelLocked(cause)
}

func (r *run[J, R]) cancelLocked(cause error) {
	if r.s.m.cancelled != "" || r.s.m.finished() {
		return
	}
	text := "the consumer of the outcomes left"
	if cause != nil {
		text = "the run was cancelled: " + cause.Error()
		r.s.err = &OpError{Op: "run", Err: cause}
	}
	_ = r.s.feed(&input{Kind: inCancel, Text: text})
}

// next waits for outcomes; more is false when there will be none and all that
// was started has ended.
func (r *run[J, R]) next() (out []Outcome[R], more bool) {
	for {
		r.s.mu.Lock()
		out, r.outcomes = r.outcomes, nil
		over := r.quiet()
		r.s.unlock()
		if len(out) > 0 {
			return out, true
		}
		if over {
			return nil, false
		}
		<-r.wake // every demand, run and release is bounded; see machine.patience
	}
}

// quiet says that nothing is under way but the clock.
func (r *run[J, R]) quiet() bool { return r.s.m.quiet() && r.live == 1 }

// wait returns when all has ended.
func (r *run[J, R]) wait() {
	for {
		r.s.mu.Lock()
		over := r.quiet()
		if over {
			r.outcomes = nil
			if !r.over {
				r.over = true
				close(r.done)
			}
		}
		r.s.unlock()
		if over {
			<-r.stopped
			return
		}
		<-r.wake
	}
}

// act carries a decision out. s.mu is held.
func (s *Scheduler[J, R]) act(a *action) {
	r := s.run
	switch a.kind {
	case doAsk:
		r.ask(a.id)
	case doWithdraw:
		if d := r.demands[a.id]; d != nil {
			d.cancel()
		}
	case doDesert:
		if d := r.demands[a.id]; d != nil {
			d.deserted = true
			delete(r.demands, a.id)
			r.live--
			s.note(slog.LevelWarn, "the source did not return after its demand was withdrawn; no longer waited for")
		}
	case doRun:
		r.start(a.id, a.worker)
	case doInterrupt:
		if b := r.batches[a.id]; b != nil {
			b.cancel(errors.New(a.text))
		}
	case doAbandon:
		if b := r.batches[a.id]; b != nil {
			r.endBatch(b)
			if h := r.workers[b.worker]; h != nil {
				h.last = Infra(fmt.Errorf("%w: %s", ErrAbandoned, a.text))
			}
			s.note(slog.LevelError, "a worker did not return; no longer waited for", "why", a.text)
		}
	case doRelease:
		r.release(a.id, a.text)
	case doOutcome:
		r.finish(a.id)
	case doAttempt:
		r.lose(a)
	case doNote:
		s.note(slog.LevelWarn, "a worker failed", "why", a.text, "in a row", a.id)
	}
}

// ask has the source look for a worker.
func (r *run[J, R]) ask(id int32) {
	m := r.s.m
	dm := &m.demands[id]
	c := &m.classes[dm.class]
	d := Demand{Labels: m.kinds[c.kind].labels, Priority: int(m.tasks[dm.task].prio), Task: m.ids[dm.task], Avoid: c.avoiding}
	ctx, cancel := context.WithCancel(r.base)
	a := &asking{cancel: cancel}
	r.demands[id] = a
	r.live++
	go func() {
		defer cancel()
		w, info, err := r.source(ctx, d)
		r.s.mu.Lock()
		if a.deserted {
			r.s.unlock()
			if w != nil {
				_ = r.releaseWorker(w, nil)
			}
			return
		}
		defer r.s.unlock()
		delete(r.demands, id)
		r.live--
		if err != nil {
			if ctx.Err() == nil {
				r.s.note(slog.LevelWarn, "the source gave no worker", "labels", d.Labels, "task", d.Task, "error", err)
			}
			_ = r.s.feed(&input{Kind: inRefused, ID: id, Text: err.Error(), Impossible: errors.Is(err, ErrImpossible)})
			return
		}
		r.arrive(id, w, info)
	}()
}

// source asks for a worker; a panic, and a worker that is nil, are errors.
func (r *run[J, R]) source(ctx context.Context, d Demand) (w Worker[J, R], info WorkerInfo, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Infra(fmt.Errorf("the source panicked: %v\n%s", p, debug.Stack()))
		}
	}()
	if w, err = r.s.src.Worker(ctx, d); err != nil {
		return nil, info, err
	}
	if w == nil {
		return nil, info, Infra(errors.New("the source returned neither a worker nor an error"))
	}
	return w, w.Info(), nil
}

func (r *run[J, R]) arrive(id int32, w Worker[J, R], info WorkerInfo) {
	h := &held[J, R]{worker: w, info: info}
	r.workers[r.s.m.slot()] = h
	_ = r.s.feed(&input{Kind: inArrived, ID: id, Name: info.Name, Labels: info.Labels, MaxTasks: info.MaxTasks, Batches: info.Batches, OwnLimits: info.OwnLimits})
}

// release gives a worker back, in the background, once.
func (r *run[J, R]) release(id int32, text string) {
	h := r.workers[id]
	delete(r.workers, id)
	var reason error
	if text != "" {
		reason = h.last
		if reason == nil {
			reason = Infra(errors.New(text))
		}
	}
	r.live++
	go func() {
		err := r.releaseWorker(h.worker, reason)
		r.s.mu.Lock()
		defer r.s.unlock()
		if err != nil {
			r.s.note(slog.LevelError, "worker not released", "worker", h.info.Name, "error", err)
		}
		r.live--
		_ = r.s.feed(&input{Kind: inReleased, ID: id})
	}()
}

// releaseWorker is bounded even if the worker does not look at its context.
func (r *run[J, R]) releaseWorker(w Worker[J, R], reason error) error {
	ctx, cancel := context.WithTimeoutCause(r.base, r.s.conf.ReleaseTimeout,
		fmt.Errorf("not released within %v", r.s.conf.ReleaseTimeout))
	over := make(chan error, 1)
	go func() {
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				over <- fmt.Errorf("Release panicked: %v\n%s", p, debug.Stack())
			}
		}()
		over <- w.Release(ctx, reason)
	}()
	margin := time.NewTimer(r.s.conf.ReleaseTimeout + r.s.conf.GraceMargin)
	defer margin.Stop()
	select {
	case err := <-over:
		return err
	case <-margin.C:
		return fmt.Errorf("%w: Release, within %v", ErrAbandoned, r.s.conf.ReleaseTimeout+r.s.conf.GraceMargin)
	}
}
