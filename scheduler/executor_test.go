package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at is the state of a job from an instant after its Submit.
type at struct {
	from  time.Duration
	state JobState
	exit  int
}

// queueing is a queueing system with scripted jobs.
type queueing struct {
	mu      sync.Mutex
	script  map[string][]at // by task; none: pending 10 s, running 20 s, complete
	verdict map[string]Verdict
	submit  func(j Job[string]) error
	poll    func(id string) error
	deaf    bool // Cancel does nothing
	jobs    map[string]*fakeJob
	order   []Job[string]
	polls   []time.Duration // since the start of the test
	begun   time.Time
	now     int // jobs that are not final
	most    int
}

type fakeJob struct {
	task      string
	at        time.Time
	cancelled time.Time
	final     bool
}

func newQueueing() *queueing {
	return &queueing{jobs: make(map[string]*fakeJob), begun: time.Now(), script: make(map[string][]at), verdict: make(map[string]Verdict)}
}

func (q *queueing) Submit(_ context.Context, j Job[string]) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order = append(q.order, j)
	if q.submit != nil {
		if err := q.submit(j); err != nil {
			return "", err
		}
	}
	id := fmt.Sprint("job-", len(q.order))
	q.jobs[id] = &fakeJob{task: j.Task.ID, at: time.Now()}
	q.now++
	q.most = max(q.most, q.now)
	return id, nil
}

func (q *queueing) Poll(_ context.Context, id string) (JobStatus[string], error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.polls = append(q.polls, time.Since(q.begun))
	if q.poll != nil {
		if err := q.poll(id); err != nil {
			return JobStatus[string]{}, err
		}
	}
	j := q.jobs[id]
	script := q.script[j.task]
	if script == nil {
		script = []at{{0, JobPending, 0}, {10 * time.Second, JobRunning, 0}, {30 * time.Second, JobComplete, 0}}
	}
	now := script[0]
	for _, a := range script {
		if time.Since(j.at) >= a.from && (j.cancelled.IsZero() || a.state.Final() && !j.at.Add(a.from).After(j.cancelled)) {
			now = a
		}
	}
	if !j.cancelled.IsZero() && !now.state.Final() {
		now = at{0, JobCancelled, 0}
	}
	if now.state.Final() && !j.final {
		j.final = true
		q.now--
	}
	return JobStatus[string]{State: now.state, Exit: now.exit, Result: id, Verdict: q.verdict[j.task]}, nil
}

func (q *queueing) Cancel(_ context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs[id].cancelled.IsZero() && !q.deaf {
		q.jobs[id].cancelled = time.Now()
	}
	return nil
}

// settled says that no job is left behind.
func (q *queueing) settled(t *testing.T) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	assert.Zero(t, q.now, "jobs that were left behind")
}

func onExecutor(t *testing.T, c Config, e Executor[string, string], tasks ...Task[string]) map[string]Outcome[string] {
	t.Helper()
	var r Registry[string, string]
	require.NoError(t, r.Register(e))
	require.NoError(t, r.Assign(tasks))
	c.Executors = r.Limits()
	s, err := New[string, string](&r, c)
	require.NoError(t, err)
	require.NoError(t, s.Add(tasks...))
	all := collect(t.Context(), s)
	assert.Contains(t, r.String(), " 0 jobs of", "every place was given back")
	return all
}

func TestASubmittedJobIsPolledToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		q.script["bad"] = []at{{0, JobPending, 0}, {5 * time.Second, JobComplete, 3}}
		q.script["worse"] = []at{{0, JobRunning, 0}, {5 * time.Second, JobSuspended, 0}, {9 * time.Second, JobFailed, 1}}
		q.script["node"] = []at{{0, JobFailed, 0}}
		q.verdict["node"] = Verdict{Status: Errored, Infra: errors.New("NODE_FAIL")}
		all := onExecutor(t, Config{Workers: 9, Attempts: 2}, Executor[string, string]{Name: "slurm", Submitter: q,
			PollInterval: 2 * time.Second, Account: "project", BeforeScript: "module load gcc"}, tasksNamed("good", "bad", "worse", "node")...)
		assert.Equal(t, map[string]string{"good": Passed, "bad": Failed, "worse": Failed, "node": Errored}, statusesOf(all))
		assert.Equal(t, 3, all["bad"].Verdict.Exit)
		assert.Len(t, all["node"].Attempts, 2, "the environment's failure is tried again")
		assert.Contains(t, all["good"].Result, "job-")
		assert.Equal(t, "project", q.order[0].Account)
		assert.Equal(t, "module load gcc", q.order[0].BeforeScript)
		assert.Equal(t, "slurm", q.order[0].Executor)
		q.settled(t)
	})
}

