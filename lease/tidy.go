package lease

import (
	"context"
	"errors"
	"time"
)

// cleanLooks is how often a key in doubt must look clean before it is
// forgotten: a swap that was given up may still be on its way to the store.
const cleanLooks = 3

// doubt remembers that the store may have done a swap of ours for key although
// we were told of an error.
func (m *Manager) doubt(key string) {
	m.mu.Lock()
	m.doubts[key] = 0
	m.mu.Unlock()
}

// tidySoon starts the tidier when there is something to do. It is called by a
// goroutine that Close waits for.
func (m *Manager) tidySoon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tidying || m.closing || len(m.doubts) == 0 && len(m.undone) == 0 {
		return
	}
	m.tidying = true
	m.wg.Go(func() {
		m.tidy(context.Background())
		m.mu.Lock()
		m.tidying = false
		m.mu.Unlock()
	})
}

// tidy deletes records that should not be there: those of released leases that
// could not be deleted, and those of swaps whose answer was lost.
func (m *Manager) tidy(ctx context.Context) {
	m.mu.Lock()
	var undone []*Lease
	for l := range m.undone {
		undone = append(undone, l)
	}
	var keys []string
	for key := range m.doubts {
		keys = append(keys, key)
	}
	m.mu.Unlock()
	for _, l := range undone {
		if err := l.Release(ctx); err != nil {
			m.log.Warn("lease: still cannot delete a released lease", "key", l.key, "err", err)
		}
	}
	for _, key := range keys {
		m.clearDoubt(ctx, key)
	}
}

// clearDoubt deletes the record of key if it is ours and nobody here has it.
func (m *Manager) clearDoubt(ctx context.Context, key string) {
	s := m.cur.Load()
	m.mu.Lock()
	if s == nil || s.gone || m.held[key] != nil {
		m.mu.Unlock() // who holds or asks for it finds out
		return
	}
	l := &Lease{m: m, key: key, since: time.Now().UnixNano()}
	l.sess.Store(s)
	m.held[key] = l
	m.mu.Unlock()

	ctx, cancel := m.cleanup(ctx)
	defer cancel()
	rec, err := m.store.Load(ctx, key)
	if err == nil && rec.Session == s.key {
		err = m.store.Delete(ctx, rec)
		if err == nil || errors.Is(err, ErrConflict) {
			m.log.Info("lease: deleted a grant whose answer was lost", "key", key, "token", rec.Token)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.doubts[key]; ok && err == nil {
		if n++; n >= cleanLooks {
			delete(m.doubts, key)
		} else {
			m.doubts[key] = n
		}
	}
	m.unmark(l)
}
