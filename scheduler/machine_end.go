package scheduler

import (
	"fmt"
	"slices"
	"time"
)

// patience is how long the runtime waits for what was interrupted.
func (m *machine) patience() int64 { return int64(m.conf.Grace + m.conf.GraceMargin) }

// pump decides what follows from what has changed.
func (m *machine) pump() {
	m.settle()
	if m.started && m.cancelled == "" {
		m.assign()
		m.settle()
		m.ask()
	}
	m.trim()
}

// trim lets workers go that there is nothing more for.
func (m *machine) trim() {
	if m.idle == 0 {
		return
	}
	if m.cancelled == "" && m.conf.Idle > 0 && (m.ready > 0 || m.waiting > 0 || m.holds > 0) {
		return
	}
	for w := range m.workers {
		if k := &m.workers[w]; k.state == workerIdle && len(k.batches) == 0 {
			m.letGo(int32(w), "")
		}
	}
}

// letGo has a worker released that runs nothing.
func (m *machine) letGo(w int32, why string) {
	k := &m.workers[w]
	if k.state == workerReleasing || k.state == workerGone {
		return
	}
	m.setState(w, workerReleasing)
	if m.held[k.name] == w { // from here on the source may give it again
		delete(m.held, k.name)
	}
	for _, key := range k.known {
		m.forget(w, key)
	}
	k.known = k.known[:0]
	m.leaveShape(w)
	m.releasing++
	m.do(action{kind: doRelease, id: w, text: why})
}

func (m *machine) released(w int32) {
	k := &m.workers[w]
	k.state = workerGone
	k.labels = nil
	k.gen++
	m.releasing--
	m.alive--
	m.freeWorker = append(m.freeWorker, w)
}

func (m *machine) taskStarted(b, t int32) {
	if k := &m.tasks[t]; k.batch == b && k.state == stateGiven {
		k.state = stateStarted
		k.at = m.now
	}
}

// taskEnded takes a worker's verdict, which is final unless the environment
// failed.
func (m *machine) taskEnded(in *input) {
	t := in.Task
	k := &m.tasks[t]
	if k.batch != in.ID || k.state != stateGiven && k.state != stateStarted {
		return
	}
	k.tries++
	w := &m.workers[m.batches[in.ID].worker]
	switch s := statusOf(in.Status); {
	case in.Infra && m.cancelled != "":
		m.finish(t, statusAborted, m.cancelCause, m.cancelled, -1)
	case in.Infra && in.Final:
		m.finish(t, statusErrored, causeFinal, in.Text, -1)
	case in.Infra:
		m.retry(t, w.name, in.Text)
	case s == statusNone:
		m.finish(t, statusErrored, causeStatus, in.Status, -1)
	default:
		w.good = true
		kd := &m.kinds[w.kind]
		kd.fails, kd.level = 0, 0
		if m.slow && s != statusTimedOut && s != statusSkipped {
			m.noteSwitch(t, in.ID)
		}
		if in.Exit != 0 {
			m.cold(t).exit = int32(in.Exit)
		}
		m.finish(t, s, causeNone, "", -1)
	}
}

// over: a worker's Run returned, or is not waited for any longer.
func (m *machine) over(in *input) {
	id := in.ID
	b := &m.batches[id]
	b.state = batchAbandoned // no longer to be interrupted
	w := b.worker
	why := in.Text
	if b.left > 0 {
		if why == "" && m.cancelled == "" {
			why = fmt.Sprintf("worker %s returned without ending %d of its tasks", m.workers[w].name, b.left)
		}
		nobody := in.Text == "" || in.Panic // whatever was not ended was lost
		for i := 0; i < len(m.batches[id].tasks); i++ {
			t := m.batches[id].tasks[i]
			k := &m.tasks[t]
			if k.batch != id || k.state != stateGiven && k.state != stateStarted {
				continue
			}
			switch {
			case m.cancelled != "":
				if k.state == stateStarted {
					m.do(action{kind: doAttempt, id: t, worker: w, at: k.at, text: m.cancelled})
				}
				m.finish(t, statusAborted, m.cancelCause, m.cancelled, -1)
			case k.state == stateStarted || nobody:
				k.tries++
				k.lost++
				m.do(action{kind: doAttempt, id: t, worker: w, at: k.at, text: why})
				m.retry(t, m.workers[w].name, why)
			default:
				m.again(t, "")
			}
		}
	}
	m.closeBatch(id, why)
}

// closeBatch gives back what a batch held.
func (m *machine) closeBatch(id int32, broken string) {
	b := &m.batches[id]
	w, c := b.worker, b.class
	b.state = batchFree
	b.gen++
	m.freeBatch = append(m.freeBatch, id)
	m.running--
	for _, a := range m.classes[c].accounts {
		m.accounts[a].used--
		for _, x := range m.accounts[a].classes {
			m.dirtyClass(x)
		}
	}
	if m.classes[c].exclusive {
		m.exclusively--
	}
	if len(m.exclusive) > 0 && m.running == 0 {
		for _, x := range m.exclusive {
			m.dirtyClass(x)
		}
		for s := range m.shapes {
			m.lookAt(int32(s))
		}
	}
	k := &m.workers[w]
	k.batches = slices.DeleteFunc(k.batches, func(x int32) bool { return x == id })
	k.room++
	if broken != "" && k.broken == "" {
		k.broken = broken
		if m.cancelled == "" {
			if k.good {
				m.do(action{kind: doNote, text: broken})
			} else {
				m.kindFails(k.kind, broken)
			}
		}
	}
	switch {
	case k.broken == "" && k.left != 0 && m.cancelled == "":
		if k.state == workerIdle { // it had room before: its time starts anew
			m.lookAt(k.shape)
			m.armIdle(w)
			return
		}
		m.setState(w, workerIdle)
	case len(k.batches) > 0:
		m.setState(w, workerBusy)
	default:
		m.letGo(w, k.broken)
	}
}

