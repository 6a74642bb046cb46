package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTheLiveViewTellsWhatRunsWhereAndWhatWaitsForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{}
		src.run = func(ctx context.Context, w *fakeWorker, b Batch[string], emit func(Event[string])) error {
			emit(Event[string]{Task: b.Tasks[0].ID, Started: true})
			time.Sleep(10 * time.Second)
			emit(Event[string]{Task: b.Tasks[0].ID, Verdict: Verdict{Status: Passed}})
			return nil
		}
		src.give = func(ctx context.Context, n int, d Demand) (*fakeWorker, error) {
			if d.Labels["os"] != "" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &fakeWorker{}, nil
		}
		tasks := append(tasksNamed("run", "lab 1", "lab 2", "special"), after("later", "run", "lab 1"))
		tasks[1].Account, tasks[2].Account = "lab", "lab"
		tasks[3].Labels = map[string]string{"os": "bsd"}
		for i := range tasks {
			tasks[i].Estimate = 20 * time.Second
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := newScheduler(t, src, Config{Workers: 3, Accounts: map[string]int{"lab": 1}}, tasks...)
		text, err := s.Explain("later")
		require.NoError(t, err)
		assert.Equal(t, "later waits for lab 1 to pass (waits itself), run to pass (waits itself)", text)
		text, _ = s.Explain("run")
		assert.Equal(t, "run could run; the run has not begun", text)
		done := make(chan map[string]Outcome[string])
		go func() { done <- collect(ctx, s) }()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		v := s.Snapshot()
		assert.Equal(t, 2, v.Running)
		assert.Equal(t, 2, v.Ready)
		assert.Equal(t, 1, v.Waiting)
		assert.InDelta(t, 10, v.Percent, 0.01, "a quarter of two of five")
		assert.Equal(t, 35*time.Second, v.End.Sub(v.At), "15 s of what runs, 20 s of what waits for it")
		require.Len(t, v.Tasks, 2)
		assert.True(t, v.Tasks[0].Started)
		assert.Equal(t, 5*time.Second, v.At.Sub(v.Tasks[0].Since))
		assert.Contains(t, v.String(), "10 %: 0 of 5 ended, 2 running, 2 ready, 1 waiting, about 35s left\n")
		assert.Contains(t, v.String(), "since 5s of 20s, attempt 1")
		for task, want := range map[string]string{
			"lab 2":   "account lab is at its limit of 1",
			"lab 1":   "lab 1 runs on vm-",
			"later":   "later waits for lab 1 to pass (runs), run to pass (runs)",
			"special": "special could run for 5s: wants a worker with os=bsd; ",
		} {
			text, err := s.Explain(task)
			require.NoError(t, err)
			assert.Contains(t, text, want)
		}
		_, err = s.Explain("latr")
		require.ErrorIs(t, err, ErrUnknown)
		assert.ErrorContains(t, err, `did you mean "later"?`)
		time.Sleep(40 * time.Second)
		cancel()
		all := <-done
		assert.Len(t, all, 5)
		text, _ = s.Explain("special")
		assert.Equal(t, "special was aborted after 0 attempts: the run was cancelled: context canceled", text)
		assert.Equal(t, 100.0, s.Snapshot().Percent)
		src.released(t)
	})
}

