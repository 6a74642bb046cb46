package main

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

func schedulerBars() []bar {
	return []bar{
		{pkg: "scheduler", name: "independent, noise 0.3, to the bound", most: 1.01, stretch: 1.002, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3}, toBound, medianOf)},
		{pkg: "scheduler", name: "independent, noise 0.3, worst of the seeds", most: 1.05, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3}, toBound, worstOf)},
		{pkg: "scheduler", name: "noise 0.7, 31 tasks a machine, to the bound", most: 1.02, stretch: 1.01, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.7}, toBound, medianOf)},
		{pkg: "scheduler", name: "20 % never seen, to the bound", most: 1.02, stretch: 1.002, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3, unseen: 0.2}, toBound, medianOf)},
		{pkg: "scheduler", name: "boot delays, 32+ machines, to a FIFO queue", most: 0.9, stretch: 0.8, measure: booting},
		{pkg: "scheduler", name: "graphs, to the window bound", most: 1.01, stretch: 1.005, measure: inGraphs(toWindow, medianOf)},
		{pkg: "scheduler", name: "graphs, part of cells not under 1.10", most: 0.05, measure: inGraphs(toWindow, notUnder(1.10))},
		{pkg: "scheduler", name: "graphs, to the best of perturbed lists", most: 1.03, stretch: 1.01, measure: inGraphs(toPerturbed, medianOf)},
		{pkg: "scheduler", name: "graphs, to the unit-weight critical path", most: 1, measure: inGraphs(toUnits, medianOf)},
		{pkg: "scheduler", name: "affinity, switch 1 to 5 s, to the bound", most: 1.10, stretch: 1.07, measure: switched(true, toSetUp, medianOf)},
		{pkg: "scheduler", name: "affinity, to atomic groups, worst", most: 1.03, measure: switched(true, toAtomic, worstOf)},
		{pkg: "scheduler", name: "affinity, cost measured, to the bound", most: 1.10, stretch: 1.07, measure: switched(false, toSetUp, medianOf)},
		{pkg: "scheduler", name: "machines die, MTBF 2000 s, to the bound", most: 1.04, stretch: 1.02, measure: simulated(independent{tasks: 10_000, workers: 32, noise: 0.3, mtbf: 2000 * time.Second}, toBound, medianOf)},
		{pkg: "scheduler", name: "machines die, MTBF 2000 s, to a FIFO queue", most: 1, measure: simulated(independent{tasks: 10_000, workers: 32, noise: 0.3, mtbf: 2000 * time.Second}, toGiven, medianOf)},
		{pkg: "scheduler", name: "a decision at 1M tasks, to container/heap", most: 2, stretch: 0.7, measure: decision(1_000_000, plain)},
		{pkg: "scheduler", name: "a decision at 100k tasks, to the heap", most: 2, stretch: 0.7, fullOnly: true, measure: decision(100_000, plain)},
		{pkg: "scheduler", name: "a decision at 1M, affinity, to the heap", most: 2, stretch: 0.7, fullOnly: true, measure: decision(1_000_000, affine)},
		{pkg: "scheduler", name: "a decision at 1M, chains, to the heap", most: 2, stretch: 0.7, fullOnly: true, measure: decision(1_000_000, chained)},
		{pkg: "scheduler", name: "a task at 1M tasks, to one at 10k", most: 5, stretch: 3, fullOnly: true, measure: growth},
	}
}

// independent are tasks without dependencies: lognormal with a median of two
// seconds, correlated in files of about nine.
type independent struct {
	tasks, workers int
	noise, unseen  float64
	boots          bool
	mtbf           time.Duration
}

func (i independent) make(seed uint64) ([]scheduler.Task[struct{}], scheduler.SimConfig) {
	random := rand.New(rand.NewPCG(seed, 1))
	tasks := make([]scheduler.Task[struct{}], i.tasks)
	truth := make([]time.Duration, i.tasks)
	of := 1.0
	for n := range tasks {
		if random.IntN(9) == 0 {
			of = math.Exp(0.8 * random.NormFloat64())
		}
		truth[n] = time.Duration(2 * of * math.Exp(0.6*random.NormFloat64()) * float64(time.Second))
		tasks[n].ID = strconv.Itoa(n)
		if random.Float64() >= i.unseen {
			tasks[n].Estimate = truth[n]
		}
	}
	c := scheduler.SimConfig{Config: scheduler.Config{Workers: i.workers, Attempts: 100, Retries: 10 * i.tasks, PoisonAfter: 100, Respawns: i.tasks}, Noise: i.noise, Seed: seed, MTBF: i.mtbf, Duration: func(n int) time.Duration { return truth[n] }}
	if i.boots {
		c.Boot = func(n int) time.Duration {
			return time.Duration((5 + 20*rand.New(rand.NewPCG(seed, uint64(n))).Float64()) * float64(time.Second))
		}
	}
	return tasks, c
}

// toBound gives the makespan by the lower bound.
func toBound(tasks []scheduler.Task[struct{}], c scheduler.SimConfig) (float64, error) {
	s, err := scheduler.Simulate(tasks, c)
	if err != nil {
		return 0, err
	}
	if got := s.Statuses[scheduler.Passed]; got != len(tasks) {
		return 0, fmt.Errorf("%d of %d tasks passed: %v", got, len(tasks), s.Statuses)
	}
	return s.Ratio(), nil
}

