package scheduler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

const seeds = 15

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// lognormal gives durations with a median of 2 s, alike within files of about
// nine.
func lognormal(n int, seed uint64) (durations []time.Duration, file []int) {
	r := rand.New(rand.NewPCG(seed, 1))
	f, left, shift := -1, 0, 0.0
	for range n {
		if left == 0 {
			f++
			left = 1 + r.IntN(17)
			shift = 0.8 * r.NormFloat64()
		}
		left--
		durations = append(durations, seconds(2*math.Exp(shift+0.8*r.NormFloat64())))
		file = append(file, f)
	}
	return durations, file
}

func independent(d []time.Duration) []Task[int] {
	tasks := make([]Task[int], len(d))
	for i := range d {
		tasks[i] = Task[int]{ID: strconv.Itoa(i), Estimate: d[i]}
	}
	return tasks
}

func ratios(t *testing.T, f func(seed uint64) float64) (median, worst float64) {
	t.Helper()
	var all []float64
	n := uint64(seeds)
	if testing.Short() {
		n = 3
	}
	for seed := range n {
		all = append(all, f(seed))
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

func simulate(t *testing.T, tasks []Task[int], c SimConfig) *Simulation {
	t.Helper()
	s, err := Simulate(tasks, c)
	require.NoError(t, err)
	return s
}

func boots(seed uint64) func(int) time.Duration {
	r := rand.New(rand.NewPCG(seed, 2))
	var all []time.Duration
	return func(n int) time.Duration {
		for len(all) <= n {
			all = append(all, seconds(5+25*r.Float64()))
		}
		return all[n]
	}
}

func TestBarsOfIndependentTasks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		n, workers    int
		noise, unseen float64
		boot          bool
		median, worst float64
	}{
		{"noise 0.3, 1000 on 32", 1000, 32, 0.3, 0, false, 1.01, 1.05},
		{"noise 0.3, 1000 on 32, boot", 1000, 32, 0.3, 0, true, 1.01, 1.05},
		{"noise 0.3, 10000 on 500, boot", 10000, 500, 0.3, 0, true, 1.01, 1.05},
		{"noise 0.7, 1000 on 32", 1000, 32, 0.7, 0, false, 1.02, 1.05},
		{"noise 0.7, 10000 on 128", 10000, 128, 0.7, 0, false, 1.02, 1.05},
		{"20 % never seen, 1000 on 32", 1000, 32, 0.3, 0.2, false, 1.02, 1.05},
		{"20 % never seen, 1000 on 32, boot", 1000, 32, 0.3, 0.2, true, 1.02, 1.05},
	} {
		median, worst := ratios(t, func(seed uint64) float64 {
			d, _ := lognormal(c.n, seed)
			tasks := independent(d)
			r := rand.New(rand.NewPCG(seed, 3))
			for i := range tasks {
				if r.Float64() < c.unseen {
					tasks[i].Estimate = 0
				}
			}
			s := SimConfig{Config: Config{Workers: c.workers}, Duration: func(i int) time.Duration { return d[i] }, Noise: c.noise, Seed: seed}
			if c.boot {
				s.Boot = boots(seed)
			}
			return simulate(t, tasks, s).Ratio()
		})
		assert.LessOrEqual(t, median, c.median, c.name)
		assert.LessOrEqual(t, worst, c.worst, c.name)
		t.Logf("%-36s median %.4f worst %.4f (bar %.3f; %.3f)", c.name, median, worst, c.median, c.worst)
	}
}

func TestBarsAgainstFIFO(t *testing.T) {
	t.Parallel()
	var all []float64
	for _, c := range []struct{ workers, per int }{{32, 31}, {128, 50}, {32, 200}, {500, 20}} {
		median, worst := ratios(t, func(seed uint64) float64 {
			d, _ := lognormal(c.workers*c.per, seed)
			run := func(o Order) float64 {
				return float64(simulate(t, independent(d), SimConfig{Config: Config{Workers: c.workers, Order: o},
					Duration: func(i int) time.Duration { return d[i] }, Noise: 0.3, Seed: seed, Boot: boots(seed)}).Makespan)
			}
			return run(ByDuration) / run(Given)
		})
		assert.Less(t, worst, 1.0)
		all = append(all, median)
		t.Logf("%d machines, %d each: to FIFO median %.3f worst %.3f (bar 0.9)", c.workers, c.per, median, worst)
	}
	slices.Sort(all)
	assert.LessOrEqual(t, all[len(all)/2], 0.9)
}

