package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource gives workers by a script and keeps books of all that they do.
type fakeSource struct {
	mu       sync.Mutex
	give     func(ctx context.Context, n int, d Demand) (*fakeWorker, error) // nil: a plain worker
	run      func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error
	info     WorkerInfo
	demands  []Demand
	out      int // demands and workers at once
	most     int
	workers  []*fakeWorker
	withdraw int
}

type fakeWorker struct {
	s        *fakeSource
	n        int
	info     WorkerInfo
	released int
	reason   error
	batches  [][]string
	now      int
	release  func(ctx context.Context) error
}

func (s *fakeSource) Worker(ctx context.Context, d Demand) (Worker[string, string], error) {
	s.mu.Lock()
	n := len(s.demands)
	s.demands = append(s.demands, d)
	s.out++
	s.most = max(s.most, s.out)
	give := s.give
	s.mu.Unlock()
	w := &fakeWorker{}
	var err error
	if give != nil {
		w, err = give(ctx, n, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.out--
		if ctx.Err() != nil {
			s.withdraw++
		}
		return nil, err
	}
	w.s, w.n = s, n
	if w.info.Name == "" {
		w.info = s.info
		w.info.Name = fmt.Sprint("vm-", n)
		w.info.Labels = d.Labels
	}
	s.workers = append(s.workers, w)
	return w, nil
}

func (w *fakeWorker) Info() WorkerInfo { return w.info }

func (w *fakeWorker) Run(ctx context.Context, b Batch[string], emit func(Event[string])) error {
	w.s.mu.Lock()
	w.now++
	var ids []string
	for _, t := range b.Tasks {
		ids = append(ids, t.ID)
	}
	w.batches = append(w.batches, ids)
	run := w.s.run
	w.s.mu.Unlock()
	defer func() {
		w.s.mu.Lock()
		w.now--
		w.s.mu.Unlock()
	}()
	if run == nil {
		run = second
	}
	return run(ctx, w, b, emit)
}

func (w *fakeWorker) Release(ctx context.Context, reason error) error {
	w.s.mu.Lock()
	w.s.out--
	w.released++
	w.reason = reason
	ended := ctx.Err()
	w.s.mu.Unlock()
	if ended != nil {
		return fmt.Errorf("released with a context that has ended: %w", ended)
	}
	if w.release != nil {
		return w.release(ctx)
	}
	return nil
}

// second runs each task for a second; all pass.
func second(ctx context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
	for _, t := range b.Tasks {
		emit(Event[string]{Task: t.ID, Started: true})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			emit(Event[string]{Task: t.ID, Verdict: Verdict{Status: Aborted}})
			return nil
		}
		emit(Event[string]{Task: t.ID, Verdict: Verdict{Status: Passed}, Result: "ok " + t.Payload})
	}
	return nil
}

// verdicts runs a second each with the given verdicts, passed without.
func verdicts(of map[string]Verdict) func(context.Context, *fakeWorker, Batch[string], func(Event[string])) error {
	return func(ctx context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
		for _, t := range b.Tasks {
			v, is := of[t.ID]
			if !is {
				v = Verdict{Status: Passed}
			}
			emit(Event[string]{Task: t.ID, Started: true})
			time.Sleep(time.Second)
			emit(Event[string]{Task: t.ID, Verdict: v})
		}
		return nil
	}
}

func newScheduler(t *testing.T, src *fakeSource, c Config, tasks ...Task[string]) *Scheduler[string, string] {
	t.Helper()
	s, err := New[string, string](src, c)
	require.NoError(t, err)
	require.NoError(t, s.Add(tasks...))
	return s
}

func collect(ctx context.Context, s *Scheduler[string, string]) map[string]Outcome[string] {
	all := make(map[string]Outcome[string])
	for o := range s.Run(ctx) {
		if _, twice := all[o.Task]; twice {
			o.Task += " (twice)"
		}
		all[o.Task] = o
	}
	return all
}

func (s *fakeSource) released(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.workers {
		assert.Equal(t, 1, w.released, "releases of worker %d", w.n)
		assert.Zero(t, w.now, "runs of worker %d", w.n)
	}
	assert.Zero(t, s.out)
}

func tasksNamed(ids ...string) []Task[string] {
	var all []Task[string]
	for _, id := range ids {
		all = append(all, Task[string]{ID: id, Payload: id})
	}
	return all
}

func after(id string, deps ...string) Task[string] {
	t := Task[string]{ID: id}
	for _, d := range deps {
		t.After = append(t.After, Dependency{Task: d})
	}
	return t
}

