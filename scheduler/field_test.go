package scheduler

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What shipped broken elsewhere: FIELD.md (c) 22 to 28.

func TestField22UnfinishedUnitsOfADeadWorkerComeBackAndAreNotEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		died := false
		src := &fakeSource{}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			assert.NotEmpty(t, b.Tasks)
			if !died {
				died = true
				emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
				emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
				emit(Event[string]{Task: b.Tasks[1].ID, Started: true})
				return Infra(errors.New("killed"))
			}
			return second(ctx, w, b, emit)
		}
		var tasks []Task[string]
		for i := range 4 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprint(i), Group: "module", Estimate: time.Second})
		}
		all := collect(t.Context(), newScheduler(t, src, Config{Whole: true, Order: Given}, tasks...))
		assert.Equal(t, map[string]string{"0": Passed, "1": Passed, "2": Passed, "3": Passed}, statusesOf(all))
		assert.Len(t, all["0"].Attempts, 1, "what had ended is not run again")
		assert.Len(t, all["1"].Attempts, 2)
		assert.ErrorIs(t, all["1"].Attempts[0].Verdict.Infra, ErrLost)
		assert.Len(t, all["2"].Attempts, 1, "what had not begun goes back untouched")
		src.released(t)
	})
}

func TestField22ARespawnLoopEndsAtItsLimitWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: func(context.Context, *fakeWorker, Batch[string], func(Event[string])) error {
			return errors.New("agent does not start")
		}}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2, Respawns: 4}, tasksNamed("a", "b", "c")...))
		assert.Len(t, all, 3)
		for _, o := range all {
			assert.ErrorIs(t, o.Verdict.Infra, ErrRespawns)
			assert.Contains(t, o.Cause, "agent does not start")
		}
		assert.LessOrEqual(t, len(src.workers), 6)
		src.released(t)
	})
}

func TestField22APoisonTestEndsAndTheOthersPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			if b.Tasks[0].ID == "poison" {
				emit(Event[string]{Task: "poison", Started: true})
				return errors.New("the machine is gone")
			}
			return second(ctx, w, b, emit)
		}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2, Attempts: 10, PoisonAfter: 2}, tasksNamed("a", "poison", "b", "c")...))
		assert.Equal(t, map[string]string{"a": Passed, "b": Passed, "c": Passed, "poison": Errored}, statusesOf(all))
		assert.ErrorIs(t, all["poison"].Verdict.Infra, ErrPoison)
		assert.Len(t, all["poison"].Attempts, 2)
		assert.Contains(t, all["poison"].Verdict.Infra.Error(), "the machine is gone")
		src.released(t)
	})
}

func TestField23AWorkerThatReturnsWithoutAWordIsReplacedAndItsTasksRunElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			if w.n == 0 {
				return nil
			}
			return second(ctx, w, b, emit)
		}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Passed, "b": Passed}, statusesOf(all))
		assert.ErrorContains(t, src.workers[0].reason, "worker vm-0 returned without ending 1 of its tasks")
		assert.Len(t, src.workers, 2)
		src.released(t)
	})
}

func TestField24ATaskIsReportedOnceHoweverOftenItIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			for range 3 {
				if err := second(ctx, w, b, emit); err != nil {
					return err
				}
			}
			return errors.New("dies after all was said") // a restart after passes must not run them again
		}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Passed, "b": Passed}, statusesOf(all))
		assert.Len(t, all["a"].Attempts, 1)
		assert.Len(t, src.workers, 2)
		src.released(t)
	})
}

func TestField25BlockedTasksAreReportedEvenAsTheLastAndNothingIsABarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: verdicts(map[string]Verdict{"a": {Status: Failed}})}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a")[0], after("last", "a")))
		assert.Equal(t, map[string]string{"a": Failed, "last": Blocked}, statusesOf(all))
		// A limit of two is no batch of two: the third starts when one ends.
		src = &fakeSource{run: func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			time.Sleep(map[string]time.Duration{"long": 10 * time.Second}[b.Tasks[0].ID] + time.Second)
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
			return nil
		}}
		begun := time.Now()
		collect(t.Context(), newScheduler(t, src, Config{Workers: 2, Order: Given}, tasksNamed("long", "b", "c", "d", "e")...))
		assert.Equal(t, 11*time.Second, time.Since(begun))
	})
}