// retry tries a task again elsewhere, if it may be.
func (m *machine) retry(t int32, worker, text string) {
	k := &m.tasks[t]
	most := int32(m.conf.Attempts)
	if k.cold >= 0 && m.loose[k.cold].attempts > 0 {
		most = m.loose[k.cold].attempts
	}
	budget := m.conf.Retries
	if budget == 0 {
		budget = len(m.tasks)/2 + 10
	}
	switch {
	case int(k.lost) >= m.conf.PoisonAfter:
		m.finish(t, statusErrored, causePoison, text, -1)
	case k.tries >= most:
		m.finish(t, statusErrored, causeAttempts, text, -1)
	case m.retries >= budget:
		m.finish(t, statusErrored, causeBudget, text, -1)
	default:
		m.retries++
		m.again(t, worker)
	}
}

// finish ends a task for good and tells who depends on it.
func (m *machine) finish(t int32, s status, why cause, text string, by int32) {
	k := &m.tasks[t]
	switch k.state {
	case stateEnded:
		return
	case stateWaiting:
		m.waiting--
		m.classes[k.class].waiting--
		m.work = max(0, m.work-k.est)
		m.surplus(k.class)
	case stateReady:
		m.unqueue(t)
		m.work = max(0, m.work-k.est)
	default:
		m.active--
		m.batches[k.batch].left--
	}
	k.state = stateEnded
	k.status = s
	m.byStatus[s]++
	m.unfinished--
	m.done += k.est
	if why != causeNone {
		c := m.cold(t)
		c.cause, c.text, c.by, c.root = why, text, by, by
		if by >= 0 && m.tasks[by].status == statusBlocked {
			c.root = m.loose[m.tasks[by].cold].root
		}
	}
	m.do(action{kind: doOutcome, id: t})
	if m.tasks[t].succ >= 0 {
		m.ends = append(m.ends, t)
		m.tell()
	}
	if s == statusFailed || s == statusTimedOut || s == statusErrored {
		m.failures++
		if m.conf.MostFailures > 0 && m.failures >= m.conf.MostFailures {
			m.cancel(causeMostFailures, fmt.Sprintf("%d tasks have failed, the most that are allowed", m.failures))
		}
	}
}

// tell goes from ended tasks to those that depend on them, without recursion:
// a chain may be a million long.
func (m *machine) tell() {
	if m.telling {
		return
	}
	m.telling = true
	for len(m.ends) > 0 {
		t := m.ends[len(m.ends)-1]
		m.ends = m.ends[:len(m.ends)-1]
		s, exit := m.tasks[t].status, m.exit(t)
		for e := m.tasks[t].succ; e >= 0; e = m.edges[e].nextOut {
			ed := &m.edges[e]
			to := &m.tasks[ed.to]
			if ed.met || to.state != stateWaiting {
				continue
			}
			switch {
			case m.cancelled != "":
				m.finish(ed.to, statusAborted, m.cancelCause, m.cancelled, -1)
			case m.conds[ed.cond].met(s, exit):
				ed.met = true
				if to.waits--; to.waits == 0 {
					m.makeReady(ed.to)
				}
			default:
				m.finishBlocked(ed.to, t)
			}
		}
	}
	m.telling = false
}

func (m *machine) finishBlocked(t, by int32) {
	m.finish(t, statusBlocked, causeBlocked, "", by)
}

// cancel ends all that does not run and interrupts what does.
func (m *machine) cancel(why cause, text string) {
	if m.cancelled != "" {
		return
	}
	if text == "" {
		text = "the run was cancelled"
	}
	m.cancelled, m.cancelCause = text, why
	for i := len(m.asked) - 1; i >= 0; i-- {
		if m.demands[m.asked[i]].state == demandOut {
			m.withdraw(m.asked[i])
		}
	}
	for t := range m.tasks {
		if s := m.tasks[t].state; s == stateWaiting || s == stateReady {
			m.finish(int32(t), statusAborted, why, text, -1)
		}
	}
	for b := range m.batches {
		if m.batches[b].state == batchRuns {
			m.interrupt(int32(b), text)
		}
	}
}

// interrupt asks a worker to end a batch.
func (m *machine) interrupt(id int32, text string) {
	b := &m.batches[id]
	b.state = batchInterrupted
	b.text = text
	m.timers.add(timer{at: m.now + m.patience(), kind: timeAbandon, id: id, gen: b.gen})
	m.do(action{kind: doInterrupt, id: id, text: text})
}

// abandon stops waiting for a batch: its worker is released under it.
func (m *machine) abandon(id int32) {
	b := &m.batches[id]
	text := fmt.Sprintf("%s; worker %s did not return within %v after it was interrupted", b.text,
		m.workers[b.worker].name, time.Duration(m.patience()))
	m.do(action{kind: doAbandon, id: id, text: text})
	m.over(&input{Kind: inOver, ID: id, Text: text, Panic: true})
}

// limitBatch sets the deadline of a batch whose tasks all have a timeout: the
// worker measures those, so this is for a worker that does not.
func (m *machine) limitBatch(id int32) {
	b := &m.batches[id]
	if m.workers[b.worker].ownLimits {
		return
	}
	sum := int64(0)
	for _, t := range b.tasks {
		c := m.tasks[t].cold
		if c < 0 || m.loose[c].timeout <= 0 {
			return
		}
		sum += m.loose[c].timeout
		if sum > 1<<61 {
			return
		}
	}
	b.deadline = m.now + sum + m.patience()
	m.timers.add(timer{at: b.deadline, kind: timeBatch, id: id, gen: b.gen})
}
