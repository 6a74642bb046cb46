package scheduler

import (
	"fmt"
	"math"
	"slices"
)

// Shard returns the tasks of the i-th of n shards, i from zero, in the order in
// which they came. The shards are balanced by estimates (of the tasks, else of
// the func, which may be nil; without any a typical one), longest first onto
// the emptiest shard, and depend on nothing but the tasks and estimates: each
// machine cuts the same list the same way. What belongs together stays
// together: groups, and tasks that depend on each other.
func Shard[J any](tasks []Task[J], i, n int, estimate func(id string) (Estimate, bool)) ([]Task[J], error) {
	if n < 1 || i < 0 || i >= n {
		return nil, &OpError{Op: "shard", Err: fmt.Errorf("shard %d of %d, want 0 or more of 1 or more, and less than it", i, n)}
	}
	m := newMachine(Config{})
	specs := make([]spec, len(tasks))
	for k := range tasks {
		specs[k] = specOf(&tasks[k], estimate)
	}
	if err := m.add(specs); err != nil {
		return nil, err
	}
	// Union-find over groups and edges.
	parent := make([]int32, len(tasks))
	for k := range parent {
		parent[k] = int32(k)
	}
	find := func(x int32) int32 {
		for parent[x] != x {
			parent[x] = parent[parent[x]]
			x = parent[x]
		}
		return x
	}
	join := func(a, b int32) {
		a, b = find(a), find(b)
		parent[max(a, b)] = min(a, b)
	}
	first := make(map[string]int32)
	for k := range tasks {
		if g := tasks[k].Group; g != "" {
			if f, is := first[g]; is {
				join(f, int32(k))
			} else {
				first[g] = int32(k)
			}
		}
	}
	for e := range m.edges {
		join(m.edges[e].from, m.edges[e].to)
	}
	typical := m.typical()
	type atom struct {
		name string // of its least task, so that the order of the list is no matter
		sum  int64  // microseconds: exact sums in any order
		root int32
	}
	atoms := make(map[int32]*atom)
	for k := range tasks {
		r := find(int32(k))
		a := atoms[r]
		if a == nil {
			a = &atom{name: tasks[k].ID, root: r}
			atoms[r] = a
		}
		a.name = min(a.name, tasks[k].ID)
		est := m.tasks[k].est
		if m.tasks[k].unseen {
			est = typical
		}
		add := int64(math.Round(est * 1e6))
		a.sum = min(math.MaxInt64/2, a.sum+add)
	}
	order := make([]*atom, 0, len(atoms))
	for _, a := range atoms {
		order = append(order, a)
	}
	slices.SortFunc(order, func(a, b *atom) int {
		switch {
		case a.sum > b.sum:
			return -1
		case a.sum < b.sum:
			return 1
		case a.name < b.name:
			return -1
		}
		return 1
	})
	var bins queue
	load := make([]int64, n)
	for b := range n {
		bins.push(entry{id: int32(b)})
	}
	mine := make(map[int32]bool)
	for _, a := range order {
		e, _ := bins.top()
		bins.pop()
		if int(e.id) == i {
			mine[a.root] = true
		}
		load[e.id] = min(math.MaxInt64/2, load[e.id]+max(1, a.sum))
		bins.push(entry{urgency: urgency{lo: -float64(load[e.id])}, id: e.id})
	}
	var out []Task[J]
	for k := range tasks {
		if mine[find(int32(k))] {
			out = append(out, tasks[k])
		}
	}
	return out, nil
}
