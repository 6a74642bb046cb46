package scheduler

// give makes a batch of a unit for a worker.
func (m *machine) give(w, c int32, e entry) {
	var id int32
	if n := len(m.freeBatch); n > 0 {
		id = m.freeBatch[n-1]
		m.freeBatch = m.freeBatch[:n-1]
	} else {
		id = int32(len(m.batches))
		m.batches = append(m.batches, batch{})
	}
	b := &m.batches[id]
	*b = batch{worker: w, class: c, group: -1, tasks: b.tasks[:0], at: m.now, last: m.now, state: batchRuns, gen: b.gen + 1}
	if e.id >= 0 {
		b.tasks = append(b.tasks, e.id)
		b.switched = m.learnBatch(w, m.tasks[e.id].key)
		m.hand(e.id, id)
	} else {
		u := &m.bundles[^e.id]
		b.group = u.group
		b.switched = m.learnBatch(w, u.key)
		most, sum := m.cut(), 0.0
		for u.count > 0 {
			t, ok := m.bundleTop(u)
			if !ok {
				break
			}
			if sum += m.tasks[t].est; sum > most && len(b.tasks) > 0 {
				break
			}
			u.q.pop()
			b.tasks = append(b.tasks, t)
			m.hand(t, id)
		}
	}
	b.left = len(b.tasks)
	m.limitBatch(id)
	m.running++
	if m.classes[c].exclusive {
		m.exclusively++
	}
	for _, a := range m.classes[c].accounts {
		m.accounts[a].used++
	}
	k := &m.workers[w]
	if a := m.classes[c].apart; a != "" {
		k.apart = append(k.apart, a)
	}
	k.batches = append(k.batches, id)
	k.room--
	if k.left > 0 {
		k.left--
	}
	if k.room == 0 || k.left == 0 {
		m.setState(w, workerBusy)
	}
	m.do(action{kind: doRun, id: id, worker: w})
}

func (m *machine) hand(t, b int32) {
	m.unqueue(t)
	k := &m.tasks[t]
	k.state = stateGiven
	k.batch = b
	k.at = m.now
	m.work = max(0, m.work-k.est)
	m.active++
}