func statusesOf(all map[string]Outcome[string]) map[string]string {
	out := make(map[string]string)
	for id, o := range all {
		out[id] = o.Verdict.Status
	}
	return out
}

func TestEveryTaskEndsOnceAndEveryWorkerIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		s := newScheduler(t, src, Config{Workers: 2}, tasksNamed("a", "b", "c", "d", "e")...)
		begun := time.Now()
		all := collect(t.Context(), s)
		assert.Len(t, all, 5)
		assert.Equal(t, "ok a", all["a"].Result)
		assert.Equal(t, Passed, all["a"].Verdict.Status)
		assert.Len(t, all["a"].Attempts, 1)
		assert.Equal(t, time.Second, all["a"].Duration)
		assert.Equal(t, 3*time.Second, time.Since(begun))
		assert.Equal(t, 2, src.most)
		assert.NoError(t, s.Err())
		src.released(t)
		assert.ErrorIs(t, s.Add(tasksNamed("f")...), ErrEnded)
		assert.Empty(t, collect(t.Context(), s))
		assert.ErrorIs(t, s.Err(), ErrEnded)
	})
}

func TestAFailureBlocksExactlyItsDescendantsWithTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: verdicts(map[string]Verdict{"a": {Status: Failed, Exit: 3}})}
		always := Task[string]{ID: "always", After: []Dependency{{Task: "c", Ended: true}}}
		onExit := Task[string]{ID: "on exit", After: []Dependency{{Task: "a", Exits: []int{2, 3}}}}
		onStatus := Task[string]{ID: "on status", After: []Dependency{{Task: "a", Statuses: []string{Failed}, Exits: []int{0}}}}
		blockedExit := Task[string]{ID: "exit of a blocked one", After: []Dependency{{Task: "b", Exits: []int{0}}}}
		s := newScheduler(t, src, Config{Workers: 4}, append(tasksNamed("a", "x"), after("b", "a"), after("c", "b", "x"), after("y", "x"), always, onExit, onStatus, blockedExit)...)
		all := collect(t.Context(), s)
		assert.Equal(t, map[string]string{"a": Failed, "x": Passed, "b": Blocked, "c": Blocked, "y": Passed, "always": Passed,
			"on exit": Passed, "on status": Blocked, "exit of a blocked one": Blocked}, statusesOf(all))
		assert.Equal(t, "needs a to pass, which failed (exit 3)", all["b"].Cause)
		assert.Equal(t, "needs b to pass, which was blocked; first cause: a failed (exit 3)", all["c"].Cause)
		assert.Equal(t, "needs a to be failed with exit 0, which failed (exit 3)", all["on status"].Cause)
		assert.Empty(t, all["a"].Cause)
		src.released(t)
	})
}

func TestMistakesEndInAdd(t *testing.T) {
	t.Parallel()
	s, err := New[string, string](&fakeSource{}, Config{})
	require.NoError(t, err)
	require.NoError(t, s.Add(tasksNamed("build")...))
	for _, c := range []struct {
		tasks []Task[string]
		is    error
		text  string
	}{
		{[]Task[string]{after("test", "biuld")}, ErrUnknown, `scheduler: add "test": depends on "biuld": unknown task, did you mean "build"?`},
		{[]Task[string]{after("build")}, ErrDuplicate, `scheduler: add "build": duplicate task`},
		{tasksNamed("x", "x"), ErrDuplicate, `scheduler: add "x": duplicate task`},
		{[]Task[string]{after("a", "a")}, ErrCycle, `scheduler: add "a": dependency cycle: a -> a (each waits for the next)`},
		{[]Task[string]{after("z", "a"), after("a", "b"), after("b", "c", "build"), after("c", "a")}, ErrCycle,
			`scheduler: add "a": dependency cycle: a -> b -> c -> a (each waits for the next)`},
		{tasksNamed(""), nil, `scheduler: add: Task.ID of the task at 0 is empty, want a name`},
		{[]Task[string]{{ID: "n", Attempts: -1}}, nil, `scheduler: add "n": Task.Attempts is -1, want 0 or more`},
		{[]Task[string]{{ID: "n", Timeout: -1}}, nil, `scheduler: add "n": Task.Timeout is -1ns, want 0 or more`},
		{[]Task[string]{{ID: "n", After: []Dependency{{Task: "build", Statuses: []string{"green"}}}}}, nil,
			`scheduler: add "n": depends on "build" with the unknown status "green", want one of passed, skipped, blocked, aborted, errored, timed out, failed`},
	} {
		err := s.Add(c.tasks...)
		require.EqualError(t, err, c.text)
		if c.is != nil {
			require.ErrorIs(t, err, c.is)
		}
	}
	require.NoError(t, s.Add(after("a", "build")), "nothing is left of what was refused")
	assert.Len(t, s.tasks, 2)
}

