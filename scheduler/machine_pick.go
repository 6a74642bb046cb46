package scheduler

import "slices"

// batch is what a worker was given and has not given back.
type batch struct {
	worker   int32
	class    int32
	group    int32 // -1: none
	tasks    []int32
	left     int // not ended
	at       int64
	last     int64 // when its last task ended; before that, at
	deadline int64 // 0: none
	state    batchState
	gen      int32
	text     string // why it was interrupted
	switched bool   // its key was not known
}

type batchState uint8

const (
	batchFree batchState = iota
	batchRuns
	batchInterrupted
	batchAbandoned
)

// worker is one that arrived.
type worker struct {
	name    string
	labels  map[string]string
	shape   int32
	kind    int32 // of the demand that brought it
	exempt  int32 // class that it is used for although it is to be avoided
	room    int   // batches more at once
	left    int   // batches until it is released; negative: no bound
	batches []int32
	known   []int32  // keys, the newest last
	apart   []string // Task.Apart of what it was given
	good    bool     // a task ended on it
	broken  string
	state   workerState
	place   int32 // in its shape's idle list
	since   int64
	gen     int32
	armed   bool // has a timer for being idle
	// ownLimits: it bounds its tasks itself, the time in its own queue too.
	ownLimits bool
}

type workerState uint8

const (
	workerGone workerState = iota
	workerIdle             // has room
	workerBusy             // has none
	workerReleasing
)

func (m *machine) putIdle(w int32) {
	k := &m.workers[w]
	sh := &m.shapes[k.shape]
	k.place = int32(len(sh.idle))
	sh.idle = append(sh.idle, w)
	m.lookAt(k.shape)
}

func (m *machine) takeIdle(w int32) {
	k := &m.workers[w]
	sh := &m.shapes[k.shape]
	last := sh.idle[len(sh.idle)-1]
	sh.idle[k.place] = last
	m.workers[last].place = k.place
	sh.idle = sh.idle[:len(sh.idle)-1]
}

// setState keeps the idle lists right.
func (m *machine) setState(w int32, s workerState) {
	k := &m.workers[w]
	if k.state == s {
		return
	}
	if k.state == workerIdle {
		m.takeIdle(w)
		m.idle--
	}
	k.state = s
	if s == workerIdle {
		m.putIdle(w)
		m.idle++
		m.armIdle(w)
	}
}

// armIdle begins the time for which a worker may be idle.
func (m *machine) armIdle(w int32) {
	k := &m.workers[w]
	k.since = m.now
	if len(k.batches) == 0 && m.conf.Idle > 0 && !k.armed {
		k.armed = true
		m.timers.add(timer{at: m.now + int64(m.conf.Idle), kind: timeIdle, id: w})
	}
}

// assign gives work to workers that have room, as long as both are there.
func (m *machine) assign() {
	for len(m.changed) > 0 {
		s := m.changed[len(m.changed)-1]
		m.changed = m.changed[:len(m.changed)-1]
		if m.shapes[s].free {
			continue
		}
		m.shapes[s].changed = false
		m.assignShape(s)
	}
}

func (m *machine) assignShape(s int32) {
	for i := len(m.shapes[s].idle) - 1; i >= 0; i-- {
		if m.exclusively > 0 {
			return // whoever ends it marks all shapes changed
		}
		if i >= len(m.shapes[s].idle) {
			continue
		}
		w := m.shapes[s].idle[i]
		for m.workers[w].state == workerIdle {
			c, e, skipped := m.pick(w)
			if c < 0 {
				if !skipped {
					return // nothing for any worker of this shape
				}
				break
			}
			if m.running > 0 && len(m.exclusive) > 0 && m.holdsBack(e) {
				return // until nothing runs
			}
			if m.slow {
				w = m.better(s, w, e)
			}
			if m.yields(w, c, e) {
				break
			}
			m.give(w, c, e)
			m.settle()
			if m.exclusively > 0 {
				return
			}
		}
	}
}

// holdsBack says that an exclusive task waits for the fleet to be empty, one
// that others wait for or that has a higher priority than the unit.
func (m *machine) holdsBack(e entry) bool {
	for _, c := range m.exclusive {
		k := &m.classes[c]
		if k.units == 0 || m.kinds[k.kind].notBefore > m.now {
			continue
		}
		x, ok := m.top(c)
		if !ok {
			continue
		}
		if x.hi>>priorityShift > e.hi>>priorityShift {
			return true
		}
		t := x.id
		if t < 0 {
			t, _ = m.bundleTop(&m.bundles[^t])
		}
		if x.hi>>priorityShift == e.hi>>priorityShift && m.tasks[t].succ >= 0 {
			return true
		}
	}
	return false
}

// pick chooses a unit for a worker: the most urgent, or, as long as that can
// wait without making the run longer, one whose key the worker knows. skipped
// says that there was one that is to stay away from this worker.
func (m *machine) pick(w int32) (class int32, unit entry, skipped bool) {
	k := &m.workers[w]
	sh := &m.shapes[k.shape]
	m.aside = m.aside[:0]
	class = -1
	for {
		r, ok := sh.ranking.top(m.classUrgency)
		if !ok {
			break
		}
		if m.avoids(w, r.class) {
			skipped = true
			m.aside = append(m.aside, r)
			sh.ranking.lower(urgency{})
			continue
		}
		class = r.class
		break
	}
	for _, r := range m.aside {
		sh.ranking.raise(r.class, r.urgency)
	}
	if class < 0 {
		return -1, entry{}, skipped
	}
	unit, _ = m.top(class)
	if len(k.known) > 0 {
		if c, e, ok := m.affine(w, unit); ok {
			return c, e, skipped
		}
	}
	return class, unit, skipped
}

