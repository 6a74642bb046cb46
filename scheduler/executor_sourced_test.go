package scheduler

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnExecutorWithASourceRunsTasksOnItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var scripts []string
		src := &fakeSource{}
		src.give = func(_ context.Context, n int, _ Demand) (*fakeWorker, error) {
			if n == 0 {
				return nil, Infra(fmt.Errorf("no machine"))
			}
			return &fakeWorker{info: WorkerInfo{Name: fmt.Sprint("vm-", n), Labels: map[string]string{"os": "linux", "executor": "forged"}, MaxTasks: 7}}, nil
		}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			mu.Lock()
			scripts = append(scripts, b.Executor+": "+b.BeforeScript)
			mu.Unlock()
			return second(ctx, w, b, emit)
		}
		var r Registry[string, string]
		require.NoError(t, r.Register(Executor[string, string]{Name: "vms", Source: src, MaxJobs: 2, BeforeScript: "umask 077",
			Labels: map[string]string{"zone": "a"}, Account: "lab", MaxPendTime: time.Hour}))
		require.NoError(t, r.Register(Executor[string, string]{Name: "slurm", Submitter: newQueueing()}))
		assert.Contains(t, r.String(), "vms: runs on workers of its own, 0 jobs of 2, account lab, before script")
		tasks := tasksNamed("a", "b", "c", "d", "e")
		for i := range tasks {
			tasks[i].Labels = map[string]string{ExecutorLabel: "vms", "zone": "a", "os": "linux"}
		}
		require.NoError(t, r.Assign(tasks))
		assert.Equal(t, "lab", tasks[0].Account)
		assert.Equal(t, time.Hour, tasks[0].PendingLimit)
		s, err := New[string, string](&r, Config{Workers: 9, Executors: r.Limits(), Idle: -1})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		for id, o := range collect(t.Context(), s) {
			assert.Equal(t, Passed, o.Verdict.Status, id)
			assert.Contains(t, o.Worker, "vm-")
		}
		src.released(t)
		assert.Equal(t, 2, src.most, "MaxJobs bounds its workers")
		for _, d := range src.demands {
			assert.Equal(t, map[string]string{"os": "linux"}, d.Labels, "what the executor has is not asked for")
		}
		assert.Len(t, scripts, 5)
		for _, text := range scripts {
			assert.Equal(t, "vms: umask 077", text)
		}
		assert.Contains(t, r.String(), "vms: runs on workers of its own, 0 jobs of 2", "every place was given back, after an error too")
		assert.Empty(t, r.Jobs())
		_, err = r.Choose(Task[string]{ID: "x", Labels: map[string]string{ExecutorLabel: "vms", "zone": "b"}})
		assert.ErrorContains(t, err, `"vms" does not fit: its zone is a, not b`)
	})
}

func TestAJobThatItsWorkerForgetsIsUnderWayNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, most := 0, 0
		var mu sync.Mutex
		src := &fakeSource{info: WorkerInfo{MaxTasks: 7, Batches: -1}, run: func(_ context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			return nil // without an end
		}}
		var r Registry[string, string]
		require.NoError(t, r.Register(Executor[string, string]{Name: "vms", Source: src, MaxJobs: 2}))
		tasks := tasksNamed("a", "b", "c", "d", "e", "f")
		require.NoError(t, r.Assign(tasks))
		s, err := New[string, string](&r, Config{Workers: 9, Attempts: 1}) // without Registry.Limits
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		for id, o := range collect(t.Context(), s) {
			assert.Equal(t, Errored, o.Verdict.Status, id)
		}
		assert.Empty(t, r.Jobs())
		assert.Equal(t, 2, most, "a worker has one of the executor's places, however many tasks it could take")
	})
}

func TestTheTaskWaitsForAnExecutorsWorkerNoLongerThanMaxPendTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(ctx context.Context, _ int, _ Demand) (*fakeWorker, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}}
		begun := time.Now()
		all := onExecutor(t, Config{}, Executor[string, string]{Name: "vms", Source: src, MaxPendTime: time.Minute}, tasksNamed("a")...)
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrPending)
		assert.Equal(t, time.Minute, time.Since(begun))
		src.released(t)
	})
}

func TestJobsTellTheStatesOfWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		q.script["stops"] = []at{{0, JobPending, 0}, {5 * time.Second, JobRunning, 0}, {15 * time.Second, JobSuspended, 0}, {25 * time.Second, JobRunning, 0}, {35 * time.Second, JobComplete, 0}}
		q.script["odd"] = []at{{0, "NODE?", 0}, {22 * time.Second, JobComplete, 0}}
		var mu sync.Mutex
		var told []string
		var r Registry[string, string]
		src := &fakeSource{run: func(_ context.Context, _ *fakeWorker, b Batch[string], emit func(Event[string])) error {
			time.Sleep(12 * time.Second) // such as a job disk that is written
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			time.Sleep(12 * time.Second)
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
			time.Sleep(time.Hour)
			return nil
		}}
		require.NoError(t, r.Register(Executor[string, string]{Name: "vms", Source: src}))
		require.NoError(t, r.Register(Executor[string, string]{Name: "batch", Submitter: q, PollInterval: 10 * time.Second, MaxPollInterval: 10 * time.Second, Account: "lab",
			Polled: func(j JobInfo) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprintf("%s %s %d", j.Task, j.State, j.Polls))
			}}))
		tasks := tasksNamed("stops", "odd", "machine")
		for i, name := range []string{"batch", "batch", "vms"} {
			tasks[i].Labels = map[string]string{ExecutorLabel: name}
		}
		require.NoError(t, r.Assign(tasks))
		s, err := New[string, string](&r, Config{Workers: 9})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		seen := make(map[int]string) // by seconds
		done := make(chan struct{})
		go func() {
			defer close(done)
			begun := time.Now()
			time.Sleep(time.Second)
			for range 5 {
				synctest.Wait()
				for _, j := range r.Jobs() {
					seen[int(time.Since(begun).Seconds())] += fmt.Sprintf("%s %s since %v; ", j.Task, j.State, j.Since.Sub(j.Begun))
					assert.Equal(t, j.Task != "machine", j.ID != "", "only jobs of queueing systems have an id")
					assert.Equal(t, 1, j.Attempt)
					if j.Executor == "batch" {
						assert.Equal(t, "lab", j.Account)
					}
					if j.State == JobUnknown {
						assert.Contains(t, j.Reason, "NODE?")
					}
				}
				time.Sleep(10 * time.Second)
			}
		}()
		collect(t.Context(), s)
		<-done
		assert.Equal(t, map[int]string{
			1:  "machine pending since 0s; odd pending since 0s; stops pending since 0s; ",
			11: "machine pending since 0s; odd unknown since 10s; stops running since 10s; ",
			21: "machine running since 12s; odd unknown since 10s; stops suspended since 20s; ",
			31: "stops running since 30s; ",
		}, seen)
		assert.ElementsMatch(t, []string{"stops running 1", "stops suspended 2", "stops running 3", "stops complete 4", "odd unknown 1", "odd unknown 2", "odd complete 3"}, told)
		assert.Empty(t, r.Jobs())
	})
}