func TestAConfigurationIsRefusedByFieldAndRule(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]Config{
		"scheduler: Config.Workers is -1, want 0 or more and less than 2^31":   {Workers: -1},
		"scheduler: Config.Grace is -1s, want 0 or more":                       {Grace: -time.Second},
		`scheduler: Config.Accounts["a"] is 0, want 1 or more`:                 {Accounts: map[string]int{"a": 0}},
		`scheduler: Config.Order is "x", want "duration", "random" or "given"`: {Order: "x"},
		"scheduler: Config.MostBackoff is 1ms, want Backoff (1s) or more":      {MostBackoff: time.Millisecond},
	} {
		_, err := New[string, string](&fakeSource{}, c)
		assert.EqualError(t, err, text)
		_, err = Simulate[int](nil, SimConfig{Config: c})
		assert.EqualError(t, err, text)
	}
	_, err := New[string, string](nil, Config{})
	assert.Error(t, err)
}

func TestOnlyInfraIsRetriedAndElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			for _, task := range b.Tasks {
				v := Verdict{Status: Failed}
				if task.ID == "infra" {
					attempts = append(attempts, b.Attempt["infra"])
					v = Verdict{Status: Errored, Infra: errors.New("no disk on " + w.info.Name)}
					if b.Attempt["infra"] == 3 {
						v = Verdict{Status: Passed}
					}
				}
				emit(Event[string]{Task: task.ID, Started: true})
				emit(Event[string]{Task: task.ID, Verdict: v})
			}
			return nil
		}
		s := newScheduler(t, src, Config{Workers: 1}, tasksNamed("infra", "fails")...)
		all := collect(t.Context(), s)
		assert.Equal(t, map[string]string{"infra": Passed, "fails": Failed}, statusesOf(all))
		assert.Equal(t, []int{1, 2, 3}, attempts)
		require.Len(t, all["infra"].Attempts, 3)
		assert.Len(t, all["fails"].Attempts, 1)
		seen := make(map[string]bool)
		for _, a := range all["infra"].Attempts {
			assert.False(t, seen[a.Worker], "twice on %s", a.Worker)
			seen[a.Worker] = true
		}
		assert.Equal(t, []string{"vm-0", "vm-1"}, src.demands[len(src.demands)-1].Avoid)
		src.released(t)
	})
}

func TestElsewhereIsNotWaitedForWhereThereIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.give = func(context.Context, int, Demand) (*fakeWorker, error) {
			return &fakeWorker{info: WorkerInfo{Name: "the only one", Batches: -1}}, nil
		}
		src.run = verdicts(map[string]Verdict{"a": {Status: Errored, Infra: errors.New("no disk")}})
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Errored, "b": Passed}, statusesOf(all))
		assert.Len(t, all["a"].Attempts, DefaultAttempts)
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrInfra)
		assert.Contains(t, all["a"].Cause, "all of its 3 attempts: no disk")
		src.released(t)
	})
}

func TestAPanicOfAWorkerBecomesAnOutcomeWithTheStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: func(context.Context, *fakeWorker, Batch[string], func(Event[string])) error { panic("boom") }}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a")...))
		o := all["a"]
		assert.Equal(t, Errored, o.Verdict.Status)
		assert.ErrorIs(t, o.Verdict.Infra, ErrPoison)
		assert.ErrorIs(t, o.Verdict.Infra, ErrLost)
		assert.Contains(t, o.Verdict.Infra.Error(), "boom")
		assert.Contains(t, o.Verdict.Infra.Error(), "scheduler_test.go")
		for _, w := range src.workers {
			assert.Error(t, w.reason)
		}
		src.released(t)
	})
}

func TestAPanicOfASourceEndsByTheRespawnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) { panic("no pool") }}
		s, err := New[string, string](panicky{src}, Config{Respawns: 2})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasksNamed("a")...))
		begun := time.Now()
		all := collect(t.Context(), s)
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrRespawns)
		assert.Contains(t, all["a"].Cause, "no pool")
		assert.Equal(t, 3*time.Second, time.Since(begun), "backs off 1 s, 2 s")
	})
}

type panicky struct{ *fakeSource }

func (p panicky) Worker(context.Context, Demand) (Worker[string, string], error) { panic("no pool") }

func TestWhatIsImpossibleIsErroredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(_ context.Context, _ int, d Demand) (*fakeWorker, error) {
			if d.Labels["os"] == "plan9" {
				return nil, fmt.Errorf("%w: there are debian-12, alpine", ErrImpossible)
			}
			return &fakeWorker{}, nil
		}}
		tasks := tasksNamed("a", "b", "c")
		tasks[0].Labels = map[string]string{"os": "plan9"}
		tasks[1].Labels = map[string]string{"os": "plan9"}
		tasks[1].Group = "g"
		late := after("late", "c")
		late.Labels = map[string]string{"os": "plan9"}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2}, append(tasks, late, after("d", "a"))...))
		assert.Equal(t, map[string]string{"a": Errored, "b": Errored, "c": Passed, "late": Errored, "d": Blocked}, statusesOf(all))
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrImpossible)
		assert.ErrorIs(t, all["late"].Verdict.Infra, ErrImpossible)
		assert.Contains(t, all["b"].Cause, "there are debian-12, alpine")
		src.released(t)
	})
}

func TestASourceThatAlwaysFailsEndsWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) { return nil, errors.New("host is gone") }}
		begun := time.Now()
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 3}, tasksNamed("a", "b", "c", "d")...))
		assert.Len(t, all, 4)
		for _, o := range all {
			assert.Equal(t, Errored, o.Verdict.Status)
			assert.ErrorIs(t, o.Verdict.Infra, ErrRespawns)
			assert.Equal(t, "workers failed 10 times with no task ended between, last: host is gone", o.Cause)
		}
		assert.Equal(t, 7*time.Second, time.Since(begun), "three at a time, waits of 1, 2 and 4 s")
		assert.Len(t, src.demands, 12)
		src.released(t)
	})
}

func TestTheEndOfTheContextInterruptsAndAbortsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		ctx, cancel := context.WithCancelCause(t.Context())
		s := newScheduler(t, src, Config{Workers: 1}, append(tasksNamed("a", "b"), after("c", "b"))...)
		why := errors.New("ctrl-c")
		time.AfterFunc(1500*time.Millisecond, func() { cancel(why) })
		all := collect(ctx, s)
		assert.Len(t, all, 3)
		passed := 0
		for _, o := range all {
			if o.Verdict.Status == Passed {
				passed++
				continue
			}
			assert.Equal(t, Aborted, o.Verdict.Status)
		}
		assert.Equal(t, 1, passed)
		assert.Equal(t, "the run was cancelled: ctrl-c", all["c"].Cause)
		assert.ErrorIs(t, s.Err(), why)
		src.released(t)
	})
}

func TestLeavingTheLoopCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		s := newScheduler(t, src, Config{Workers: 3}, tasksNamed("a", "b", "c", "d", "e", "f")...)
		for range s.Run(t.Context()) {
			break
		}
		src.released(t)
		assert.NoError(t, s.Err())
		s2 := newScheduler(t, src, Config{Workers: 3}, tasksNamed("a", "b", "c", "d", "e", "f")...)
		assert.Panics(t, func() {
			for range s2.Run(t.Context()) {
				panic("the consumer's own")
			}
		})
		src.released(t)
	})
}

func TestAWorkerThatDoesNotReturnIsGivenUpAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		free := make(chan struct{})
		src.run = func(ctx context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			<-free
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		all := collect(ctx, newScheduler(t, src, Config{Grace: time.Minute, GraceMargin: 5 * time.Second}, tasksNamed("a", "b")...))
		assert.Equal(t, 75*time.Second, time.Since(begun))
		assert.Equal(t, map[string]string{"a": Aborted, "b": Aborted}, statusesOf(all))
		assert.Equal(t, 1, src.workers[0].released)
		assert.ErrorIs(t, src.workers[0].reason, ErrAbandoned)
		close(free)
		synctest.Wait()
	})
}

func TestATaskWhoseWorkerForgetsItsTimeoutIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.run = func(ctx context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			<-ctx.Done()
			return context.Cause(ctx)
		}
		task := tasksNamed("a")
		task[0].Timeout = time.Minute
		task[0].Attempts = 1
		begun := time.Now()
		all := collect(t.Context(), newScheduler(t, src, Config{Grace: time.Second, GraceMargin: time.Second}, task...))
		assert.Equal(t, Errored, all["a"].Verdict.Status)
		assert.Contains(t, all["a"].Verdict.Infra.Error(), "ran out of their time")
		assert.Equal(t, 62*time.Second, time.Since(begun))
		src.released(t)
	})
}

func TestEventsThatComeTwiceOrLateAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		var late func(Event[string])
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			if late != nil {
				late(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Failed}})
			}
			late = emit
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			emit(Event[string]{Task: "stranger", Started: true})
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Failed}})
			return nil
		}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Passed, "b": Passed}, statusesOf(all))
		src.released(t)
	})
}

func TestMostFailuresEndTheRunAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.run = func(ctx context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
			id := b.Tasks[0].ID
			emit(Event[string]{Task: id, Started: true})
			if strings.HasPrefix(id, "bad") {
				time.Sleep(time.Second)
				emit(Event[string]{Task: id, Verdict: Verdict{Status: Failed}})
				return nil
			}
			<-ctx.Done()
			emit(Event[string]{Task: id, Verdict: Verdict{Status: Aborted}})
			return nil
		}
		s := newScheduler(t, src, Config{Workers: 3, MostFailures: 2, Order: Given}, tasksNamed("bad 1", "bad 2", "long", "never")...)
		begun := time.Now()
		all := collect(t.Context(), s)
		assert.Equal(t, map[string]string{"bad 1": Failed, "bad 2": Failed, "long": Aborted, "never": Aborted}, statusesOf(all))
		assert.Equal(t, time.Second, time.Since(begun))
		assert.ErrorIs(t, s.Err(), ErrMostFailures)
		src.released(t)
	})
}

func TestThePendingLimitEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(ctx context.Context, _ int, d Demand) (*fakeWorker, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}}
		tasks := tasksNamed("hour", "default", "never")
		tasks[0].PendingLimit = time.Hour
		tasks[2].PendingLimit = -1
		ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		s := newScheduler(t, src, Config{Workers: 5}, tasks...)
		begun := time.Now()
		ends := make(map[string]time.Duration)
		for o := range s.Run(ctx) {
			ends[o.Task] = time.Since(begun)
			if o.Task != "never" {
				assert.ErrorIs(t, o.Verdict.Infra, ErrPending)
				assert.Equal(t, Errored, o.Verdict.Status)
			}
		}
		assert.Equal(t, map[string]time.Duration{"hour": time.Hour, "default": 24 * time.Hour, "never": 48 * time.Hour}, ends)
		src.released(t)
		assert.Equal(t, 3, src.withdraw)
	})
}

func TestHoldKeepsTheRunOpenForAGenerator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		s := newScheduler(t, src, Config{Workers: 2}, tasksNamed("first")...)
		release := s.Hold()
		go func() {
			for i := range 3 {
				time.Sleep(10 * time.Second)
				assert.NoError(t, s.Add(after(fmt.Sprint("more ", i), "first")))
			}
			release()
			release()
		}()
		all := collect(t.Context(), s)
		assert.Len(t, all, 4)
		assert.Len(t, src.workers, 1, "it was kept for what was to come")
		src.released(t)
	})
}

func TestADemandIsWithdrawnWhenItIsNotNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		src.give = func(ctx context.Context, n int, d Demand) (*fakeWorker, error) {
			if n == 0 {
				return &fakeWorker{}, nil
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Hour):
				return &fakeWorker{}, nil
			}
		}
		begun := time.Now()
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 4}, tasksNamed("a", "b", "c", "d", "e")...))
		assert.Len(t, all, 5)
		assert.Equal(t, 5*time.Second, time.Since(begun))
		assert.Equal(t, 3, src.withdraw)
		assert.Len(t, src.demands, 4)
		src.released(t)
	})
}

func TestGroupsGoWholeAndInOneBatchUnlessTheyAreTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		var tasks []Task[string]
		for g := range 20 {
			for i := range 3 {
				tasks = append(tasks, Task[string]{ID: fmt.Sprintf("g%d/%d", g, i), Group: fmt.Sprint("g", g), Estimate: time.Second})
			}
		}
		for i := range 40 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprintf("big/%d", i), Group: "big", Estimate: time.Second})
		}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 4}, tasks...))
		assert.Len(t, all, 100)
		for _, w := range src.workers {
			for _, b := range w.batches {
				if strings.HasPrefix(b[0], "big") {
					assert.LessOrEqual(t, len(b), 6, "a quarter of the fair share of 25 s")
				} else {
					assert.Len(t, b, 3)
				}
				group, _, _ := strings.Cut(b[0], "/")
				assert.False(t, slices.ContainsFunc(b, func(id string) bool { return !strings.HasPrefix(id, group+"/") }))
			}
		}
		src.released(t)
	})
}