func TestShardsAreStableWholeAndBalanced(t *testing.T) {
	t.Parallel()
	d, file := lognormal(1000, 1)
	tasks := independent(d)
	for i := range tasks {
		if i%2 == 0 {
			tasks[i].Group = fmt.Sprint(file[i])
		}
		if i%10 == 9 {
			tasks[i].After = []Dependency{{Task: fmt.Sprint(i - 3)}}
		}
	}
	shuffled := slices.Clone(tasks)
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	seen := make(map[string]int)
	groups := make(map[string]int)
	var least, most time.Duration
	for i := range 4 {
		shard, err := Shard(tasks, i, 4, nil)
		require.NoError(t, err)
		other, err := Shard(shuffled, i, 4, nil)
		require.NoError(t, err)
		assert.ElementsMatch(t, shard, other, "the order of the list is no matter")
		sum := time.Duration(0)
		for _, task := range shard {
			seen[task.ID]++
			sum += task.Estimate
			if task.Group != "" {
				if in, is := groups[task.Group]; is {
					assert.Equal(t, in, i, "group %s", task.Group)
				}
				groups[task.Group] = i
			}
		}
		if i == 0 || sum < least {
			least = sum
		}
		most = max(most, sum)
		require.NoError(t, newScheduler(t, &fakeSource{}, Config{}).Err())
		_, err = Simulate(shard, SimConfig{})
		require.NoError(t, err, "no dependency is in another shard")
	}
	assert.Len(t, seen, 1000)
	assert.Less(t, float64(most)/float64(least), 1.05)
	for _, c := range [][2]int{{-1, 2}, {2, 2}, {0, 0}} {
		_, err := Shard(tasks, c[0], c[1], nil)
		assert.Error(t, err)
	}
	_, err := Shard([]Task[int]{{ID: "a", After: []Dependency{{Task: "b"}}}}, 0, 1, nil)
	assert.ErrorIs(t, err, ErrUnknown)
}

func TestALogReplaysExactlyAndADifferentOneIsFound(t *testing.T) {
	t.Parallel()
	d, _ := lognormal(300, 1)
	l := &Log{}
	s := simulate(t, independent(d), SimConfig{Config: Config{Workers: 8, Log: l}, MTBF: 100 * time.Second, Boot: boots(1), Seed: 3})
	assert.Positive(t, s.Deaths)
	assert.Equal(t, s.Inputs, l.Len())
	var file bytes.Buffer
	_, err := l.WriteTo(&file)
	require.NoError(t, err)
	read, err := ReadLog(bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	decisions, err := Replay(read)
	require.NoError(t, err)
	ends := 0
	for _, d := range decisions {
		if d.What == "outcome" {
			ends++
			assert.Equal(t, Passed, d.Status)
		}
	}
	assert.Equal(t, 300, ends)

	_, err = ReadLog(bytes.NewReader(file.Bytes()[:file.Len()-10]))
	assert.ErrorContains(t, err, "read log: entry")
	_, err = ReadLog(strings.NewReader("x"))
	assert.Error(t, err)
	read.entries[len(read.entries)/2].Name += "x"
	read.entries[40].Task++
	_, err = Replay(read)
	assert.Error(t, err)
	read.head.Workers = 7
	_, err = Replay(read)
	assert.ErrorContains(t, err, "the decisions differ")
	read.head.Workers = -1
	_, err = Replay(read)
	assert.ErrorContains(t, err, "Config.Workers")
	_, err = Replay(&Log{})
	assert.NoError(t, err)
}

// FuzzReplay: a damaged log is refused, never followed into the void.
func FuzzReplay(f *testing.F) {
	d, _ := lognormal(5, 1)
	l := &Log{}
	tasks := independent(d)
	tasks[4].After = []Dependency{{Task: "0"}}
	tasks[3].Group, tasks[2].Group = "g", "g"
	_, err := Simulate(tasks, SimConfig{Config: Config{Workers: 2, Log: l}, MTBF: 4 * time.Second})
	require.NoError(f, err)
	var file bytes.Buffer
	_, err = l.WriteTo(&file)
	require.NoError(f, err)
	f.Add(file.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ReadLog(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = replay(l, false)
	})
}

func TestBoundsAreWhatAPersonWouldDraw(t *testing.T) {
	t.Parallel()
	assert.InDelta(t, 5, Level(10, []int64{0, 0}), 1e-9)
	assert.InDelta(t, 6, Level(10, []int64{0, 2}), 1e-9)
	assert.InDelta(t, 10, Level(10, []int64{0, 20}), 1e-9)
	assert.Zero(t, Level(10, nil))
	// head 2, four of 3 on two workers, tail 1.
	tasks := []Task[int]{{ID: "head", Estimate: 2 * time.Second}, {ID: "tail", Estimate: time.Second}}
	for i := range 4 {
		id := fmt.Sprint(i)
		tasks = append(tasks, Task[int]{ID: id, Estimate: 3 * time.Second, After: []Dependency{{Task: "head"}}})
		tasks[1].After = append(tasks[1].After, Dependency{Task: id})
	}
	b, err := WindowBound(tasks, func(i int) time.Duration { return tasks[i].Estimate }, 2, 0)
	require.NoError(t, err)
	assert.InDelta(t, 9, b.Seconds(), 1e-6)
	s := simulate(t, tasks, SimConfig{Config: Config{Workers: 2}})
	assert.Equal(t, 9*time.Second, s.Makespan)
	assert.Equal(t, time.Duration(7.5*float64(time.Second)), s.Bound)
	_, err = WindowBound([]Task[int]{after2("a", "a")}, nil, 1, 0)
	assert.ErrorIs(t, err, ErrCycle)
}

func after2(id, dep string) Task[int] {
	return Task[int]{ID: id, After: []Dependency{{Task: dep}}}
}

func TestASimulationIsDeterministicAndEndsWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	d, _ := lognormal(500, 2)
	c := SimConfig{Config: Config{Workers: 10}, Noise: 0.5, MTBF: 200 * time.Second, Boot: boots(2), Seed: 9,
		Fail: func(i, attempt int) Verdict {
			if i%50 == 0 && attempt == 1 {
				return Verdict{Infra: errors.New("x")}
			}
			return Verdict{Status: Passed}
		}}
	a, b := simulate(t, independent(d), c), simulate(t, independent(d), c)
	assert.Equal(t, a, b)
	assert.Equal(t, 500, a.Statuses[Passed])
	c.Until = 30 * time.Second
	s := simulate(t, independent(d), c)
	assert.Positive(t, s.Statuses[Aborted])
	assert.Equal(t, 500, s.Statuses[Aborted]+s.Statuses[Passed])
	_, err := Simulate([]Task[int]{{}}, SimConfig{})
	assert.Error(t, err)
	assert.InDelta(t, 1, simulate(t, nil, SimConfig{}).Ratio(), 1e-9)
}

func TestShapesOfWorkersThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	var tasks []Task[int]
	for i := range 1000 {
		tasks = append(tasks, Task[int]{ID: fmt.Sprint(i), Labels: map[string]string{"host": fmt.Sprint(i), "os": "linux"}})
	}
	conf, err := Config{Workers: 3}.filled()
	require.NoError(t, err)
	sim := &simulation{m: newMachine(conf), c: SimConfig{Config: conf}, out: &Simulation{Statuses: map[string]int{}}, truth: make([]int64, 1000)}
	var specs []spec
	for i := range tasks {
		specs = append(specs, specOf(&tasks[i], nil))
	}
	require.NoError(t, sim.feed(&input{Kind: inAdd, Specs: specs}))
	require.NoError(t, sim.run())
	assert.Equal(t, 1000, sim.out.Statuses[Passed])
	assert.Less(t, len(sim.m.shapes), 200)
	assert.Less(t, len(sim.m.workers), 10)
}

func TestInfraMarksOnceAndNothingOfNothing(t *testing.T) {
	t.Parallel()
	assert.NoError(t, Infra(nil))
	err := errors.New("x")
	assert.False(t, IsInfra(err))
	assert.True(t, IsInfra(fmt.Errorf("wrapped: %w", Infra(err))))
	assert.ErrorIs(t, Infra(err), err)
	assert.Equal(t, Infra(err), Infra(Infra(err)))
}

func TestARankingGivesTheMostUrgentOfFewAndOfManyClasses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var r ranking
		truth := make(map[int32]urgency)
		now := func(c int32) urgency { return truth[c] }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			// On both sides of where the map begins.
			c := rapid.SampledFrom([]int32{0, 1, 2, 3, lowClasses - 1, lowClasses, lowClasses + 1, 5000}).Draw(t, "class")
			u := urgency{hi: uint64(rapid.IntRange(0, 3).Draw(t, "hi")), lo: float64(rapid.IntRange(0, 5).Draw(t, "lo"))}
			if u.none() {
				u = urgency{}
			}
			truth[c] = u
			if !u.none() {
				r.raise(c, u)
			}
			best, found := rank{}, false
			for class, u := range truth {
				if x := (rank{u, class}); !u.none() && (!found || x.before(best)) {
					best, found = x, true
				}
			}
			got, ok := r.top(now)
			if ok != found || found && got != best {
				t.Fatalf("top is %v %v, want %v %v", got, ok, best, found)
			}
		}
	})
}
