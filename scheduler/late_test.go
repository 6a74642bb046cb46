package scheduler

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestALateVerdictOfALostAttemptIsNotThatOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late func(Event[string])
		src := &fakeSource{}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			emit(Event[string]{Task: "a", Started: true})
			if late == nil {
				late = emit
				return errors.New("the channel broke")
			}
			late(Event[string]{Task: "a", Verdict: Verdict{Status: Failed}})
			time.Sleep(time.Second)
			emit(Event[string]{Task: "a", Verdict: Verdict{Status: Passed}})
			return nil
		}
		all := collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a")...))
		assert.Equal(t, Passed, all["a"].Verdict.Status)
		assert.Len(t, all["a"].Attempts, 2)
		src.released(t)
	})
}

func TestTheMachineItselfTakesAVerdictOnce(t *testing.T) {
	t.Parallel()
	conf, err := Config{}.filled()
	require.NoError(t, err)
	m := newMachine(conf)
	for _, in := range []input{
		{Kind: inAdd, Specs: []spec{{ID: "a"}, {ID: "b"}}}, {Kind: inStart}, {Kind: inArrived, Name: "vm", Batches: -1},
		{Kind: inEnded, Status: Passed}, {Kind: inEnded, Status: Failed}, {Kind: inEnded, Task: 1, Status: Failed},
	} {
		require.NoError(t, m.feed(&in))
	}
	assert.Equal(t, 1, m.byStatus[statusPassed])
	assert.Zero(t, m.byStatus[statusFailed])
	assert.Equal(t, 1, m.unfinished)
}

func TestNoWorkerIsAskedForToWaitBehindAnExclusiveTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		tasks := tasksNamed("alone", "a", "b", "c")
		tasks[0].Exclusive = true
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 3, Idle: -1, Order: Given}, tasks...))
		assert.Len(t, all, 4)
		assert.LessOrEqual(t, len(src.demands), 10, "no asking and letting go in turn")
		src.released(t)
	})
}

func TestABatchThatWasInterruptedBeforeItBeganIsNotBegun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("ctrl-c")
	cancel(why)
	r := &run[string, string]{}
	err, panicked := r.work(&running[string, string]{ctx: ctx}, &fakeWorker{}, Batch[string]{})
	assert.ErrorIs(t, err, why)
	assert.False(t, panicked)
}

func TestTwoDemandsOfAGivenUpSourceLeaveNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			time.Sleep(time.Hour)
			return &fakeWorker{}, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := newScheduler(t, src, Config{Workers: 2, Grace: time.Minute}, tasksNamed("a", "b")...)
		assert.Len(t, collect(ctx, s), 2)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		src.released(t)
		assert.Empty(t, s.m.workers)
		assert.Len(t, s.m.freeDemand, 2)
	})
}
