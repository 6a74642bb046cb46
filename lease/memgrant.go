package lease

import "time"

// A Manager on a MemStore grants and releases what nobody else wants without
// copying records: the store is memory, so it may be asked with Manager.mu held.
// All else goes the way of all stores.

// grantInMemory makes l, which nobody here holds or waits for, the holder of its
// key where the store has no record of it. Called with mu held.
func (m *Manager) grantInMemory(l *Lease, now time.Time) bool {
	token, ok := m.mem.create(l, &l.sess.Load().terms, now)
	if ok {
		l.token.Store(token)
		l.state.Store(stateHeld)
		m.held[l.key] = l
	}
	return ok
}

// releaseInMemory deletes the record of l, which has just been released. Called
// with mu held.
func (m *Manager) releaseInMemory(l *Lease) bool {
	if l.busy || !m.mem.take(l.key, l.token.Load(), l.renewals) {
		return false
	}
	l.clean = true
	if m.held[l.key] == l {
		delete(m.held, l.key)
	}
	if len(m.queues) > 0 {
		m.wake(l.key)
	}
	return true
}

// create is Swap of nothing by the record that l and terms make.
func (s *MemStore) create(l *Lease, terms *Record, now time.Time) (token uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[l.key] != nil {
		return 0, false
	}
	if s.records == nil {
		s.records = make(map[string]*memRecord)
	}
	r := s.fresh()
	s.records[l.key] = r
	s.token++
	r.token, r.renewals, r.note = s.token, 0, l.note
	r.sinceSec, r.sinceNano = now.Unix(), int32(now.Nanosecond())
	r.renewedSec, r.renewedNano = r.sinceSec, r.sinceNano
	s.setTerms(r, terms)
	if s.watches.n > 0 {
		s.watches.tell(l.key)
	}
	return r.token, true
}

// take is Delete; false is ErrConflict.
func (s *MemStore) take(key string, token, renewals uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(key, token, renewals)
}
