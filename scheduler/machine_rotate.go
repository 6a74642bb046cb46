package scheduler

import "time"

// A source may never answer the demands of one class: no machine with its
// labels is up, or all are held by others. Those demands must not hold all the
// room for good, so the old ones make way for other classes, and their class
// waits behind the others until it is answered.

// rotateAfter is the age at which a class's demands make way.
func (m *machine) rotateAfter(k *class) int64 {
	return int64(m.conf.Rotate) << min(k.turns, 20)
}

// watch arms the timer for the oldest demand of a class.
func (m *machine) watch(c int32) {
	k := &m.classes[c]
	if k.watched || m.conf.Rotate <= 0 || m.conf.Rotate > mostRotate || len(k.demands) == 0 {
		return
	}
	k.watched = true
	m.timers.add(timer{at: m.demands[k.demands[0]].at + m.rotateAfter(k), kind: timeRotate, id: c})
}

// mostRotate is what is never reached, and can be doubled.
const mostRotate = 1000 * time.Hour

// aged is the tick of a class's timer.
func (m *machine) aged(c int32) {
	k := &m.classes[c]
	k.watched = false
	if len(k.demands) == 0 {
		return
	}
	if m.old(k.demands[0]) {
		k.aged = true
		return // armed again with its next demand
	}
	m.watch(c)
}

// old says that a demand goes without an answer for too long.
func (m *machine) old(id int32) bool {
	d := &m.demands[id]
	return m.conf.Rotate > 0 && d.state == demandOut && m.now-d.at >= m.rotateAfter(&m.classes[d.class])
}

// rotate takes back the oldest demand, if it is old, for a class that has none
// out and no room for one. One at a time: if that brings a worker, the class
// may have the next.
func (m *machine) rotate(c int32, need int) {
	if need <= 0 || m.conf.Rotate <= 0 || len(m.classes[c].demands) > 0 {
		return
	}
	oldest := int32(-1)
	for _, id := range m.asked {
		if m.demands[id].class != c && m.old(id) && (oldest < 0 || m.demands[id].at < m.demands[oldest].at) {
			oldest = id
		}
	}
	if oldest < 0 {
		return
	}
	k := &m.classes[m.demands[oldest].class]
	k.aged = true
	k.turns++
	m.withdraw(oldest)
}

// answered: a worker came for a class.
func (m *machine) answered(c int32) {
	k := &m.classes[c]
	if k.aged || k.turns > 0 {
		k.aged, k.turns = false, 0
		m.wantMore(c)
	}
}
