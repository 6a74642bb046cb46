package main

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

func schedulerBars() []bar {
	return []bar{
		{pkg: "scheduler", name: "independent, noise 0.3, to the bound", most: 1.01, stretch: 1.002, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3}, toBound, medianOf)},
		{pkg: "scheduler", name: "the same, worst of the seeds", most: 1.05, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3}, toBound, worstOf)},
		{pkg: "scheduler", name: "noise 0.7, 31 tasks a machine, to the bound", most: 1.02, stretch: 1.01, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.7}, toBound, medianOf)},
		{pkg: "scheduler", name: "20 % never seen, to the bound", most: 1.02, stretch: 1.002, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3, unseen: 0.2}, toBound, medianOf)},
		{pkg: "scheduler", name: "boot delays, 32 machines, to a FIFO queue", most: 0.9, stretch: 0.8, measure: simulated(independent{tasks: 1000, workers: 32, noise: 0.3, boots: true}, toGiven, medianOf)},
		{pkg: "scheduler", name: "machines die, MTBF 2000 s, to the bound", most: 1.04, stretch: 1.02, measure: simulated(independent{tasks: 10_000, workers: 32, noise: 0.3, mtbf: 2000 * time.Second}, toBound, medianOf)},
		{pkg: "scheduler", name: "a decision at 100k tasks, to container/heap", most: 2, stretch: 0.7, measure: decision(100_000)},
		{pkg: "scheduler", name: "a decision at 1M tasks, to container/heap", most: 2, stretch: 0.7, fullOnly: true, measure: decision(1_000_000)},
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

// decision compares a whole simulated run, by the task, with one push and one pop
// of as many durations on container/heap.
func decision(n int) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, _ bool) (float64, string, error) {
		tasks, c := independent{tasks: n, workers: 32}.make(1)
		return pairs(ctx, 5, func(context.Context) (time.Duration, error) {
			took, err := simulate(tasks, c)
			return took / time.Duration(n), err
		}, func(context.Context) (time.Duration, error) {
			h := make(durations, 0, n)
			took, err := timed(func() error {
				for _, t := range tasks {
					heap.Push(&h, t.Estimate)
				}
				for range n {
					heap.Pop(&h)
				}
				return nil
			})
			return took / time.Duration(n), err
		})
	}
}

func growth(ctx context.Context, _ bool) (float64, string, error) {
	many, few := 1_000_000, 10_000
	a, ca := independent{tasks: many, workers: 32}.make(1)
	b, cb := independent{tasks: few, workers: 32}.make(1)
	return pairs(ctx, 5, func(context.Context) (time.Duration, error) {
		took, err := simulate(a, ca)
		return took / time.Duration(many), err
	}, func(context.Context) (time.Duration, error) {
		took, err := simulate(b, cb)
		return took / time.Duration(few), err
	})
}

func simulate(tasks []scheduler.Task[struct{}], c scheduler.SimConfig) (time.Duration, error) {
	return timed(func() error {
		_, err := scheduler.Simulate(tasks, c)
		return err
	})
}

type durations []time.Duration

func (d durations) Len() int           { return len(d) }
func (d durations) Less(i, j int) bool { return d[i] > d[j] }
func (d durations) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *durations) Push(v any)        { *d = append(*d, v.(time.Duration)) }
func (d *durations) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}
