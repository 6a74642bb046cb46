package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHostileEstimatesChangeTheOrderAtMost(t *testing.T) {
	t.Parallel()
	hostile := []time.Duration{0, -1, math.MinInt64, math.MaxInt64, 1, time.Duration(1e18), time.Second}
	notANumber := func(string) (Estimate, bool) {
		return Estimate{Duration: time.Duration(math.MinInt64), Spread: math.NaN(), Count: -1}, true
	}
	for name, estimate := range map[string]func(string) (Estimate, bool){
		"none": nil, "not a number": notANumber,
		"all zero":    func(string) (Estimate, bool) { return Estimate{}, true },
		"all endless": func(string) (Estimate, bool) { return Estimate{Duration: math.MaxInt64}, true },
		"not known":   func(string) (Estimate, bool) { return Estimate{Duration: time.Hour}, false },
	} {
		var tasks []Task[int]
		for i := range 200 {
			task := Task[int]{ID: fmt.Sprint(i), Estimate: hostile[i%len(hostile)]}
			if i%3 == 0 {
				task.Group = fmt.Sprint("g", i%9)
			}
			if i%5 == 4 {
				task.After = []Dependency{{Task: fmt.Sprint(i - 1)}}
			}
			tasks = append(tasks, task)
		}
		for _, workers := range []int{1, 7, 1000} {
			for _, cost := range []time.Duration{0, time.Hour} {
				s, err := Simulate(tasks, SimConfig{Config: Config{Workers: workers, Estimate: estimate, Switch: cost},
					Duration: func(int) time.Duration { return time.Second }})
				require.NoError(t, err, name)
				assert.Equal(t, 200, s.Statuses[Passed], name)
			}
		}
	}
}

func TestOneTaskLongerThanAllElseIsBegunFirst(t *testing.T) {
	t.Parallel()
	tasks := independent([]time.Duration{time.Second, time.Second, 100 * time.Second, time.Second, time.Second})
	for i := range 96 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint("more ", i), Estimate: time.Second, Group: fmt.Sprint(i % 3)})
	}
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 2}})
	assert.Equal(t, 100*time.Second, s.Makespan)
}

func TestMoreWorkersThanTasksAreNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 1000}, tasksNamed("a", "b", "c")...))
		assert.Len(t, all, 3)
		assert.Len(t, src.demands, 3)
		src.released(t)
	})
}

func TestARunOfNothingEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		assert.Empty(t, collect(t.Context(), newScheduler(t, src, Config{})))
		assert.Empty(t, src.demands)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		all := collect(ctx, newScheduler(t, src, Config{}, append(tasksNamed("a"), after("b", "a"))...))
		assert.Equal(t, map[string]string{"a": Aborted, "b": Aborted}, statusesOf(all))
		assert.Empty(t, src.demands)
	})
}

func TestSerialTasksRunOneAtATimeAndExclusiveOnesAlone(t *testing.T) {
	t.Parallel()
	var tasks []Task[int]
	for i := range 60 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint(i), Estimate: time.Duration(1+i%7) * time.Second, Serial: i%6 == 0, Exclusive: i%20 == 7})
	}
	tasks[40].After = []Dependency{{Task: "27"}} // an exclusive one in the middle, with a dependent
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 8}})
	at := func(pick func(Task[int]) bool, when time.Duration) (n, all int) {
		for _, x := range s.Intervals {
			if x.Start <= when && when < x.End {
				all++
				if pick(tasks[x.Task]) {
					n++
				}
			}
		}
		return n, all
	}
	for _, x := range s.Intervals {
		n, _ := at(func(t Task[int]) bool { return t.Serial }, x.Start)
		assert.LessOrEqual(t, n, 1, "serial at %v", x.Start)
		if n, all := at(func(t Task[int]) bool { return t.Exclusive }, x.Start); n > 0 {
			assert.Equal(t, 1, all, "exclusive at %v", x.Start)
		}
	}
	assert.Equal(t, 60, s.Statuses[Passed])
}

