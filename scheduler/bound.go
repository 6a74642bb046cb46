package scheduler

import (
	"math"
	"slices"
	"time"
)

// boundOf returns what no schedule can be shorter than: the longest path, the
// level to which the work fills the workers from the instants at which they are
// ready when all are asked for at once, and the work of an account over its limit.
func boundOf(m *machine, durations []int64, ready []int64, slots int) time.Duration {
	tail := make([]int64, len(m.tasks))
	total, path := 0.0, int64(0)
	accounts := make([]float64, len(m.accounts))
	for i := len(m.topo) - 1; i >= 0; i-- {
		t := m.topo[i]
		most := int64(0)
		for e := m.tasks[t].succ; e >= 0; e = m.edges[e].nextOut {
			most = max(most, tail[m.edges[e].to])
		}
		tail[t] = most + durations[t]
		path = max(path, tail[t])
		total += float64(durations[t])
		for _, a := range m.classes[m.tasks[t].class].accounts {
			accounts[a] += float64(durations[t])
		}
	}
	first := 0.0
	bound := 0.0
	if len(ready) > 0 {
		at := slices.Clone(ready)
		slices.Sort(at)
		first = float64(at[0])
		bound = Level(total/float64(slots), at)
	}
	bound = max(bound, first+float64(path))
	for a, w := range accounts {
		bound = max(bound, first+w/float64(m.accounts[a].limit))
	}
	return time.Duration(bound)
}

// Level returns the height to which work fills workers that become ready at the
// given instants, in ascending order: the least makespan of work that can be
// cut at will.
func Level(work float64, ready []int64) float64 {
	sum := 0.0
	for k, at := range ready {
		sum += float64(at)
		level := (work + sum) / float64(k+1)
		if k+1 == len(ready) || level <= float64(ready[k+1]) {
			return level
		}
	}
	return 0
}

// WindowBound returns a lower bound for tasks with dependencies on equal
// workers: for any set of tasks none of which can begin before a head and all
// of which have a tail behind them, head + work/workers + tail. Sets are taken
// at up to most different heads and tails (zero: 256). Dependencies on names
// that are not among the tasks, and cycles, are an error.
func WindowBound[J any](tasks []Task[J], duration func(i int) time.Duration, workers, most int) (time.Duration, error) {
	if most <= 0 {
		most = 256
	}
	m := newMachine(Config{})
	specs := make([]spec, len(tasks))
	for i := range tasks {
		specs[i] = specOf(&tasks[i], nil)
	}
	if err := m.add(specs); err != nil {
		return 0, err
	}
	n := len(tasks)
	head, tail, own := make([]float64, n), make([]float64, n), make([]float64, n)
	best := 0.0
	for _, t := range m.topo {
		own[t] = duration(int(t)).Seconds()
		for e := m.tasks[t].pred; e >= 0; e = m.edges[e].nextIn {
			f := m.edges[e].from
			head[t] = max(head[t], head[f]+own[f])
		}
		best = max(best, head[t]+own[t])
	}
	for i := n - 1; i >= 0; i-- {
		t := m.topo[i]
		for e := m.tasks[t].succ; e >= 0; e = m.edges[e].nextOut {
			s := m.edges[e].to
			tail[t] = max(tail[t], tail[s]+own[s])
		}
	}
	byHead := make([]int32, n)
	for i := range byHead {
		byHead[i] = int32(i)
	}
	slices.SortFunc(byHead, func(a, b int32) int {
		switch {
		case head[a] > head[b]:
			return -1
		case head[a] < head[b]:
			return 1
		}
		return int(a - b)
	})
	tails := slices.Clone(tail)
	slices.Sort(tails)
	tails = slices.Compact(tails)
	step := max(1, len(tails)/most)
	for q := 0; q < len(tails); q += step {
		work := 0.0
		for _, t := range byHead {
			if tail[t] >= tails[q] {
				work += own[t]
				best = max(best, head[t]+work/float64(workers)+tails[q])
			}
		}
	}
	return time.Duration(math.Ceil(best * 1e9)), nil
}