func TestPollingBacksOffAndStartsAnewWithEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		q.script["a"] = []at{{0, JobPending, 0}, {40 * time.Second, JobRunning, 0}, {60 * time.Second, JobComplete, 0}}
		onExecutor(t, Config{}, Executor[string, string]{Name: "pbs", Submitter: q, PollInterval: 4 * time.Second, MaxPollInterval: 10 * time.Second}, tasksNamed("a")...)
		var got []float64
		for _, p := range q.polls {
			got = append(got, p.Seconds())
		}
		// 4, then by half to 10; at 49 it is seen running: 4 again.
		assert.Equal(t, []float64{4, 10, 19, 29, 39, 49, 53, 59, 68}, got)
	})
}

func TestAJobThatWaitsTooLongInItsQueueIsCancelledAndNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		for _, id := range []string{"own", "its"} {
			q.script[id] = []at{{0, JobPending, 0}, {time.Second, JobSuspended, 0}, {time.Second, JobPending, 0}}
		}
		// It gets its place in the moment in which it is cancelled: its end is its own.
		q.script["race"] = []at{{0, JobPending, 0}, {90 * time.Second, JobComplete, 7}}
		tasks := tasksNamed("own", "its", "race")
		tasks[0].PendingLimit = 70 * time.Second
		begun := time.Now()
		all := onExecutor(t, Config{Workers: 3}, Executor[string, string]{Name: "lsf", Submitter: q, MaxPendTime: 90 * time.Second}, tasks...)
		assert.Equal(t, map[string]string{"own": Errored, "its": Errored, "race": Failed}, statusesOf(all))
		assert.Equal(t, 7, all["race"].Verdict.Exit)
		assert.Equal(t, 90*time.Second, time.Since(begun), "deadlines do not wait for the next poll")
		for id, limit := range map[string]string{"own": "1m10s", "its": "1m30s"} {
			assert.ErrorIs(t, all[id].Verdict.Infra, ErrPending)
			assert.ErrorIs(t, all[id].Verdict.Infra, ErrInfra)
			assert.ErrorContains(t, all[id].Verdict.Infra, "is pending for "+limit)
			assert.Len(t, all[id].Attempts, 1)
		}
		q.settled(t)
	})
}

func TestAJobsOwnTimeBeginsWhenItRunsNotInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		q.script["long"] = []at{{0, JobPending, 0}, {2 * time.Hour, JobRunning, 0}, {3 * time.Hour, JobComplete, 0}}
		q.script["short"] = []at{{0, JobPending, 0}, {2 * time.Hour, JobRunning, 0}, {2*time.Hour + 20*time.Second, JobComplete, 0}}
		tasks := tasksNamed("long", "short")
		tasks[0].Timeout, tasks[1].Timeout = time.Minute, time.Minute
		begun := time.Now()
		all := onExecutor(t, Config{Workers: 2}, Executor[string, string]{Name: "lsf", Submitter: q, PollInterval: 30 * time.Second, MaxPollInterval: 30 * time.Second}, tasks...)
		assert.Equal(t, map[string]string{"long": TimedOut, "short": Passed}, statusesOf(all))
		assert.Equal(t, 2*time.Hour+time.Minute, time.Since(begun))
		q.settled(t)
	})
}

func TestAStateThatNobodyKnowsEndsByItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		q.script["odd"] = []at{{0, JobPending, 0}, {10 * time.Second, "BOOT_FAIL", 0}}
		q.script["dark"] = []at{{0, JobPending, 0}, {10 * time.Second, JobUnknown, 0}}
		q.script["short"] = []at{{0, JobPending, 0}, {10 * time.Second, JobUnknown, 0}, {2 * time.Minute, JobRunning, 0},
			{3 * time.Minute, JobUnknown, 0}, {7 * time.Minute, JobComplete, 0}}
		begun := time.Now()
		all := onExecutor(t, Config{Workers: 3, Attempts: 1}, Executor[string, string]{Name: "cobalt", Submitter: q, PollInterval: 5 * time.Second,
			MaxPollInterval: 5 * time.Second, UnknownTimeout: 5 * time.Minute}, tasksNamed("odd", "dark", "short")...)
		assert.Equal(t, map[string]string{"odd": Errored, "dark": Errored, "short": Passed}, statusesOf(all))
		assert.ErrorIs(t, all["odd"].Verdict.Infra, ErrJobUnknown)
		assert.ErrorContains(t, all["odd"].Verdict.Infra, `state "BOOT_FAIL"`)
		assert.ErrorIs(t, all["dark"].Verdict.Infra, ErrJobUnknown)
		assert.Equal(t, 7*time.Minute, time.Since(begun))
		q.settled(t)
	})
}

