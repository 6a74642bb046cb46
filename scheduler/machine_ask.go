package scheduler

import (
	"fmt"
	"maps"
	"slices"
)

// demand is what the source was asked for and has not answered.
type demand struct {
	class int32
	task  int32
	at    int64
	state demandState
	gen   int32
}

type demandState uint8

const (
	demandFree demandState = iota
	demandOut
	demandWithdrawn
)

// wantUrgency is what a class competes with for a new worker; none when all of
// its units are covered by demands, or no worker may be asked for.
func (m *machine) wantUrgency(c int32) urgency {
	k := &m.classes[c]
	if m.uncovered(k) <= 0 {
		return urgency{}
	}
	u := m.classUrgency(c)
	if k.aged && !u.none() {
		return urgency{hi: flagAny, lo: u.lo}
	}
	if !u.none() && len(k.demands) == 0 {
		u.hi |= flagFresh
	}
	return u
}

// uncovered is how many more workers a class has use for.
func (m *machine) uncovered(k *class) int {
	kd := &m.kinds[k.kind]
	if kd.dead != causeNone || kd.notBefore > m.now {
		return 0
	}
	n := k.units
	if k.exclusive {
		n = min(n, 1)
	}
	for _, a := range k.accounts {
		n = min(n, m.accounts[a].limit-m.accounts[a].used)
	}
	return n - len(k.demands)
}

func (m *machine) wantMore(c int32) {
	if u := m.wantUrgency(c); !u.none() {
		m.wants.raise(c, u)
	}
}

// ask asks the source for workers, as many as there is room and use for.
func (m *machine) ask() {
	for m.alive+len(m.asked) < m.conf.Workers {
		r, ok := m.wants.top(m.wantUrgency)
		if !ok || m.gated(r.class) {
			return
		}
		m.demandFor(r.class)
	}
	m.makeRoom()
}

// gated says that a worker for a class would have to wait for an exclusive task
// before it is given anything.
func (m *machine) gated(c int32) bool {
	if m.exclusively > 0 {
		return true
	}
	if m.running == 0 || len(m.exclusive) == 0 || m.classes[c].exclusive {
		return false
	}
	e, ok := m.top(c)
	return ok && m.holdsBack(e)
}

func (m *machine) demandFor(c int32) {
	var id int32
	if n := len(m.freeDemand); n > 0 {
		id = m.freeDemand[n-1]
		m.freeDemand = m.freeDemand[:n-1]
	} else {
		id = int32(len(m.demands))
		m.demands = append(m.demands, demand{})
	}
	e, _ := m.top(c)
	t := e.id
	if t < 0 {
		t, _ = m.bundleTop(&m.bundles[^t])
	}
	m.demands[id] = demand{class: c, task: t, at: m.now, state: demandOut, gen: m.demands[id].gen + 1}
	m.asked = append(m.asked, id)
	m.classes[c].demands = append(m.classes[c].demands, id)
	m.watch(c)
	m.do(action{kind: doAsk, id: id})
}

// makeRoom lets workers go that nothing fits, and takes back demands that are
// only kept for tasks to come, while others want workers and there is no room.
func (m *machine) makeRoom() {
	if m.exclusively > 0 || m.idle == 0 && len(m.asked) == m.late {
		return
	}
	r, ok := m.wants.top(m.wantUrgency)
	if !ok || m.gated(r.class) {
		return
	}
	need := m.uncovered(&m.classes[r.class]) - m.releasing - m.late
	for w := 0; need > 0 && m.idle > 0 && w < len(m.workers); w++ {
		if k := &m.workers[w]; k.state == workerIdle && len(k.batches) == 0 && m.foreign(int32(w), r.class) {
			m.letGo(int32(w), "")
			need--
		}
	}
	for i := len(m.asked) - 1; need > 0 && i >= 0; i-- {
		d := &m.demands[m.asked[i]]
		if d.state == demandOut && d.class != r.class && len(m.classes[d.class].demands) > m.classes[d.class].units {
			m.withdraw(m.asked[i])
			need--
		}
	}
	m.rotate(r.class, need)
}

// surplus takes back demands that no task, ready or to come, has a use for.
func (m *machine) surplus(c int32) {
	k := &m.classes[c]
	for len(k.demands) > k.units+k.waiting {
		m.withdraw(k.demands[len(k.demands)-1])
	}
}

func (m *machine) withdraw(id int32) {
	d := &m.demands[id]
	d.state = demandWithdrawn
	m.late++
	m.unlist(id)
	m.timers.add(timer{at: m.now + m.patience(), kind: timeDesert, id: id, gen: d.gen})
	m.do(action{kind: doWithdraw, id: id})
}

// unlist takes a demand off its class.
func (m *machine) unlist(id int32) {
	c := m.demands[id].class
	k := &m.classes[c]
	if i := slices.Index(k.demands, id); i >= 0 {
		k.demands = slices.Delete(k.demands, i, i+1)
	}
	m.wantMore(c)
}

// dropDemand forgets a demand that was answered.
func (m *machine) dropDemand(id int32) {
	d := &m.demands[id]
	if d.state == demandWithdrawn {
		m.late--
		d.state = demandFree
	} else {
		d.state = demandFree
		m.unlist(id)
	}
	if i := slices.Index(m.asked, id); i >= 0 {
		m.asked[i] = m.asked[len(m.asked)-1]
		m.asked = m.asked[:len(m.asked)-1]
	}
	m.freeDemand = append(m.freeDemand, id)
}

