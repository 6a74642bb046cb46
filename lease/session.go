package lease

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// session is what keeps leases alive: the session record of a Manager, or the
// fixed term of one lease.
type session struct {
	m        *Manager
	key      string // empty: a fixed term
	terms    Record // what the records of its leases have in common
	deadline atomic.Int64
	kick     chan struct{} // wakes the watchdog
	done     chan struct{} // closed by lose or Close
	rec      Record        // the session record as last acknowledged; the renewer's alone

	// Guarded by m.mu.
	gone bool
	err  error
	mem  *memTerms // what a MemStore makes of terms

	// Of a fixed term.
	lease *Lease
	term  time.Duration
	most  int64 // the deadline that Extend cannot pass; 0: none
	timer *time.Timer
}

// over is the deadline of a session that is lost for ever: an acknowledgement
// that comes later cannot revive what a Check has already refused.
const over = math.MinInt64

// check tells whether the session lives at now, and makes its end final when
// it does not.
func (s *session) check(now int64) bool {
	for {
		d := s.deadline.Load()
		if now < d {
			return true
		}
		if d == over {
			return false
		}
		if s.deadline.CompareAndSwap(d, over) {
			s.bark()
			return false
		}
	}
}

// bark has the loss told to those who wait for it.
func (s *session) bark() {
	if s.timer != nil {
		s.timer.Reset(0)
		return
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// acked moves the deadline after a renewal that was begun at start and
// acknowledged now, unless the session expired in between: then it is lost,
// whatever the store says.
func (s *session) acked(start int64) bool {
	for {
		d := s.deadline.Load()
		if !s.check(s.m.clock.now()) {
			return false
		}
		if s.deadline.CompareAndSwap(d, start+int64(s.m.config.TTL)) {
			return true
		}
	}
}

func (s *session) expired() error {
	if s.key == "" {
		return fmt.Errorf("%w: its fixed term of %v is over", ErrLost, s.term)
	}
	return fmt.Errorf("%w: no renewal was acknowledged for %v", ErrLost, s.m.config.TTL)
}

// session gives the live session, making one when there is none.
func (m *Manager) session(ctx context.Context) (*session, error) {
	for {
		s := m.cur.Load()
		if s != nil {
			if s.check(m.clock.now()) {
				return s, nil
			}
			m.lose(s, s.expired())
			continue
		}
		m.mu.Lock()
		if m.closing {
			m.mu.Unlock()
			return nil, ErrClosed
		}
		if m.cur.Load() != nil {
			m.mu.Unlock()
			continue
		}
		if making := m.making; making != nil {
			m.mu.Unlock()
			select {
			case <-making:
				continue
			case <-ctx.Done():
				return nil, ended(ctx)
			}
		}
		making := make(chan struct{})
		m.making = making
		m.mu.Unlock()

		s, err := m.newSession(ctx)

		m.mu.Lock()
		m.making = nil
		closing := m.closing
		if err == nil && !closing {
			m.cur.Store(s)
			m.wg.Go(s.renew)
			m.wg.Go(s.watch)
		}
		m.mu.Unlock()
		if err == nil && closing {
			_ = s.remove(ctx) // nobody renews it: it expires
			err = ErrClosed
		}
		close(making) // last: Close waits for it
		return s, err
	}
}

// newSession locks the run directory and writes a session record. It is called
// by one at a time.
func (m *Manager) newSession(ctx context.Context) (*session, error) {
	if m.lockPath != "" && m.run == nil {
		run, err := makeRunDir(m.lockPath, m.owner, m.boot)
		if err != nil {
			return nil, err
		}
		m.run = run
	}
	key := sessionPrefix + uuid.NewString()
	common := Record{Owner: m.owner, Lock: m.lockPath, Boot: m.boot, TTL: m.config.TTL, Margin: m.config.Margin}
	s := &session{m: m, key: key, terms: common, kick: make(chan struct{}, 1), done: make(chan struct{})}
	s.terms.Session = key
	now := time.Now()
	start := m.clock.now()
	next := common
	next.Key, next.Since, next.Renewed = key, now, now
	c, cancel := m.bounded(ctx)
	defer cancel()
	rec, err := m.store.Swap(c, Record{Key: key}, next, true)
	if err != nil {
		// It may have been written all the same. Nobody renews it, so it would
		// only be in the way.
		c, cancel := m.cleanup(ctx)
		defer cancel()
		if rec, loadErr := m.store.Load(c, key); loadErr == nil && !rec.Zero() {
			_ = m.store.Delete(c, rec) // best effort: it expires
		}
		return nil, fmt.Errorf("session record: %w", err)
	}
	s.rec = rec
	s.deadline.Store(start + int64(m.config.TTL))
	if !s.check(m.clock.now()) {
		_ = s.remove(ctx) // nobody renews it: it expires
		return nil, fmt.Errorf("session record: the store took longer than the TTL of %v", m.config.TTL)
	}
	return s, nil
}

// remove deletes the session record, if it is as we know it.
func (s *session) remove(ctx context.Context) error {
	ctx, cancel := s.m.cleanup(ctx)
	defer cancel()
	rec := s.rec
	for range mostConflicts {
		err := s.m.store.Delete(ctx, rec)
		if err == nil || !errors.Is(err, ErrConflict) {
			return err
		}
		if rec, err = s.m.store.Load(ctx, s.key); err != nil {
			return err
		}
		if rec.Token != s.rec.Token {
			return nil // gone
		}
	}
	return ErrConflict
}

// lose ends a session and with it all of its leases, each once.
func (m *Manager) lose(s *session, why error) {
	m.mu.Lock()
	if s.gone {
		m.mu.Unlock()
		return
	}
	s.gone, s.err = true, why
	s.deadline.Store(over)
	var calls []func()
	lost := 0
	drop := func(l *Lease) {
		was := l.state.Load()
		if was <= stateHeld {
			l.state.Store(stateLost)
			if f := l.end(); f != nil {
				calls = append(calls, f)
			}
			if was == stateHeld {
				m.ended(l, "lost")
				lost++
			}
		}
		delete(m.undone, l)
		if m.held[l.key] == l {
			delete(m.held, l.key)
		}
		m.wake(l.key)
	}
	if s.lease != nil {
		drop(s.lease)
	} else {
		close(s.done)
		m.former[s.key] = true
		for _, l := range m.held {
			if l.sess.Load() == s {
				drop(l)
			}
		}
		m.cur.CompareAndSwap(s, nil)
	}
	m.mu.Unlock()
	for _, call := range calls {
		call()
	}
	if s.lease != nil {
		m.log.Info("lease: fixed term over", "key", s.lease.key, "token", s.lease.token.Load())
		return
	}
	m.log.Error("lease: session lost", "session", s.key, "leases", lost, "err", why)
}