func TestErrorsOfTheQueueingSystemAreTheEnvironments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		once := 0
		q.submit = func(Job[string]) error {
			if once++; once == 1 {
				return errors.New("socket timed out")
			}
			return nil
		}
		polls := 0
		q.poll = func(string) error {
			if polls++; polls < 3 {
				return errors.New("squeue: try again")
			}
			return nil
		}
		all := onExecutor(t, Config{}, Executor[string, string]{Name: "slurm", Submitter: q}, tasksNamed("a")...)
		assert.Equal(t, Passed, all["a"].Verdict.Status)
		require.Len(t, all["a"].Attempts, 2)
		assert.ErrorContains(t, all["a"].Attempts[0].Verdict.Infra, "submit: socket timed out")
		assert.Equal(t, 2, q.order[1].Attempt)
		// Polls that fail for good are a state that is not known.
		q.poll = func(string) error { return errors.New("munge is down") }
		q.deaf = true
		all = onExecutor(t, Config{}, Executor[string, string]{Name: "slurm", Submitter: q}, tasksNamed("a")...)
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrJobUnknown)
		assert.ErrorIs(t, all["a"].Verdict.Infra, ErrAbandoned)
		assert.ErrorContains(t, all["a"].Verdict.Infra, "munge is down")
		assert.Len(t, all["a"].Attempts, 1, "it may still run: never twice at once")
	})
}

func TestACancelledRunCancelsItsJobsAndWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueing()
		var r Registry[string, string]
		require.NoError(t, r.Register(Executor[string, string]{Name: "slurm", Submitter: q, MaxJobs: 2}))
		s, err := New[string, string](&r, Config{Workers: 5, Executors: r.Limits()})
		require.NoError(t, err)
		tasks := tasksNamed("a", "b", "c")
		require.NoError(t, r.Assign(tasks))
		require.NoError(t, s.Add(tasks...))
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		all := collect(ctx, s)
		assert.Equal(t, map[string]string{"a": Aborted, "b": Aborted, "c": Aborted}, statusesOf(all))
		assert.Len(t, q.order, 2)
		q.settled(t)
	})
}

func TestMaxJobsAndAccountsAreExactAndOneExecutorDoesNotHoldUpAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := newQueueing(), newQueueing()
		var r Registry[string, string]
		require.NoError(t, r.Register(Executor[string, string]{Name: "slow", Submitter: slow, MaxJobs: 3, PollInterval: time.Second, MaxPollInterval: time.Second}))
		require.NoError(t, r.Register(Executor[string, string]{Name: "quick", Submitter: quick, Account: "p", PollInterval: time.Second, MaxPollInterval: time.Second}))
		var tasks []Task[string]
		for i := range 12 {
			tasks = append(tasks, Task[string]{ID: fmt.Sprint("s", i), Labels: map[string]string{ExecutorLabel: "slow"}, Priority: 1},
				Task[string]{ID: fmt.Sprint("q", i), Labels: map[string]string{ExecutorLabel: "quick"}})
		}
		require.NoError(t, r.Assign(tasks))
		assert.Equal(t, "p", tasks[1].Account)
		s, err := New[string, string](&r, Config{Workers: 8, Executors: r.Limits(), Accounts: map[string]int{"p": 2}})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		begun := time.Now()
		assert.Len(t, collect(t.Context(), s), 24)
		assert.Equal(t, 3, slow.most)
		assert.Equal(t, 2, quick.most)
		assert.Equal(t, 6*30*time.Second, time.Since(begun), "both at once: the slow ones take 4 times 30 s, the others 6 times")
		// Two schedulers that share a registry share its limit too.
		slow.most = 0
		var done sync.WaitGroup
		for range 2 {
			s, err := New[string, string](&r, Config{Workers: 8})
			require.NoError(t, err)
			require.NoError(t, s.Add(tasks[0], tasks[2], tasks[4], tasks[6]))
			done.Go(func() { assert.Len(t, collect(t.Context(), s), 4) })
		}
		done.Wait()
		assert.Equal(t, 3, slow.most)
	})
}