// slot is where the next worker to arrive will be.
func (m *machine) slot() int32 {
	if n := len(m.freeWorker); n > 0 {
		return m.freeWorker[n-1]
	}
	return int32(len(m.workers))
}

// arrived takes a worker in.
func (m *machine) arrived(in *input) {
	d := m.demands[in.ID]
	m.answered(d.class)
	m.dropDemand(in.ID)
	w := m.slot()
	if n := len(m.freeWorker); n > 0 {
		m.freeWorker = m.freeWorker[:n-1]
	} else {
		m.workers = append(m.workers, worker{})
	}
	k := &m.workers[w]
	*k = worker{name: in.Name, labels: in.Labels, kind: m.classes[d.class].kind, exempt: -1,
		room: max(1, in.MaxTasks), left: in.Batches, known: k.known[:0], batches: k.batches[:0], apart: k.apart[:0],
		state: workerBusy, since: m.now, gen: k.gen + 1, armed: k.armed, ownLimits: in.OwnLimits}
	if k.left == 0 {
		k.left = 1
	}
	if slices.Contains(m.classes[d.class].avoiding, in.Name) {
		k.exempt = d.class // there is no elsewhere
	}
	m.alive++
	wrong := k.trust(m.kinds[k.kind].labels)
	if _, is := m.held[in.Name]; is && in.Name != "" {
		wrong = fmt.Sprintf("the source gave worker %s, which the run holds already", in.Name)
	} else {
		m.held[in.Name] = w
	}
	m.joinShape(w)
	switch {
	case m.cancelled != "":
		m.letGo(w, "")
	case wrong != "":
		m.kindFails(k.kind, wrong)
		m.letGo(w, wrong)
	default:
		m.setState(w, workerIdle)
	}
}

// trust gives a worker the labels of the demand that brought it where it says
// nothing of them: a source may match by more than it tells. It returns what
// is wrong when it says otherwise.
func (w *worker) trust(wanted map[string]string) string {
	missing := false
	for key, v := range wanted {
		switch has, is := w.labels[key]; {
		case !is:
			missing = true
		case has != v:
			return fmt.Sprintf("the source gave worker %s with %s=%s, asked for %s=%s", w.name, key, has, key, v)
		}
	}
	if missing {
		labels := maps.Clone(wanted)
		maps.Copy(labels, w.labels)
		w.labels = labels
	}
	return ""
}

// refused: the source gave no worker.
func (m *machine) refused(in *input) {
	d := m.demands[in.ID]
	m.dropDemand(in.ID)
	if d.state == demandWithdrawn || m.cancelled != "" {
		return
	}
	kind := m.classes[d.class].kind
	if in.Impossible {
		m.kindDies(kind, causeImpossible, in.Text)
		return
	}
	m.kindFails(kind, in.Text)
}

// kindFails counts a failure to get, or to use, a worker of a kind.
func (m *machine) kindFails(kind int32, text string) {
	k := &m.kinds[kind]
	if k.dead != causeNone || m.cancelled != "" {
		return
	}
	k.fails++
	k.lastFail = text
	if k.fails > m.conf.Respawns {
		m.kindDies(kind, causeRespawns, text)
		return
	}
	if m.now >= k.notBefore { // those that fail together count once
		wait := int64(m.conf.Backoff)
		for i := 0; i < k.level && wait < int64(m.conf.MostBackoff); i++ {
			wait *= 2
		}
		k.level++
		k.notBefore = m.now + min(wait, int64(m.conf.MostBackoff))
		m.timers.add(timer{at: k.notBefore, kind: timeBackoff, id: kind})
	}
	m.do(action{kind: doNote, id: int32(k.fails), text: text})
}

// kindDies ends all tasks that want a kind's labels; those that become ready
// later end then.
func (m *machine) kindDies(kind int32, why cause, text string) {
	k := &m.kinds[kind]
	if k.dead != causeNone {
		return
	}
	k.dead, k.deadText = why, text
	var ends []int32
	collect := func(b *bundle) {
		for {
			t, ok := m.bundleTop(b)
			if !ok {
				return
			}
			b.q.pop()
			ends = append(ends, t)
		}
	}
	for _, c := range k.classes {
		for len(m.classes[c].demands) > 0 {
			m.withdraw(m.classes[c].demands[0])
		}
		for {
			e, ok := m.classes[c].q.top()
			if !ok {
				break
			}
			m.classes[c].q.pop()
			switch {
			case e.id < 0:
				collect(&m.bundles[^e.id])
			case m.isUnit(e, c):
				ends = append(ends, e.id)
			}
		}
	}
	for _, id := range m.dirty { // what is not in a class's queue yet
		if b := &m.bundles[id]; m.classes[b.class].kind == kind {
			collect(b)
		}
	}
	// By index: the order in queues depends on what was looked at before.
	slices.Sort(ends)
	for _, t := range slices.Compact(ends) {
		if m.tasks[t].state == stateReady {
			m.finish(t, statusErrored, why, text, -1)
		}
	}
}
