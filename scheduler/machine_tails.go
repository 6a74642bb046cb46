package scheduler

// tails sets the length of the longest path from each task to the end, in
// reverse order, and carries what grew up to older tasks. That is bounded:
// beyond a budget per task the rest is left, and made good by a pass over all
// when an eighth of the tasks was added since the last.
func (m *machine) tails(order []int32, carry bool) {
	for i := len(order) - 1; i >= 0; i-- {
		t := &m.tasks[order[i]]
		most := 0.0
		for e := t.succ; e >= 0; e = m.edges[e].nextOut {
			most = max(most, m.tasks[m.edges[e].to].tail)
		}
		t.tail = t.est + most
	}
	if !carry {
		return
	}
	budget := 1000 + 64*len(order)
	stack := append(m.scratch[:0], order...)
	for len(stack) > 0 && budget > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		tail := m.tasks[at].tail
		for e := m.tasks[at].pred; e >= 0; e = m.edges[e].nextIn {
			budget--
			f := m.edges[e].from
			k := &m.tasks[f]
			if k.state == stateEnded || k.est+tail <= k.tail {
				continue
			}
			k.tail = k.est + tail
			stack = append(stack, f)
			m.rise(f)
		}
	}
	left := len(stack)
	m.scratch = stack[:0]
	if left > 0 {
		if m.stale += len(order); m.stale > len(m.tasks)/8 {
			m.stale = 0
			m.tails(m.topo, false)
			for t := range m.tasks {
				m.rise(int32(t))
			}
		}
	}
}

// rise tells the queues that a ready task became more urgent.
func (m *machine) rise(t int32) {
	k := &m.tasks[t]
	if k.state != stateReady || m.conf.Order != ByDuration {
		return
	}
	if k.bundle >= 0 {
		b := &m.bundles[k.bundle]
		b.q.push(entry{m.urgencyOf(t), t})
		m.touch(k.bundle)
		return
	}
	m.enqueue(k.class, k.key, entry{m.urgencyOf(t), t})
}
