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

func TestTasksThatAreToBeApartNeverShareAWorker(t *testing.T) {
	for _, c := range []struct {
		workers, maxTasks, batches int
	}{{1, 1, -1}, {3, 1, -1}, {2, 4, -1}, {2, 1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			src := &fakeSource{info: WorkerInfo{MaxTasks: c.maxTasks, Batches: c.batches}}
			var tasks []Task[string]
			for i := range 12 {
				tasks = append(tasks, Task[string]{ID: fmt.Sprint("a", i), Apart: "license", Group: "g", Estimate: time.Millisecond},
					Task[string]{ID: fmt.Sprint("b", i), Group: "g", Estimate: time.Millisecond})
			}
			all := collect(t.Context(), newScheduler(t, src, Config{Workers: c.workers, Whole: true}, tasks...))
			assert.Len(t, all, 24)
			for _, w := range src.workers {
				n := 0
				for _, b := range w.batches {
					for _, id := range b {
						if id[0] == 'a' {
							n++
							assert.Len(t, b, 1)
						}
					}
				}
				assert.LessOrEqual(t, n, 1, "on %s: %v", w.info.Name, w.batches)
			}
			src.released(t)
		})
	}
}

func TestASecondWorkerOfANameIsReleasedUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(_ context.Context, n int, _ Demand) (*fakeWorker, error) {
			return &fakeWorker{info: WorkerInfo{Name: []string{"vm-1", "vm-1", "vm-2"}[min(n, 2)], Batches: -1}}, nil
		}}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2}, tasksNamed("a", "b", "c", "d")...))
		assert.Equal(t, map[string]string{"a": Passed, "b": Passed, "c": Passed, "d": Passed}, statusesOf(all))
		require.Len(t, src.workers, 3)
		unused := 0
		for _, w := range src.workers {
			if len(w.batches) == 0 {
				unused++
				assert.EqualError(t, w.reason, "the source gave worker vm-1, which the run holds already")
			}
		}
		assert.Equal(t, 1, unused)
		src.released(t)
		// One after the other the same name is fine: a machine rolled back.
		src = &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			return &fakeWorker{info: WorkerInfo{Name: "vm-1"}}, nil
		}}
		assert.Len(t, collect(t.Context(), newScheduler(t, src, Config{}, tasksNamed("a", "b", "c")...)), 3)
		for _, w := range src.workers {
			assert.NoError(t, w.reason)
		}
	})
}

func TestLabelsThatNobodyAnswersDoNotHoldAllRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(3 * time.Hour)
		src := &fakeSource{}
		src.give = func(ctx context.Context, n int, d Demand) (*fakeWorker, error) {
			if d.Labels["cpu"] == "s390x" {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(time.Until(up)):
				}
			}
			return &fakeWorker{info: WorkerInfo{Name: fmt.Sprint("vm-", n), Labels: d.Labels}}, nil
		}
		var tasks []Task[string]
		for i := range 5 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprint("rare", i), Priority: 9, Labels: map[string]string{"cpu": "s390x"}})
		}
		for i := range 4 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprint("usual", i), Labels: map[string]string{"cpu": "x86"}})
		}
		begun := time.Now()
		s := newScheduler(t, src, Config{Workers: 2, Rotate: time.Minute}, tasks...)
		ends := make(map[string]time.Duration)
		for o := range s.Run(t.Context()) {
			assert.Equal(t, Passed, o.Verdict.Status)
			ends[o.Task] = time.Since(begun)
		}
		assert.Len(t, ends, 9)
		for i := range 4 {
			assert.Less(t, ends[fmt.Sprint("usual", i)], 2*time.Minute, "%v", ends)
		}
		for i := range 5 {
			assert.Less(t, ends[fmt.Sprint("rare", i)], 3*time.Hour+time.Minute)
		}
		src.released(t)
	})
}

func TestBootsThatAreLongerThanATurnStillArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.give = func(ctx context.Context, n int, d Demand) (*fakeWorker, error) {
			select { // a boot that begins anew each time that it is taken back
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(7 * time.Minute):
			}
			return &fakeWorker{info: WorkerInfo{Name: fmt.Sprint("vm-", n), Labels: d.Labels}}, nil
		}
		var tasks []Task[string]
		for i := range 9 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprint(i), Labels: map[string]string{"os": fmt.Sprint(i % 3)}})
		}
		begun := time.Now()
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 1, Rotate: time.Minute}, tasks...))
		for _, o := range all {
			assert.Equal(t, Passed, o.Verdict.Status)
		}
		assert.Len(t, all, 9)
		assert.Less(t, time.Since(begun), 4*time.Hour)
		src.released(t)
	})
}

func TestKindsThatDieEndTheirTasksInTheOrderInWhichTheyWereAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			return nil, fmt.Errorf("%w: no such image", ErrImpossible)
		}}
		// Queues hold them by estimate, by group and by class (account, serial),
		// none of it in the order in which they were added.
		var tasks []Task[string]
		var want []string
		for i := range 60 {
			task := Task[string]{ID: fmt.Sprint("t", i), Estimate: time.Duration(1+i*37%60) * time.Second, Serial: i%7 == 3}
			if i%4 == 1 {
				task.Group = fmt.Sprint("g", i%3)
			}
			if i%5 == 2 {
				task.Account = "x"
			}
			tasks = append(tasks, task)
			want = append(want, task.ID)
		}
		s := newScheduler(t, src, Config{Accounts: map[string]int{"x": 2}}, tasks...)
		var got []string
		for o := range s.Run(t.Context()) {
			got = append(got, o.Task)
			assert.Equal(t, Errored, o.Verdict.Status)
			assert.ErrorIs(t, o.Verdict.Infra, ErrImpossible)
			assert.False(t, errors.Is(o.Verdict.Infra, ErrLost))
		}
		assert.Equal(t, want, got)
	})
}

func TestTheOldestDemandMakesWayFirst(t *testing.T) {
	t.Parallel()
	conf, err := Config{Workers: 2, Rotate: time.Minute}.filled()
	require.NoError(t, err)
	m := newMachine(conf)
	var withdrawn []string
	feed := func(at time.Duration, in input) {
		in.At = at
		require.NoError(t, m.feed(&in))
		for _, a := range m.out {
			if a.kind == doWithdraw {
				withdrawn = append(withdrawn, m.ids[m.demands[a.id].task])
			}
		}
		m.out = m.out[:0]
	}
	wants := func(id string) []spec {
		return []spec{{ID: id, Estimate: time.Second, Labels: map[string]string{"for": id}}}
	}
	feed(0, input{Kind: inStart})
	feed(0, input{Kind: inAdd, Specs: wants("older")})
	feed(30*time.Second, input{Kind: inAdd, Specs: wants("newer")})
	feed(45*time.Second, input{Kind: inAdd, Specs: wants("usual")})
	assert.Empty(t, withdrawn, "none is old yet")
	feed(50*time.Second, input{Kind: inTick})
	assert.Empty(t, withdrawn)
	feed(2*time.Minute, input{Kind: inTick})
	assert.Equal(t, []string{"older"}, withdrawn, "one at a time, the oldest")
	feed(2*time.Minute, input{Kind: inRefused, ID: 0, Text: "context canceled"})
	assert.Equal(t, []string{"older", "newer"}, withdrawn, "then the next, for the one that made way: they take turns")
	assert.Len(t, m.classes[m.tasks[2].class].demands, 1, "there is room for it now")
	explained, err := m.explain("older", 2*time.Minute)
	require.NoError(t, err)
	assert.Contains(t, explained, "wants a worker with for=older")
}
