package scheduler

import "time"

// timers is a heap of moments at which the machine wants a tick. Those that no
// longer hold are dropped when they are due.
type timers struct{ rows []timer }

type timer struct {
	at   int64
	kind timerKind
	id   int32
	gen  int32
}

type timerKind uint8

const (
	timeIdle    timerKind = iota // id: worker
	timeBatch                    // id: batch: its deadline
	timeAbandon                  // id: batch: it was interrupted
	timeBackoff                  // id: kind
	timeDesert                   // id: demand: it was withdrawn
	timePending                  // id: row of pendingLimits
	timeRotate                   // id: class
)

func (t *timers) add(x timer) {
	t.rows = append(t.rows, x)
	i := len(t.rows) - 1
	for i > 0 {
		p := (i - 1) / 2
		if t.rows[p].at <= x.at {
			break
		}
		t.rows[i] = t.rows[p]
		i = p
	}
	t.rows[i] = x
}

// due returns and drops the first that is not later than now.
func (t *timers) due(now int64) (timer, bool) {
	if len(t.rows) == 0 || t.rows[0].at > now {
		return timer{}, false
	}
	first := t.rows[0]
	last := len(t.rows) - 1
	x := t.rows[last]
	t.rows = t.rows[:last]
	i := 0
	for last > 0 {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && t.rows[c+1].at < t.rows[c].at {
			c++
		}
		if t.rows[c].at >= x.at {
			break
		}
		t.rows[i] = t.rows[c]
		i = c
	}
	if last > 0 {
		t.rows[i] = x
	}
	return first, true
}

// pendingLimits holds the ready tasks per pending limit, in the order in which
// they became ready, so that the first to expire is at the front.
type pendingLimits struct {
	by   map[int64]int
	rows []pendingRow
}

type pendingRow struct {
	limit int64
	tasks []pendingTask
	head  int
	armed bool // has a timer
}

type pendingTask struct {
	at   int64
	task int32
}

// pend notes that a task began to wait for a worker.
func (m *machine) pend(t int32) {
	limit := int64(DefaultPendingLimit)
	if c := m.tasks[t].cold; c >= 0 && m.loose[c].limit != 0 {
		limit = m.loose[c].limit
	}
	if limit < 0 || limit > 1<<61 {
		return
	}
	p := &m.pending
	i, is := p.by[limit]
	if !is {
		if p.by == nil {
			p.by = make(map[int64]int)
		}
		i = len(p.rows)
		p.by[limit] = i
		p.rows = append(p.rows, pendingRow{limit: limit})
	}
	r := &p.rows[i]
	r.tasks = append(r.tasks, pendingTask{m.now, t})
	if !r.armed {
		r.armed = true
		m.timers.add(timer{at: m.now + limit, kind: timePending, id: int32(i)})
	}
}

// front returns the first task of a row that still waits since then.
func (m *machine) front(r *pendingRow) (pendingTask, bool) {
	for r.head < len(r.tasks) {
		p := r.tasks[r.head]
		if t := &m.tasks[p.task]; t.state == stateReady && t.at == p.at {
			return p, true
		}
		r.head++
		if r.head == len(r.tasks) {
			r.tasks, r.head = r.tasks[:0], 0
		} else if r.head > 1024 && r.head > len(r.tasks)/2 {
			r.tasks = append(r.tasks[:0], r.tasks[r.head:]...)
			r.head = 0
		}
	}
	return pendingTask{}, false
}

// next returns when the machine wants a tick; ok is false for never.
func (m *machine) next() (at int64, ok bool) {
	if len(m.timers.rows) == 0 {
		return 0, false
	}
	return m.timers.rows[0].at, true
}

// expire ends the tasks of a row that waited for too long.
func (m *machine) expire(row int32) {
	for {
		r := &m.pending.rows[row]
		p, is := m.front(r)
		if !is {
			r.armed = false
			return
		}
		if due := p.at + r.limit; due > m.now {
			m.timers.add(timer{at: due, kind: timePending, id: row})
			return
		}
		m.finish(p.task, statusErrored, causePending, time.Duration(r.limit).String(), -1)
	}
}

// tick does what is due.
func (m *machine) tick() {
	for {
		t, ok := m.timers.due(m.now)
		if !ok {
			break
		}
		switch t.kind {
		case timeIdle:
			w := &m.workers[t.id]
			w.armed = false
			if w.state != workerIdle || len(w.batches) > 0 {
				break
			}
			if due := w.since + int64(m.conf.Idle); due > m.now {
				w.armed = true
				m.timers.add(timer{at: due, kind: timeIdle, id: t.id})
				break
			}
			m.letGo(t.id, "")
		case timeBatch:
			if b := &m.batches[t.id]; b.gen == t.gen && b.state == batchRuns {
				m.interrupt(t.id, "its tasks ran out of their time and the worker did not end them")
			}
		case timeAbandon:
			if b := &m.batches[t.id]; b.gen == t.gen && b.state == batchInterrupted {
				m.abandon(t.id)
			}
		case timeBackoff:
			for _, c := range m.kinds[t.id].classes {
				m.wantMore(c)
			}
		case timeDesert:
			if d := &m.demands[t.id]; d.gen == t.gen && d.state == demandWithdrawn {
				if m.finished() {
					m.do(action{kind: doDesert, id: t.id})
					m.dropDemand(t.id)
				} else {
					m.timers.add(timer{at: m.now + m.patience(), kind: timeDesert, id: t.id, gen: t.gen})
				}
			}
		case timePending:
			m.expire(t.id)
		case timeRotate:
			m.aged(t.id)
		}
	}
}