// avoids says that a worker is not for a class although its labels fit.
func (m *machine) avoids(w, c int32) bool {
	if a := m.classes[c].apart; a != "" && slices.Contains(m.workers[w].apart, a) {
		return true
	}
	if m.workers[w].exempt == c {
		return false
	}
	for _, n := range m.classes[c].avoiding {
		if n == m.workers[w].name {
			return true
		}
	}
	return false
}

// seconds of a unit: all that its batch would take.
func (m *machine) seconds(e entry) float64 {
	if e.id >= 0 {
		return m.tasks[e.id].est
	}
	b := &m.bundles[^e.id]
	return min(b.sum, max(m.cut(), m.bundleFirst(b)))
}

func (m *machine) bundleFirst(b *bundle) float64 {
	if t, ok := m.bundleTop(b); ok {
		return m.tasks[t].est
	}
	return 0
}

// path of a unit: seconds from its start to the end of all that hangs on it. A
// task that was never seen may be as long as the longest.
func (m *machine) path(e entry) float64 {
	p := e.lo
	if e.hi&flagUnseen != 0 {
		p = max(p, m.longest)
	}
	return p
}

// affine looks for the unit with the longest key that the worker knows, and
// decides whether it goes before the most urgent one.
func (m *machine) affine(w int32, urgent entry) (int32, entry, bool) {
	k := &m.workers[w]
	bestDepth, bestClass := int32(0), int32(-1)
	var best entry
	for i := len(k.known) - 1; i >= 0; i-- {
		for n := k.known[i]; n > 0; n = m.keys.nodes[n].parent {
			depth := m.keys.nodes[n].depth
			if depth < bestDepth {
				break
			}
			lanes := m.keys.nodes[n].lanes
			for j := 0; j < len(lanes); j++ {
				c := lanes[j].class
				e, ok := m.laneTop(c, lanes[j].queue)
				if !ok {
					delete(m.classes[c].lanes, n) // made again when it is needed
					lanes[j] = lanes[len(lanes)-1]
					lanes = lanes[:len(lanes)-1]
					j--
					continue
				}
				if (depth > bestDepth || e.before(best)) &&
					!m.blocked(&m.classes[c]) && !m.avoids(w, c) && fits(m.kinds[m.classes[c].kind].pairs, m.shapes[k.shape].pairs) {
					bestDepth, bestClass, best = depth, c, e
				}
			}
			m.keys.nodes[n].lanes = lanes
		}
	}
	if bestClass < 0 {
		return 0, entry{}, false
	}
	if best.id == urgent.id {
		return bestClass, best, true
	}
	if best.hi>>priorityShift != urgent.hi>>priorityShift || (urgent.hi^best.hi)&flagExclusive != 0 {
		return 0, entry{}, false
	}
	if m.knows(w, m.keyOf(urgent)) >= bestDepth && urgent.before(best) {
		return 0, entry{}, false // it knows the more urgent one as well
	}
	if m.conf.Order != ByDuration {
		return bestClass, best, true
	}
	// What is left is so much that the urgent one is still done in time when it
	// is begun after this one.
	share := m.work / float64(m.conf.Workers)
	if m.path(urgent)+m.seconds(best) <= slack*share {
		return bestClass, best, true
	}
	return bestClass, best, m.path(best)+m.switchCost() >= m.path(urgent)
}

// slack is the part of the fair share that a path may take and still wait.
const slack = 0.9

func (m *machine) keyOf(e entry) int32 {
	if e.id >= 0 {
		return m.tasks[e.id].key
	}
	return m.bundles[^e.id].key
}

func (m *machine) laneTop(c int32, q *queue) (entry, bool) {
	for {
		e, ok := q.top()
		if q.near <= 0 {
			m.approach(q)
		}
		if !ok || m.isUnit(e, c) {
			return e, ok
		}
		q.pop()
	}
}

// better returns the worker of the shape that knows most of a unit's key, if
// one has room; else the one that was asked for.
func (m *machine) better(s, w int32, e entry) int32 {
	key := m.keyOf(e)
	if key == 0 {
		return w
	}
	mine := m.knows(w, key)
	for n := key; n > 0 && m.keys.nodes[n].depth > mine; n = m.keys.nodes[n].parent {
		for _, x := range m.keys.nodes[n].workers {
			if k := &m.workers[x]; k.state == workerIdle && k.shape == s && !m.avoids(x, m.classOfUnit(e)) {
				return x
			}
		}
	}
	return w
}

func (m *machine) classOfUnit(e entry) int32 {
	if e.id >= 0 {
		return m.tasks[e.id].class
	}
	return m.bundles[^e.id].class
}

// yields says whether an idle worker is to be released, for it takes the room
// of one that more urgent tasks want; that is done here.
func (m *machine) yields(w, c int32, e entry) bool {
	k := &m.workers[w]
	if len(k.batches) > 0 || m.alive+len(m.asked) < m.conf.Workers {
		return false
	}
	r, ok := m.wants.top(m.wantUrgency)
	if !ok || r.class == c || !m.foreign(w, r.class) {
		return false
	}
	if r.hi>>priorityShift > e.hi>>priorityShift {
		m.letGo(w, "")
		return true
	}
	return false
}

// foreign says that a worker does not fit a class.
func (m *machine) foreign(w, c int32) bool {
	return m.avoids(w, c) || !fits(m.kinds[m.classes[c].kind].pairs, m.shapes[m.workers[w].shape].pairs)
}
