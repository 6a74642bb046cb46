package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// inFiles are tasks in groups that want to be on one worker, for each needs to be
// set up where it is begun.
type inFiles struct {
	tasks          []scheduler.Task[struct{}]
	config         scheduler.SimConfig
	cost           time.Duration
	files          int
	total, longest time.Duration
}

// setUp makes as many tasks in files of about nine. told: the scheduler knows what
// a switch costs, else it has to measure it.
func setUp(n, workers int, cost time.Duration, told bool, seed uint64) inFiles {
	tasks, c := independent{tasks: n, workers: workers, noise: 0.3}.make(seed)
	f := inFiles{tasks: tasks, config: c, cost: cost}
	f.config.Keys, f.config.Switching = 1, cost
	if told {
		f.config.Switch = cost
	}
	for i := range tasks {
		if i == 0 || tasks[i].Estimate > 3*tasks[i-1].Estimate || i%9 == 0 {
			f.files++
		}
		tasks[i].Group = strconv.Itoa(f.files)
		d := c.Duration(i)
		f.total += d
		f.longest = max(f.longest, d)
	}
	return f
}

func (f inFiles) makespan(whole bool) (float64, error) {
	c := f.config
	c.Whole = whole
	s, err := scheduler.Simulate(f.tasks, c)
	if err != nil {
		return 0, err
	}
	return float64(s.Makespan), nil
}

// toSetUp gives the makespan by the least there can be: each file is set up once.
func toSetUp(f inFiles) (float64, error) {
	took, err := f.makespan(false)
	work := f.total + time.Duration(f.files)*f.cost
	return took / math.Max(float64(work)/float64(f.config.Workers), float64(f.longest+f.cost)), err
}

// toAtomic gives it by that of groups that are never cut.
func toAtomic(f inFiles) (float64, error) {
	took, err := f.makespan(false)
	if err != nil {
		return 0, err
	}
	atomic, err := f.makespan(true)
	return took / atomic, err
}

// switched gives the worst case of the sizes, costs and fleets.
func switched(told bool, ratio func(inFiles) (float64, error), of func([]float64) float64) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (float64, string, error) {
		cases := []struct {
			n, workers int
			cost       time.Duration
		}{{1000, 32, 5 * time.Second}, {1000, 32, time.Second}, {3000, 128, 5 * time.Second}}
		if full {
			cases = append(cases, []struct {
				n, workers int
				cost       time.Duration
			}{{10_000, 128, 5 * time.Second}, {10_000, 128, time.Second}, {10_000, 32, 5 * time.Second}}...)
		}
		const seeds = 15
		worst, note := 0.0, ""
		for _, c := range cases {
			var values []float64
			for seed := range uint64(seeds) {
				if err := context.Cause(ctx); err != nil {
					return 0, "", err
				}
				v, err := ratio(setUp(c.n, c.workers, c.cost, told, seed+1))
				if err != nil {
					return 0, "", err
				}
				values = append(values, v)
			}
			if v := of(values); v > worst {
				worst, note = v, fmt.Sprintf("at %d tasks, %d machines, %v; the worst of %d cases of %d seeds", c.n, c.workers, c.cost, len(cases), seeds)
			}
		}
		return worst, note, nil
	}
}