// toGiven gives the makespan by that of the tasks in the order in which they were
// given, as a plain queue has it.
func toGiven(tasks []scheduler.Task[struct{}], c scheduler.SimConfig) (float64, error) {
	ours, err := scheduler.Simulate(tasks, c)
	if err != nil {
		return 0, err
	}
	c.Order = scheduler.Given
	peer, err := scheduler.Simulate(tasks, c)
	if err != nil {
		return 0, err
	}
	return float64(ours.Makespan) / float64(peer.Makespan), nil
}

func medianOf(values []float64) float64 { return median(values) }

func worstOf(values []float64) float64 {
	worst := math.Inf(-1)
	for _, v := range values {
		worst = max(worst, v)
	}
	return worst
}

func simulated(i independent, ratio func([]scheduler.Task[struct{}], scheduler.SimConfig) (float64, error), of func([]float64) float64) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, _ bool) (float64, string, error) {
		const seeds = 15
		var values []float64
		for seed := range uint64(seeds) {
			if err := context.Cause(ctx); err != nil {
				return 0, "", err
			}
			v, err := ratio(i.make(seed + 1))
			if err != nil {
				return 0, "", err
			}
			values = append(values, v)
		}
		return of(values), fmt.Sprintf("%d tasks, %d machines, %d seeds", i.tasks, i.workers, seeds), nil
	}
}

// booting gives the median over sizes of fleets and loads of the median of the seeds.
func booting(ctx context.Context, full bool) (float64, string, error) {
	var medians []float64
	for _, c := range []struct{ workers, per int }{{32, 31}, {128, 50}, {32, 200}, {500, 20}} {
		v, _, err := simulated(independent{tasks: c.workers * c.per, workers: c.workers, noise: 0.3, boots: true}, toGiven, medianOf)(ctx, full)
		if err != nil {
			return 0, "", err
		}
		medians = append(medians, v)
	}
	return median(medians), "20 to 200 tasks a machine, 15 seeds each", nil
}

func plain(*scheduler.Task[struct{}], int)      {}
func affine(t *scheduler.Task[struct{}], i int) { t.Affinity = strconv.Itoa(i / 9 % 100) }

// chained makes chains of nine, each task after the one before it.
func chained(t *scheduler.Task[struct{}], i int) {
	if i%9 > 0 {
		t.After = []scheduler.Dependency{{Task: strconv.Itoa(i - 1)}}
	}
}

// decision compares what a simulated run takes by the task, once the tasks were
// taken in, with one push and one pop of as many tasks on container/heap.
func decision(n int, shape func(t *scheduler.Task[struct{}], i int)) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, _ bool) (float64, string, error) {
		tasks, c := independent{tasks: n, workers: 32}.make(1)
		for i := range tasks {
			shape(&tasks[i], i)
		}
		return bests(ctx, 3, func() (time.Duration, error) { return simulate(tasks, c) }, func() (time.Duration, error) {
			h := make(longest, 0, n)
			begun := processor()
			for i := range tasks {
				heap.Push(&h, due{tasks[i].Estimate, int32(i)})
			}
			for range n {
				heap.Pop(&h)
			}
			return (processor() - begun) / time.Duration(n), nil
		})
	}
}

// bests is pairs for what is measured in one go of some tenths of a second: the
// least of each side counts, for on a busy machine there is no other that was not
// interrupted.
func bests(ctx context.Context, rounds int, ours, peer func() (time.Duration, error)) (float64, string, error) {
	least := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	for range rounds {
		for side, measure := range [...]func() (time.Duration, error){ours, peer} {
			if err := context.Cause(ctx); err != nil {
				return 0, "", err
			}
			runtime.GC()
			took, err := measure()
			if err != nil {
				return 0, "", err
			}
			least[side] = min(least[side], took)
		}
	}
	return float64(least[0]) / float64(least[1]), fmt.Sprintf("%v to %v of processor time, the least of %d", least[0], least[1], rounds), nil
}

func growth(ctx context.Context, _ bool) (float64, string, error) {
	many, few := 1_000_000, 10_000
	a, ca := independent{tasks: many, workers: 32}.make(1)
	b, cb := independent{tasks: few, workers: 32}.make(1)
	return bests(ctx, 5, func() (time.Duration, error) { return simulate(a, ca) }, func() (time.Duration, error) { return simulate(b, cb) })
}

// processor is the time that this process has had a processor for: it stands still
// while others have it, so that the two sides can be compared on a busy machine.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the one argument is right
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// simulate gives what a run takes by the task.
func simulate(tasks []scheduler.Task[struct{}], c scheduler.SimConfig) (time.Duration, error) {
	var begun time.Duration
	c.Begun = func() { begun = processor() }
	_, err := scheduler.Simulate(tasks, c)
	return (processor() - begun) / time.Duration(len(tasks)), err
}

// due is the least that a queue of tasks needs of each.
type due struct {
	takes time.Duration
	task  int32
}

type longest []due

func (d longest) Len() int           { return len(d) }
func (d longest) Less(i, j int) bool { return d[i].takes > d[j].takes }
func (d longest) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *longest) Push(v any)        { *d = append(*d, v.(due)) }
func (d *longest) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}
