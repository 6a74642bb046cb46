package scheduler

import (
	"container/heap"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

func million(t testing.TB) int {
	if testing.Short() {
		return 20_000
	}
	return max(20_000, need.Soak(t, 100_000, 1_000_000))
}

func TestAHugeChainAndStarAreScheduledWithoutRecursionOrScans(t *testing.T) {
	n := million(t)
	chain := make([]Task[int], n)
	star := make([]Task[int], n)
	fan := make([]Task[int], n)
	for i := range n {
		id := strconv.Itoa(i)
		chain[i], star[i], fan[i] = Task[int]{ID: id}, Task[int]{ID: id}, Task[int]{ID: id}
		if i+1 < n {
			chain[i].After = []Dependency{{Task: strconv.Itoa(i + 1)}} // the last is the first
		}
		if i > 0 {
			star[i].After = []Dependency{{Task: "0"}}
			fan[0].After = append(fan[0].After, Dependency{Task: id})
		}
	}
	for name, tasks := range map[string][]Task[int]{"chain": chain, "star": star, "fan": fan} {
		s, err := Simulate(tasks, SimConfig{Config: Config{Workers: 64}})
		require.NoError(t, err, name)
		assert.Equal(t, n, s.Statuses[Passed], name)
		assert.InDelta(t, 1, s.Ratio(), 0.02, name)
	}
	// A failure at the head blocks all of it.
	s, err := Simulate(chain, SimConfig{Fail: func(int, int) Verdict { return Verdict{Status: Failed} }})
	require.NoError(t, err)
	assert.Equal(t, map[string]int{Failed: 1, Blocked: n - 1}, s.Statuses)
	// And a cycle of that length is told, cut short.
	chain[n-1].After = []Dependency{{Task: "0"}}
	_, err = Simulate(chain, SimConfig{})
	require.ErrorIs(t, err, ErrCycle)
	assert.Less(t, len(err.Error()), 500)
}

func TestAChainThatGrowsWhileItRunsStaysCheap(t *testing.T) {
	t.Parallel()
	conf, err := Config{Workers: 2}.filled()
	require.NoError(t, err)
	m := newMachine(conf)
	require.NoError(t, m.feed(&input{Kind: inStart}))
	before := 0
	for i := range 20_000 {
		s := spec{ID: strconv.Itoa(i), Estimate: time.Second}
		if i > 0 {
			s.After = []Dependency{{Task: strconv.Itoa(i - 1)}}
		}
		require.NoError(t, m.feed(&input{Kind: inAdd, Specs: []spec{s}}))
		before++
	}
	assert.Less(t, m.tasks[0].tail, 20_001.0)
	assert.Greater(t, m.tasks[0].tail, 10_000.0, "carried up, or made good by a pass")
}

// perTask returns the time of a decision: of a whole simulated run without Add.
func perTask(b *testing.B, tasks []Task[int], c SimConfig) time.Duration {
	conf, err := c.Config.filled()
	require.NoError(b, err)
	c.Config = conf
	m := newMachine(conf)
	specs := make([]spec, len(tasks))
	for i := range tasks {
		specs[i] = specOf(&tasks[i], nil)
	}
	require.NoError(b, m.feed(&input{Kind: inAdd, Specs: specs}))
	runtime.GC()
	begun := time.Now()
	require.NoError(b, m.feed(&input{Kind: inStart}))
	free := make([]int32, 0, conf.Workers)
	n := 0
	var runs []action
	step := func(in *input) {
		if err := m.feed(in); err != nil { // require's Helper took a quarter of the time
			b.Fatal(err)
		}
		for i := range m.out {
			switch m.out[i].kind {
			case doRun:
				runs = append(runs, m.out[i])
			case doAsk:
				free = append(free, m.out[i].id)
			}
		}
		m.out = m.out[:0]
	}
	step(&input{Kind: inTick})
	asked := append([]int32(nil), free...)
	for i, id := range asked {
		labels := map[string]string(nil)
		if c.Labels != nil {
			labels = c.Labels(i, m.kinds[m.classes[m.demands[id].class].kind].labels)
		}
		step(&input{Kind: inArrived, ID: id, Name: fmt.Sprint("w", i), Labels: labels, Batches: -1})
	}
	in := input{}
	var todo []int32
	for len(runs) > 0 {
		a := runs[0]
		runs = runs[1:]
		todo = append(todo[:0], m.batches[a.id].tasks...)
		for _, t := range todo {
			in = input{Kind: inEnded, ID: a.id, Task: t, Status: Passed}
			step(&in)
			n++
		}
		in = input{Kind: inOver, ID: a.id}
		step(&in)
	}
	require.Equal(b, len(tasks), n)
	return time.Since(begun) / time.Duration(n)
}

type plainHeap []entry

func (h plainHeap) Len() int           { return len(h) }
func (h plainHeap) Less(i, j int) bool { return h[i].lo > h[j].lo }
func (h plainHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *plainHeap) Push(x any)        { *h = append(*h, x.(entry)) }
func (h *plainHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// heapTime is the peer: push and pop of container/heap, per task.
func heapTime(tasks []Task[int]) time.Duration {
	runtime.GC()
	begun := time.Now()
	h := make(plainHeap, 0, len(tasks))
	for i := range tasks {
		heap.Push(&h, entry{urgency{1, tasks[i].Estimate.Seconds()}, int32(i)})
	}
	for range tasks {
		heap.Pop(&h)
	}
	return time.Since(begun) / time.Duration(len(tasks))
}

// BenchmarkDecisions prints the time per task (ready, given, ended) for what may
// make a decision dear.
func BenchmarkDecisions(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		d, file := lognormal(n, 1)
		for name, f := range map[string]func(t *Task[int], i int){
			"plain":      func(*Task[int], int) {},
			"groups":     func(t *Task[int], i int) { t.Group = strconv.Itoa(file[i]) },
			"affinity":   func(t *Task[int], i int) { t.Affinity = strconv.Itoa(file[i] % 100) },
			"labels":     func(t *Task[int], i int) { t.Labels = map[string]string{"os": strconv.Itoa(i % 10)} },
			"accounts":   func(t *Task[int], i int) { t.Account = strconv.Itoa(i % 100) },
			"priorities": func(t *Task[int], i int) { t.Priority = i % 1000 },
			"chains": func(t *Task[int], i int) {
				if i%10 > 0 {
					t.After = []Dependency{{Task: strconv.Itoa(i - 1)}}
				}
			},
		} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				tasks := independent(d)
				for i := range tasks {
					f(&tasks[i], i)
				}
				conf := Config{Workers: 100, Accounts: make(map[string]int)}
				for i := range 100 {
					conf.Accounts[strconv.Itoa(i)] = 5
				}
				best, peer := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
				for range b.N {
					best = min(best, perTask(b, tasks, SimConfig{Config: conf, Labels: func(i int, wanted map[string]string) map[string]string {
						return map[string]string{"os": wanted["os"], "host": strconv.Itoa(i)}
					}}))
				}
				for range b.N {
					peer = min(peer, heapTime(tasks))
				}
				b.ReportMetric(float64(best), "ns/task")
				b.ReportMetric(float64(best)/float64(peer), "x/heap")
			})
		}
	}
}