func TestBarsWhenMachinesDie(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1000, 10000} {
		var fifo []float64
		median, worst := ratios(t, func(seed uint64) float64 {
			d, _ := lognormal(n, seed)
			run := func(o Order) *Simulation {
				return simulate(t, independent(d), SimConfig{Config: Config{Workers: 32, Order: o, Retries: -1 << 20},
					Duration: func(i int) time.Duration { return d[i] }, Noise: 0.3, Seed: seed, Boot: boots(seed), MTBF: 2000 * time.Second})
			}
			fifo = append(fifo, run(Given).Ratio())
			return run(ByDuration).Ratio()
		})
		slices.Sort(fifo)
		assert.LessOrEqual(t, median, 1.04)
		assert.Less(t, median, fifo[len(fifo)/2])
		t.Logf("%d tasks: median %.4f worst %.4f, FIFO %.4f (bar 1.04)", n, median, worst, fifo[len(fifo)/2])
	}
}

func TestBarsOfAffinity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, workers int
		cost       float64
	}{{10000, 128, 5}, {10000, 128, 1}, {10000, 32, 5}, {1000, 32, 5}, {1000, 32, 1}, {1000, 128, 5}} {
		for _, noise := range []float64{0, 0.3} {
			var atomic []float64
			var switches int
			median, worst := ratios(t, func(seed uint64) float64 {
				d, file := lognormal(c.n, seed)
				tasks := independent(d)
				for i := range tasks {
					tasks[i].Group = strconv.Itoa(file[i])
				}
				run := func(whole bool) *Simulation {
					return simulate(t, tasks, SimConfig{Config: Config{Workers: c.workers, Switch: seconds(c.cost), Keys: 1, Whole: whole},
						Duration: func(i int) time.Duration { return d[i] }, Noise: noise, Seed: seed})
				}
				// Each group has to be set up once at the least.
				total := seconds(c.cost * float64(file[len(file)-1]+1))
				longest := time.Duration(0)
				for _, x := range d {
					total += x
					longest = max(longest, x)
				}
				bound := max(float64(total)/float64(c.workers), float64(longest)+c.cost*1e9)
				a, b := run(true), run(false)
				atomic = append(atomic, float64(b.Makespan)/float64(a.Makespan))
				switches += b.Switches - file[len(file)-1] - 1
				return float64(b.Makespan) / bound
			})
			slices.Sort(atomic)
			assert.LessOrEqual(t, median, 1.10)
			assert.LessOrEqual(t, atomic[len(atomic)-1], 1.03)
			t.Logf("%d on %d, switch %.0f s, noise %.1f: median %.4f worst %.4f, to atomic median %.3f worst %.3f, %d more switches (bar 1.10; 1.03)", c.n, c.workers,
				c.cost, noise, median, worst, atomic[len(atomic)/2], atomic[len(atomic)-1], switches/seeds)
		}
	}
}

func readDAG(t *testing.T, path string) []Task[int] {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var tasks []Task[int]
	stg := strings.HasSuffix(path, ".stg")
	for i, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		if strings.HasPrefix(line, "#") || stg && i == 0 || line == "" {
			continue
		}
		var task Task[int]
		if stg {
			f := strings.Fields(line)
			d, err := strconv.Atoi(f[1])
			require.NoError(t, err)
			task = Task[int]{ID: f[0], Estimate: time.Duration(d)*time.Second + 1}
			for _, p := range f[3:] {
				task.After = append(task.After, Dependency{Task: p})
			}
		} else {
			f := strings.Split(line, "\t")
			d, err := strconv.ParseFloat(f[1], 64)
			require.NoError(t, err)
			task = Task[int]{ID: f[0], Estimate: seconds(d) + 1}
			if f[2] != "" {
				for _, p := range strings.Split(f[2], ",") {
					task.After = append(task.After, Dependency{Task: p})
				}
			}
		}
		tasks = append(tasks, task)
	}
	return tasks
}

