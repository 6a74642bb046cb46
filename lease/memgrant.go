package lease

// A Manager on a MemStore grants and releases what nobody else wants without
// copying records: the store is memory, and Manager.mu is its lock too. All else
// goes the way of all stores.

// nanos are those of a second.
const nanos = 1_000_000_000

// grantInMemory makes l, which nobody here holds or waits for, the holder of its
// key where the store has no record of it. Called with mu held.
func (m *Manager) grantInMemory(l *Lease) bool {
	s := m.mem
	r := s.records[l.key]
	if !r.free() {
		return false
	}
	if r == nil {
		r = s.fresh(l.key)
	}
	s.token++
	r.token, r.renewals, r.note = s.token, 0, l.note
	r.sinceSec, r.sinceNano = l.since/nanos, int32(l.since%nanos) //nolint:gosec // less than a second
	r.renewedSec, r.renewedNano = r.sinceSec, r.sinceNano
	sess := l.sess.Load()
	if sess.mem == nil {
		sess.mem = s.termsOf(&sess.terms)
	}
	sess.mem.refs++
	r.terms = sess.mem
	l.mem = r
	l.token.Store(r.token)
	l.state.Store(stateHeld)
	m.held[l.key] = l
	if s.watches.n > 0 {
		s.watches.tell(l.key)
	}
	return true
}

// releaseInMemory deletes the record of l, which has just been released and is in
// held. Called with mu held. A record that is no longer l's has another token.
func (m *Manager) releaseInMemory(l *Lease) bool {
	r := l.mem
	if r == nil || l.busy || r.token != l.token.Load() || r.renewals != l.renewals {
		return false
	}
	m.mem.drop(l.key, r)
	l.mem, l.clean = nil, true
	delete(m.held, l.key)
	if len(m.queues) > 0 {
		m.wake(l.key)
	}
	return true
}
