package scheduler

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// spec is a Task without its payload.
type spec struct {
	ID        string            `json:"id"`
	Group     string            `json:"group,omitempty"`
	Affinity  string            `json:"affinity,omitempty"`
	Account   string            `json:"account,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	After     []Dependency      `json:"after,omitempty"`
	Priority  int               `json:"priority,omitempty"`
	Estimate  time.Duration     `json:"estimate,omitempty"` // negative: never seen
	Timeout   time.Duration     `json:"timeout,omitempty"`
	Pending   time.Duration     `json:"pending,omitempty"`
	Attempts  int               `json:"attempts,omitempty"`
	Serial    bool              `json:"serial,omitempty"`
	Exclusive bool              `json:"exclusive,omitempty"`
}

func specOf[J any](t *Task[J], estimate func(string) (Estimate, bool)) spec {
	s := spec{
		ID: t.ID, Group: t.Group, Affinity: t.Affinity, Account: t.Account, Labels: t.Labels,
		After: t.After, Priority: t.Priority, Estimate: t.Estimate, Timeout: t.Timeout,
		Pending: t.PendingLimit, Attempts: t.Attempts, Serial: t.Serial, Exclusive: t.Exclusive,
	}
	if s.Estimate <= 0 {
		s.Estimate = -1
		if estimate != nil {
			if e, ok := estimate(t.ID); ok && e.Duration >= 0 {
				s.Estimate = e.Duration
			}
		}
	}
	return s
}

// mostErrors is how many mistakes one Add tells of.
const mostErrors = 10

// add takes all of the tasks or, with an error, none.
func (m *machine) add(specs []spec) error {
	first := int32(len(m.tasks))
	if len(m.tasks)+len(specs) > math.MaxInt32/2 {
		return &OpError{Op: "add", Err: fmt.Errorf("%d tasks are more than a run can hold", len(m.tasks)+len(specs))}
	}
	if m.cancelled != "" {
		return &OpError{Op: "add", Err: fmt.Errorf("%w: %s", ErrEnded, m.cancelled)}
	}
	var wrong []error
	complain := func(task string, err error) {
		if len(wrong) < mostErrors {
			wrong = append(wrong, &OpError{Op: "add", Task: task, Err: err})
		}
	}
	named := 0
	for i := range specs {
		s := &specs[i]
		if s.ID == "" {
			complain("", fmt.Errorf("Task.ID of the task at %d is empty, want a name", i))
			break
		}
		if _, is := m.byID[s.ID]; is {
			complain(s.ID, ErrDuplicate)
			break
		}
		m.byID[s.ID] = first + int32(i)
		named++
	}
	if len(wrong) == 0 {
		m.checkSpecs(specs, complain)
	}
	var order []int32
	if len(wrong) == 0 {
		var cycle []int32
		if order, cycle = m.topological(specs, first); cycle != nil {
			var path strings.Builder
			for i, t := range cycle {
				switch {
				case i == 8 && len(cycle) > 12:
					fmt.Fprintf(&path, " -> ... %d more", len(cycle)-10)
				case i >= 8 && i < len(cycle)-2 && len(cycle) > 12:
				default:
					if i > 0 {
						path.WriteString(" -> ")
					}
					path.WriteString(specs[t-first].ID)
				}
			}
			complain(specs[cycle[0]-first].ID, fmt.Errorf("%w: %s (each waits for the next)", ErrCycle, path.String()))
		}
	}
	if len(wrong) > 0 {
		for i := range specs[:named] {
			delete(m.byID, specs[i].ID)
		}
		return errors.Join(wrong...)
	}
	m.insert(specs, first, order)
	return nil
}

func (m *machine) checkSpecs(specs []spec, complain func(string, error)) {
	for i := range specs {
		s := &specs[i]
		switch {
		case s.Attempts < 0 || s.Attempts > math.MaxInt32:
			complain(s.ID, fmt.Errorf("Task.Attempts is %d, want 0 or more", s.Attempts))
		case s.Timeout < 0:
			complain(s.ID, fmt.Errorf("Task.Timeout is %v, want 0 or more", s.Timeout))
		}
		for _, d := range s.After {
			if _, is := m.byID[d.Task]; !is {
				complain(s.ID, fmt.Errorf("depends on %q: %w%s", d.Task, ErrUnknown, suggest(d.Task, func(yield func(string) bool) {
					for id := range m.byID {
						if id != s.ID && !yield(id) {
							return
						}
					}
				})))
			}
			for _, w := range d.Statuses {
				if statusOf(w) == statusNone {
					complain(s.ID, fmt.Errorf("depends on %q with the unknown status %q, want one of %s", d.Task, w,
						strings.Join(statusWords[1:], ", ")))
				}
			}
		}
	}
}

// topological orders new tasks behind what they depend on (Kahn), or returns a
// cycle, its first task repeated at its end. Older tasks cannot depend on newer.
func (m *machine) topological(specs []spec, first int32) (order, cycle []int32) {
	order = make([]int32, 0, len(specs))
	inOrder := true
	for i := range specs {
		for _, d := range specs[i].After {
			inOrder = inOrder && m.byID[d.Task] < first+int32(i)
		}
		order = append(order, first+int32(i))
	}
	if inOrder {
		return order, nil
	}
	order = order[:0]
	waits := make([]int32, len(specs))
	heads := make([]int32, len(specs))
	for i := range heads {
		heads[i] = -1
	}
	type link struct{ to, next int32 }
	var links []link
	for i := range specs {
		for _, d := range specs[i].After {
			if p := m.byID[d.Task]; p >= first {
				waits[i]++
				links = append(links, link{int32(i), heads[p-first]})
				heads[p-first] = int32(len(links) - 1)
			}
		}
	}
	for i, w := range waits {
		if w == 0 {
			order = append(order, first+int32(i))
		}
	}
	for k := 0; k < len(order); k++ {
		for l := heads[order[k]-first]; l >= 0; l = links[l].next {
			to := links[l].to
			if waits[to]--; waits[to] == 0 {
				order = append(order, first+to)
			}
		}
	}
	if len(order) == len(specs) {
		return order, nil
	}
	// Every task that is left has a dependency that is left: walk along those
	// until one comes again.
	at := int32(0)
	for waits[at] == 0 {
		at++
	}
	seen := make(map[int32]int)
	var path []int32
	for {
		if k, again := seen[at]; again {
			for _, t := range path[k:] {
				cycle = append(cycle, first+t)
			}
			return nil, append(cycle, first+at)
		}
		seen[at] = len(path)
		path = append(path, at)
		for _, d := range specs[at].After {
			if p := m.byID[d.Task]; p >= first && waits[p-first] > 0 {
				at = p - first
				break
			}
		}
	}
}

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
		accountID := m.account(s.Account)
		kind := m.kindOf(s.Labels)
		t.class = m.classOf(classKey{kind: kind, account: accountID, serial: s.Serial, exclusive: s.Exclusive})
		t.key = m.keys.node(s.Affinity, s.Group)
		m.slow = m.slow || t.key != 0
		if s.Group != "" {
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
