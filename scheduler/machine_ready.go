package scheduler

import (
	"slices"
	"strings"
)

// makeReady puts a task that waits for nothing more where workers find it.
func (m *machine) makeReady(t int32) {
	k := &m.tasks[t]
	c := &m.classes[k.class]
	if m.cancelled != "" {
		m.finish(t, statusAborted, m.cancelCause, m.cancelled, -1)
		return
	}
	if dead := &m.kinds[c.kind]; dead.dead != causeNone {
		m.finish(t, statusErrored, dead.dead, dead.deadText, -1)
		return
	}
	k.state = stateReady
	k.at, k.ready = m.now, m.now
	k.first = m.conf.Order == ByDuration && (k.unseen || k.tail > m.critical)
	m.waiting--
	c.waiting--
	m.pend(t)
	m.queueTask(t)
}

// again puts a task back that was given to a worker. One that is to stay away
// from workers by name becomes a unit of its own.
func (m *machine) again(t int32, avoid string) {
	k := &m.tasks[t]
	if dead := &m.kinds[m.classes[k.class].kind]; dead.dead != causeNone {
		m.finish(t, statusErrored, dead.dead, dead.deadText, -1)
		return
	}
	m.batches[k.batch].left--
	k.state = stateReady
	k.at = m.now
	k.batch = -1
	m.active--
	m.work += k.est
	if avoid != "" {
		cold := m.cold(t)
		if !slices.Contains(cold.avoid, avoid) {
			cold.avoid = append(cold.avoid, avoid)
		}
		k.class = m.avoiding(k.class, cold.avoid)
		k.bundle = -1
	}
	m.pend(t)
	m.queueTask(t)
}

// avoiding returns the class like another whose tasks stay away from workers.
func (m *machine) avoiding(class int32, names []string) int32 {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	key := m.classes[class].classKey
	key.avoid = strings.Join(sorted, "\x00")
	return m.classOf(key)
}

func (m *machine) queueTask(t int32) {
	k := &m.tasks[t]
	m.ready++
	for _, a := range m.classes[k.class].accounts {
		m.accounts[a].work += k.est
	}
	if k.bundle >= 0 {
		b := &m.bundles[k.bundle]
		b.count++
		b.sum += k.est
		b.q.push(entry{m.urgencyOf(t), t})
		m.touch(k.bundle)
		return
	}
	m.classes[k.class].units++
	m.enqueue(k.class, k.key, entry{m.urgencyOf(t), t})
}

// unqueue takes a ready task out of the counts; the queues forget it when they
// meet it.
func (m *machine) unqueue(t int32) {
	k := &m.tasks[t]
	m.ready--
	for _, a := range m.classes[k.class].accounts {
		m.accounts[a].work = max(0, m.accounts[a].work-k.est)
	}
	if k.bundle >= 0 {
		b := &m.bundles[k.bundle]
		b.count--
		b.sum -= k.est
		m.touch(k.bundle)
		return
	}
	m.classes[k.class].units--
	m.surplus(k.class)
}

func (m *machine) groupID(name string) int32 {
	id, is := m.groupBy[name]
	if !is {
		id = int32(len(m.groups))
		m.groups = append(m.groups, name)
		m.groupBy[name] = id
	}
	return id
}

func (m *machine) bundle(group, class, key int32) int32 {
	k := bundleKey{group, class, key}
	id, is := m.bundleBy[k]
	if !is {
		id = int32(len(m.bundles))
		m.bundles = append(m.bundles, bundle{group: group, class: class, key: key})
		m.bundleBy[k] = id
	}
	return id
}

// touch marks a bundle whose tasks changed.
func (m *machine) touch(b int32) {
	if k := &m.bundles[b]; !k.dirty {
		k.dirty = true
		m.dirty = append(m.dirty, b)
	}
}

func (m *machine) dirtyClass(c int32) {
	if k := &m.classes[c]; !k.dirty {
		k.dirty = true
		m.dirtied = append(m.dirtied, c)
	}
}

// settle tells what changed to those who choose.
func (m *machine) settle() {
	for _, id := range m.dirty {
		b := &m.bundles[id]
		b.dirty = false
		c := &m.classes[b.class]
		pieces := 0
		old := b.urgency
		b.urgency = urgency{}
		if b.count > 0 {
			t, _ := m.bundleTop(b)
			u := m.urgencyOf(t)
			most := m.cut()
			pieces = 1
			if b.sum > most {
				pieces = min(b.count, int(b.sum/most)+1)
			}
			if m.conf.Order == ByDuration {
				u.lo = max(u.lo, min(b.sum, most))
			}
			b.urgency = u
			if u != old {
				m.enqueue(b.class, b.key, entry{u, ^id})
			}
		} else {
			b.sum = 0
		}
		fewer := pieces < b.pieces
		c.units += pieces - b.pieces
		b.pieces = pieces
		if fewer {
			m.surplus(b.class)
		}
	}
	m.dirty = m.dirty[:0]
	for _, c := range m.dirtied {
		m.classes[c].dirty = false
		m.announce(c)
	}
	m.dirtied = m.dirtied[:0]
}

// bundleTop returns the most urgent task of a bundle that has one.
func (m *machine) bundleTop(b *bundle) (int32, bool) {
	for {
		e, ok := b.q.top()
		if !ok {
			return -1, false
		}
		if m.tasks[e.id].state == stateReady && m.tasks[e.id].bundle >= 0 {
			return e.id, true
		}
		b.q.pop()
	}
}

// cut is how many seconds of a group go into one batch at the most: a quarter
// of a worker's fair share of what is left, which shrinks towards the end, but
// not so little that the switching weighs. Without a known cost of switching
// the share of the whole is taken, so that small groups stay whole.
func (m *machine) cut() float64 {
	if m.conf.Whole {
		return mostSeconds * mostSeconds
	}
	workers := float64(m.conf.Workers)
	cost := m.switchCost()
	if cost == 0 {
		return max(m.total/(4*workers), 1e-9)
	}
	return max(m.work/(4*workers), switchWeight*cost)
}

// switchWeight is how many times the cost of a switch a cut is at the least.
const switchWeight = 1
