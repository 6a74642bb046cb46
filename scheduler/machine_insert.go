package scheduler

import "math"

// mostSeconds bounds an estimate, so that sums of a million stay exact enough
// to order by.
const mostSeconds = 1e9

func (m *machine) insert(specs []spec, first int32, order []int32) {
	for i := range specs {
		s := &specs[i]
		t := task{succ: -1, pred: -1, bundle: -1, batch: -1, cold: -1,
			prio: int32(max(minPriority, min(maxPriority, s.Priority)))}
		if s.Estimate >= 0 {
			t.est = min(s.Estimate.Seconds(), mostSeconds)
			m.known += math.Log(max(t.est, 1e-3))
			m.knownCount++
			m.longest = max(m.longest, t.est)
		} else {
			t.unseen = true
		}
		accountID := m.account(s.Account, m.conf.Accounts[s.Account])
		kind := m.kindOf(s.Labels)
		t.class = m.classOf(classKey{kind: kind, account: accountID, executor: m.executorOf(s.Labels), serial: s.Serial, exclusive: s.Exclusive, apart: s.Apart})
		t.key = m.keys.node(s.Affinity, s.Group)
		m.slow = m.slow || t.key != 0
		if s.Group != "" && s.Apart == "" {
			t.bundle = m.bundle(m.groupID(s.Group), t.class, t.key)
		}
		if s.Attempts != 0 || s.Timeout != 0 || s.Pending != 0 {
			t.cold = int32(len(m.loose))
			m.loose = append(m.loose, coldTask{attempts: int32(s.Attempts), timeout: int64(s.Timeout), limit: int64(s.Pending), by: -1})
		}
		m.ids = append(m.ids, s.ID)
		m.tasks = append(m.tasks, t)
		m.classes[t.class].waiting++
	}
	for i := range specs {
		for k := range specs[i].After {
			d := &specs[i].After[k]
			m.link(m.byID[d.Task], first+int32(i), m.condition(d))
		}
	}
	m.unfinished += len(specs)
	m.waiting += len(specs)
	m.topo = append(m.topo, order...)
	typical := m.typical()
	for i := range specs {
		t := &m.tasks[first+int32(i)]
		if t.unseen {
			t.est = typical
		}
		m.work += t.est
		m.total += t.est
	}
	if m.started {
		m.critical = slack * m.total / float64(m.conf.Workers)
		m.tails(order, true)
		m.release(first, int32(len(m.tasks)))
	}
}

func (m *machine) link(from, to, cond int32) {
	id := int32(len(m.edges))
	f, t := &m.tasks[from], &m.tasks[to]
	e := edge{from: from, to: to, nextOut: f.succ, nextIn: t.pred, cond: cond}
	f.succ, t.pred = id, id
	t.waits++
	m.edges = append(m.edges, e)
}

func (m *machine) condition(d *Dependency) int32 {
	if d.Ended {
		return 1
	}
	if len(d.Statuses) == 0 && len(d.Exits) == 0 {
		return 0
	}
	c := condition{words: d.Statuses}
	for _, w := range d.Statuses {
		c.statuses = append(c.statuses, statusOf(w))
	}
	for _, x := range d.Exits {
		c.exits = append(c.exits, int32(x))
	}
	m.conds = append(m.conds, c)
	return int32(len(m.conds) - 1)
}

// start makes the first tasks ready; before it, adding costs no decisions.
func (m *machine) start() {
	if m.started {
		return
	}
	m.started = true
	typical := m.typical()
	m.work, m.total = 0, 0
	for i := range m.tasks {
		t := &m.tasks[i]
		if t.unseen {
			t.est = typical
		}
		m.work += t.est
		m.total += t.est
	}
	m.critical = slack * m.total / float64(m.conf.Workers)
	m.tails(m.topo, false)
	m.release(0, int32(len(m.tasks)))
}

// release makes ready which of the tasks waits for nothing, or blocks it.
func (m *machine) release(from, to int32) {
	for t := from; t < to; t++ {
		k := &m.tasks[t]
		if k.state != stateWaiting {
			continue
		}
		blocked := int32(-1)
		for e := k.pred; e >= 0; e = m.edges[e].nextIn {
			ed := &m.edges[e]
			f := &m.tasks[ed.from]
			if ed.met || f.state != stateEnded || ed.from >= from {
				continue // of the new ones, whoever ends tells its successors
			}
			if m.conds[ed.cond].met(f.status, m.exit(ed.from)) {
				ed.met = true
				k.waits--
			} else {
				blocked = ed.from
			}
		}
		switch {
		case blocked >= 0:
			m.finishBlocked(t, blocked)
		case k.waits == 0:
			m.makeReady(t)
		}
	}
}

func (m *machine) exit(t int32) int32 {
	if c := m.tasks[t].cold; c >= 0 {
		return m.loose[c].exit
	}
	return 0
}

// cold returns what few tasks have, made at need.
func (m *machine) cold(t int32) *coldTask {
	k := &m.tasks[t]
	if k.cold < 0 {
		k.cold = int32(len(m.loose))
		m.loose = append(m.loose, coldTask{by: -1})
	}
	return &m.loose[k.cold]
}