func graphs(t *testing.T) map[string][]Task[int] {
	dir := "testdata"
	if d := os.Getenv("BULLPEN_DAGS"); d != "" {
		dir = d
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.*"))
	require.NoError(t, err)
	all := make(map[string][]Task[int])
	for _, f := range files {
		if strings.HasSuffix(f, ".stg") || strings.HasSuffix(f, ".tsv") {
			all[filepath.Base(f)] = readDAG(t, f)
		}
	}
	require.NotEmpty(t, all)
	return all
}

func TestBarsOfGraphs(t *testing.T) {
	t.Parallel()
	perturbed := 6
	if testing.Short() {
		perturbed = 1
	}
	perturbed = need.Soak(t, perturbed, 60) // 60 is what the bar says
	var window, list, unit []float64
	under := 0
	for name, tasks := range graphs(t) {
		d := func(i int) time.Duration { return tasks[i].Estimate }
		for _, workers := range []int{2, 4, 8, 16, 32, 64, 128} {
			ours := simulate(t, tasks, SimConfig{Config: Config{Workers: workers}}).Makespan
			bound, err := WindowBound(tasks, d, workers, 0)
			require.NoError(t, err)
			r := float64(ours) / float64(bound)
			require.GreaterOrEqual(t, r, 0.9999, name)
			window = append(window, r)
			if r < 1.10 {
				under++
			} else {
				t.Logf("%s on %d: %.3f", name, workers, r)
			}
			best := time.Duration(math.MaxInt64)
			for seed := range uint64(perturbed) {
				best = min(best, simulate(t, tasks, SimConfig{Config: Config{Workers: workers}, Duration: d, Noise: 0.2, Seed: seed}).Makespan)
			}
			list = append(list, float64(ours)/float64(best))
			units := make([]Task[int], len(tasks))
			copy(units, tasks)
			for i := range units {
				units[i].Estimate = time.Second
			}
			u := simulate(t, units, SimConfig{Config: Config{Workers: workers}, Duration: d}).Makespan
			unit = append(unit, float64(ours)/float64(u))
		}
	}
	for _, x := range [][]float64{window, list, unit} {
		slices.Sort(x)
	}
	assert.LessOrEqual(t, window[len(window)/2], 1.01)
	assert.GreaterOrEqual(t, float64(under), 0.95*float64(len(window)))
	assert.LessOrEqual(t, list[len(list)/2], 1.03)
	assert.LessOrEqual(t, unit[len(unit)/2], 1.0)
	t.Logf("window bound: median %.4f, worst %.4f, %.1f %% of %d cells under 1.10", window[len(window)/2], window[len(window)-1], 100*float64(under)/float64(len(window)), len(window))
	t.Logf("best of %d perturbed: median %.4f, worst %.4f; unit weights: median %.4f, worst %.4f", perturbed, list[len(list)/2], list[len(list)-1], unit[len(unit)/2], unit[len(unit)-1])
}

func TestBarsOfChains(t *testing.T) {
	t.Parallel()
	median, worst := ratios(t, func(seed uint64) float64 {
		r := rand.New(rand.NewPCG(seed, 4))
		d, _ := lognormal(10000, seed)
		tasks := independent(d)
		for i := 0; i < len(tasks); {
			n := 1 + r.IntN(40)
			for k := i + 1; k < min(i+n, len(tasks)); k++ {
				tasks[k].After = []Dependency{{Task: fmt.Sprint(k - 1)}}
			}
			i += n
		}
		return simulate(t, tasks, SimConfig{Config: Config{Workers: 128}, Duration: func(i int) time.Duration { return d[i] }, Noise: 0.3, Seed: seed}).Ratio()
	})
	assert.LessOrEqual(t, worst, 1.01)
	t.Logf("chains: median %.4f worst %.4f", median, worst)
}