func TestField25AnUnknownTerminalStateIsAnErrorNotAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: verdicts(map[string]Verdict{"a": {Status: "NODE_FAIL"}, "b": {}})}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Errored, "b": Errored}, statusesOf(all))
		assert.Equal(t, `the worker ended it with the unknown status "NODE_FAIL"`, all["a"].Cause)
		assert.ErrorIs(t, all["b"].Verdict.Infra, ErrInfra)
	})
}

func TestField26AWorkerThatArrivesAsItsDemandIsWithdrawnIsReleasedOrUsedNeverBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(ctx context.Context, n int, _ Demand) (*fakeWorker, error) {
			if n > 0 {
				<-ctx.Done() // and still there is one
			}
			return &fakeWorker{info: WorkerInfo{Name: fmt.Sprint("vm-", n), Batches: -1}}, nil
		}}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 3}, tasksNamed("a", "b", "c", "d")...))
		assert.Len(t, all, 4)
		assert.Len(t, src.workers, 3)
		src.released(t)
	})
}

func TestField26AnIdleWorkerIsNotReleasedUnderANewBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The second task becomes ready in the very instant in which the idle
		// worker's time is over.
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			w.s.mu.Lock()
			assert.Zero(t, w.released)
			w.s.mu.Unlock()
			return second(ctx, w, b, emit)
		}
		s := newScheduler(t, src, Config{Workers: 2, Idle: 10 * time.Second}, tasksNamed("a")...)
		release := s.Hold()
		for i := range 5 {
			time.AfterFunc(time.Duration(i+1)*11*time.Second, func() { assert.NoError(t, s.Add(tasksNamed(fmt.Sprint("b", i))...)) })
		}
		time.AfterFunc(70*time.Second, release)
		assert.Len(t, collect(t.Context(), s), 6)
		src.released(t)
	})
}

func TestField27AttemptsAreCountedExactly(t *testing.T) {
	for attempts := 1; attempts <= 4; attempts++ {
		synctest.Test(t, func(t *testing.T) {
			src := &fakeSource{run: verdicts(map[string]Verdict{"a": {Infra: errors.New("x")}, "b": {Infra: errors.New("x")}})}
			tasks := tasksNamed("a", "b")
			tasks[1].Attempts = 2
			all := collect(t.Context(), newScheduler(t, src, Config{Attempts: attempts, PoisonAfter: 9}, tasks...))
			assert.Len(t, all["a"].Attempts, attempts)
			assert.Len(t, all["b"].Attempts, 2, "the task's own number goes first")
		})
	}
}

func TestField27AWorkerIsFreeEvenIfItsReleaseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.give = func(context.Context, int, Demand) (*fakeWorker, error) {
			return &fakeWorker{release: func(context.Context) error { return errors.New("bookkeeping failed") }}, nil
		}
		assert.Len(t, collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b", "c")...)), 3)
		src.released(t)
	})
}

func TestField28ACancelledTaskSaysNothingBadOfItsWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		all := collect(ctx, newScheduler(t, src, Config{}, tasksNamed("a")...))
		assert.Equal(t, Aborted, all["a"].Verdict.Status)
		assert.NoError(t, src.workers[0].reason)
		// A result that could not be fetched is one attempt, not the run's end.
		src = &fakeSource{run: verdicts(map[string]Verdict{"a": {Status: Passed, Infra: errors.New("artifact not fetched")}})}
		all = collect(t.Context(), newScheduler(t, src, Config{Attempts: 1}, tasksNamed("a", "b")...))
		assert.Equal(t, map[string]string{"a": Errored, "b": Passed}, statusesOf(all))
		require.Error(t, all["a"].Verdict.Infra)
	})
}