type runs func(ctx context.Context, j Job[string]) (Verdict, string)

func (f runs) Run(ctx context.Context, j Job[string]) (Verdict, string) { return f(ctx, j) }

func TestAnExecutorThatRunsIsBoundedByTheTasksTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks := tasksNamed("ends", "hangs")
		tasks[0].Timeout, tasks[1].Timeout = time.Minute, time.Minute
		local := runs(func(ctx context.Context, j Job[string]) (Verdict, string) {
			if j.Task.ID == "hangs" {
				<-ctx.Done()
				return Verdict{Status: Failed, Exit: 137}, "cut"
			}
			return Verdict{Status: Passed}, j.BeforeScript
		})
		all := onExecutor(t, Config{}, Executor[string, string]{Name: "local", Runner: local, BeforeScript: "ulimit -c 0"}, tasks...)
		assert.Equal(t, map[string]string{"ends": Passed, "hangs": TimedOut}, statusesOf(all))
		assert.Equal(t, "cut", all["hangs"].Result)
		assert.Equal(t, "ulimit -c 0", all["ends"].Result)
	})
}

func TestARegistryRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	local := runs(nil)
	var r Registry[string, string]
	_, err := r.Get("x")
	assert.EqualError(t, err, `scheduler: executor: executor "x" is not registered (there is none)`)
	require.NoError(t, r.Register(Executor[string, string]{Name: "local", Runner: local, Labels: map[string]string{"os": "linux"}}))
	for text, e := range map[string]Executor[string, string]{
		`executor "local" is registered already`:                                {Name: "local", Runner: local},
		`executor: Executor.Name is empty, want a name`:                         {Runner: local},
		`executor "a": want exactly one of Runner, Submitter and Source, has 0`: {Name: "a"},
		`executor "b": want exactly one of Runner, Submitter and Source, has 2`: {Name: "b", Runner: local, Submitter: newQueueing()},
		`executor "c": MaxJobs is -1, want 0 or more`:                           {Name: "c", Runner: local, MaxJobs: -1},
		`executor "d": PollInterval is -1s, want 0 or more`:                     {Name: "d", Runner: local, PollInterval: -time.Second},
		`executor "e": MaxPollInterval is 1s, want PollInterval (30s) or more`:  {Name: "e", Runner: local, MaxPollInterval: time.Second},
		`executor "f": Labels["executor"] is "g", want its name or nothing`:     {Name: "f", Runner: local, Labels: map[string]string{"executor": "g"}},
	} {
		err := r.Register(e)
		assert.EqualError(t, err, "scheduler: register: "+text)
		assert.ErrorIs(t, err, ErrExecutor)
	}
	assert.Equal(t, []string{"local"}, r.Names())
	e, err := r.Choose(Task[string]{ID: "only one"})
	require.NoError(t, err)
	assert.Equal(t, "local", e.Name)
	require.NoError(t, r.Register(Executor[string, string]{Name: "batch", Submitter: newQueueing(), MaxJobs: 4}))
	assert.Equal(t, map[string]int{"batch": 4}, r.Limits())
	for text, labels := range map[string]map[string]string{
		`executor: label "executor" is missing, want one of batch, local`:                    nil,
		`executor "lokal" is not registered, did you mean "local"? (there are batch, local)`: {"executor": "lokal"},
		`executor "local" does not fit: its os is linux, not windows`:                        {"executor": "local", "os": "windows"},
		`executor "batch" does not fit: it has no label gpu, it has no label os`:             {"executor": "batch", "os": "linux", "gpu": "1"},
	} {
		tasks := []Task[string]{{ID: "good", Labels: map[string]string{"executor": "local"}}, {ID: "t", Labels: labels}}
		assert.EqualError(t, r.Assign(tasks), `scheduler: executor "t": `+text)
		_, err := r.Worker(t.Context(), Demand{Labels: labels})
		assert.ErrorIs(t, err, ErrImpossible)
		assert.ErrorIs(t, err, ErrExecutor)
	}
}
