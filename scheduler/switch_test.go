package scheduler

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// grouped are tasks in files, which are groups, or keys of affinity.
func grouped(n int, seed uint64, affinity bool) ([]Task[int], []time.Duration, int) {
	d, file := lognormal(n, seed)
	tasks := independent(d)
	for i := range tasks {
		if affinity {
			tasks[i].Affinity = strconv.Itoa(file[i] % 40)
		} else {
			tasks[i].Group = strconv.Itoa(file[i])
		}
	}
	return tasks, d, file[len(file)-1] + 1
}

func TestTheCostOfASwitchIsMeasured(t *testing.T) {
	t.Parallel()
	for _, affinity := range []bool{false, true} {
		for _, cost := range []float64{0, 1, 5, 30} {
			for _, off := range []float64{1, 0.5, 3} { // all estimates, by a factor
				var found []float64
				for seed := range uint64(5) {
					tasks, d, _ := grouped(3000, seed, affinity)
					for i := range tasks {
						tasks[i].Estimate = time.Duration(off * float64(d[i]))
					}
					s := simulate(t, tasks, SimConfig{Config: Config{Workers: 32, Keys: 1}, Switching: max(seconds(cost), 1),
						Duration: func(i int) time.Duration { return d[i] }, Noise: 0.3, Seed: seed})
					found = append(found, s.Switch.Seconds())
				}
				slices.Sort(found)
				t.Logf("affinity %v, a switch costs %v s, estimates by %v: measured %.2f", affinity, cost, off, found)
				if cost == 1 { // it drowns in what the estimates are off by, and matters as little
					assert.LessOrEqual(t, found[2], 2.0)
					continue
				}
				assert.InDelta(t, cost, found[2], 0.25*cost)
			}
		}
	}
}

func TestAffinityPaysOffWithoutBeingToldTheCost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, workers int
		cost       float64
	}{{3000, 64, 5}, {3000, 64, 1}, {1000, 32, 5}} {
		var told []float64
		median, _ := ratios(t, func(seed uint64) float64 {
			tasks, d, groups := grouped(c.n, seed, false)
			total, longest := seconds(c.cost*float64(groups)), time.Duration(0)
			for _, x := range d {
				total += x
				longest = max(longest, x)
			}
			bound := max(float64(total)/float64(c.workers), float64(longest)+c.cost*1e9)
			run := func(given time.Duration) float64 {
				return float64(simulate(t, tasks, SimConfig{Config: Config{Workers: c.workers, Keys: 1, Switch: given}, Switching: seconds(c.cost),
					Duration: func(i int) time.Duration { return d[i] }, Noise: 0.3, Seed: seed}).Makespan)
			}
			measured, given := run(0), run(seconds(c.cost))
			told = append(told, measured/given)
			return measured / bound
		})
		slices.Sort(told)
		t.Logf("%d on %d, switch %.0f s: median %.4f to the bound; to a cost that is given: median %.3f worst %.3f", c.n, c.workers, c.cost, median, told[len(told)/2], told[len(told)-1])
		assert.LessOrEqual(t, median, 1.10)
		assert.LessOrEqual(t, told[len(told)/2], 1.03)
	}
}