func TestAccountLimitsAreExactAndFullyUsed(t *testing.T) {
	t.Parallel()
	var tasks []Task[int]
	for i := range 40 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint(i), Estimate: time.Second, Account: []string{"lab", "", "free"}[i%3]})
	}
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 8, Accounts: map[string]int{"lab": 2}}})
	most := 0
	for when := 500 * time.Millisecond; when < s.Makespan; when += time.Second {
		n := 0
		for _, x := range s.Intervals {
			if x.Start <= when && when < x.End && tasks[x.Task].Account == "lab" {
				n++
			}
		}
		most = max(most, n)
	}
	assert.Equal(t, 2, most)
	assert.Equal(t, 7*time.Second, s.Makespan, "14 of the account two at a time are the longest path")
}

func TestPrioritiesGoBeforeDurations(t *testing.T) {
	t.Parallel()
	tasks := independent([]time.Duration{9 * time.Second, 8 * time.Second, time.Second, time.Second})
	tasks[2].Priority, tasks[3].Priority = 1, math.MinInt
	s := simulate(t, tasks, SimConfig{})
	var order []int
	for _, x := range s.Intervals {
		order = append(order, x.Task)
	}
	assert.Equal(t, []int{2, 0, 1, 3}, order)
}

func TestOrders(t *testing.T) {
	t.Parallel()
	order := func(o Order, seed uint64) (ids []int) {
		for _, x := range simulate(t, independent(make([]time.Duration, 20)), SimConfig{Config: Config{Order: o, Seed: seed}}).Intervals {
			ids = append(ids, x.Task)
		}
		return ids
	}
	given := order(Given, 0)
	for i, x := range given {
		assert.Equal(t, i, x)
	}
	assert.Equal(t, order(Random, 1), order(Random, 1))
	assert.NotEqual(t, order(Random, 1), order(Random, 2))
	assert.ElementsMatch(t, given, order(Random, 3))
}

func TestAWorkerGetsTheLongestKeyThatItKnowsFirst(t *testing.T) {
	t.Parallel()
	var tasks []Task[int]
	for i := range 30 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint(i), Estimate: time.Second, Affinity: []string{"aws/db/large", "aws/web", "gcp"}[i%3]})
	}
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 1, Switch: time.Second, Keys: 1}})
	assert.Equal(t, 3, s.Switches, "each key once")
	var keys []string
	for _, x := range s.Intervals {
		if k := tasks[x.Task].Affinity; len(keys) == 0 || keys[len(keys)-1] != k {
			keys = append(keys, k)
		}
	}
	assert.Equal(t, []string{"aws/db/large", "aws/web", "gcp"}, keys)
	// With more keys than a worker remembers the newest stay.
	m := newMachine(Config{Keys: 2})
	m.workers = []worker{{}}
	a, b, c := m.keys.node("a", ""), m.keys.node("b", ""), m.keys.node("c", "")
	for _, k := range []int32{a, b, a, c} {
		m.learn(0, k)
	}
	assert.Equal(t, []int32{a, c}, m.workers[0].known)
	assert.Empty(t, m.keys.nodes[b].workers)
	assert.Equal(t, int32(0), m.knows(0, b))
	assert.Equal(t, int32(1), m.knows(0, m.keys.node("a/x", "")))
}

func TestAffinityDoesNotHoldUpWhatIsUrgent(t *testing.T) {
	t.Parallel()
	tasks := []Task[int]{{ID: "first", Estimate: time.Second, Affinity: "a", Priority: 1},
		{ID: "long", Estimate: 30 * time.Second, Affinity: "b", After: []Dependency{{Task: "first"}}}}
	for i := range 50 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint(i), Estimate: time.Second, Affinity: "a"})
	}
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 2, Switch: time.Second}})
	assert.LessOrEqual(t, s.Makespan, 45*time.Second, "55 s if both workers ran all that they know first")
	assert.LessOrEqual(t, s.Switches, 3)
}

func TestLabelsDecideWhoRunsWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{info: WorkerInfo{Batches: -1}}
		tasks := tasksNamed("any", "linux", "arm", "bsd")
		tasks[1].Labels = map[string]string{"os": "linux"}
		tasks[2].Labels = map[string]string{"os": "linux", "cpu": "arm"}
		tasks[3].Labels = map[string]string{"os": "bsd"}
		s := newScheduler(t, src, Config{Workers: 1}, tasks...)
		all := collect(t.Context(), s)
		assert.Equal(t, map[string]string{"any": Passed, "linux": Passed, "arm": Passed, "bsd": Passed}, statusesOf(all))
		assert.Equal(t, 1, src.most, "an idle worker makes room for one that fits")
		assert.NotEqual(t, all["arm"].Worker, all["bsd"].Worker)
		src.released(t)
	})
}

func TestAWorkerWithOtherLabelsThanAskedForIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			return &fakeWorker{info: WorkerInfo{Name: "vm", Labels: map[string]string{"os": "bsd"}}}, nil
		}}
		tasks := tasksNamed("a")
		tasks[0].Labels = map[string]string{"os": "linux"}
		all := collect(t.Context(), newScheduler(t, src, Config{Respawns: 1}, tasks...))
		assert.Equal(t, "workers failed 2 times with no task ended between, last: the source gave worker vm with os=bsd, asked for os=linux", all["a"].Cause)
		src.released(t)
	})
}

func TestLabelsThatAreWantedLaterAreSeenOnWorkersThatAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			return &fakeWorker{info: WorkerInfo{Name: "vm", Labels: map[string]string{"os": "bsd"}, Batches: -1}}, nil
		}}
		s := newScheduler(t, src, Config{Workers: 3}, tasksNamed("a")...)
		release := s.Hold()
		time.AfterFunc(5*time.Second, func() {
			task := tasksNamed("b")
			task[0].Labels = map[string]string{"os": "bsd"}
			assert.NoError(t, s.Add(task...))
			release()
		})
		assert.Len(t, collect(t.Context(), s), 2)
		assert.Len(t, src.workers, 1)
		src.released(t)
	})
}

func TestAReleaseThatHangsOrPanicsDoesNotHoldUpTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		src := &fakeSource{}
		src.give = func(_ context.Context, n int, _ Demand) (*fakeWorker, error) {
			return &fakeWorker{release: func(context.Context) error {
				if n == 0 {
					<-never
				}
				panic("release")
			}}, nil
		}
		begun := time.Now()
		all := collect(t.Context(), newScheduler(t, src, Config{Workers: 2, ReleaseTimeout: time.Minute, GraceMargin: time.Second}, tasksNamed("a", "b")...))
		assert.Len(t, all, 2)
		assert.Equal(t, 62*time.Second, time.Since(begun))
		close(never)
		synctest.Wait()
		src.released(t)
	})
}

func TestASourceThatDoesNotHearItsContextIsGivenUpAndItsWorkerReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{give: func(context.Context, int, Demand) (*fakeWorker, error) {
			time.Sleep(time.Hour)
			return &fakeWorker{}, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		all := collect(ctx, newScheduler(t, src, Config{Grace: time.Minute, GraceMargin: time.Second}, tasksNamed("a")...))
		assert.Equal(t, Aborted, all["a"].Verdict.Status)
		assert.Equal(t, 62*time.Second, time.Since(begun))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		src.released(t)
	})
}

func TestASourceThatReturnsNothingAtAllIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New[string, string](nothing{}, Config{Respawns: 1})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasksNamed("a")...))
		assert.Contains(t, collect(t.Context(), s)["a"].Cause, "neither a worker nor an error")
	})
}

type nothing struct{}

func (nothing) Worker(context.Context, Demand) (Worker[string, string], error) { return nil, nil }

func TestRetriesEndWithTheBudgetOfTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{run: verdicts(map[string]Verdict{"a": {Infra: errors.New("x")}, "b": {Infra: errors.New("x")}})}
		all := collect(t.Context(), newScheduler(t, src, Config{Attempts: 5, Retries: 3}, tasksNamed("a", "b")...))
		assert.Equal(t, 5, len(all["a"].Attempts)+len(all["b"].Attempts))
		assert.Contains(t, all["a"].Cause+all["b"].Cause, "the run's 3 retries are used up")
		src = &fakeSource{run: src.run}
		all = collect(t.Context(), newScheduler(t, src, Config{Retries: -1}, tasksNamed("a", "c")...))
		assert.Len(t, all["a"].Attempts, 1)
		assert.Equal(t, Passed, all["c"].Verdict.Status)
	})
}
