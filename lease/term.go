package lease

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// newTerm gives the fixed term of l, which begins with the grant.
func newTerm(m *Manager, l *Lease, o Options) *session {
	s := &session{m: m, lease: l, term: o.Term}
	s.terms = Record{Owner: m.owner, TTL: o.Term, Margin: m.config.Margin}
	s.deadline.Store(math.MaxInt64)
	s.timer = time.AfterFunc(time.Duration(math.MaxInt64), func() { m.termOver(s) })
	s.timer.Stop()
	return s
}

func (s *session) startTerm(start int64, o Options) {
	s.deadline.Store(start + int64(o.Term))
	if o.MostTerm > 0 {
		s.most = start + int64(o.MostTerm)
	}
	s.timer.Reset(o.Term)
}

// stopTerm is called when a lease has ended.
func (s *session) stopTerm() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// termOver runs at the end of a term, and too early after an Extend.
func (m *Manager) termOver(s *session) {
	now := m.clock.now()
	if s.check(now) {
		s.timer.Reset(time.Duration(s.deadline.Load() - now))
		return
	}
	m.lose(s, s.expired())
	// Others would have to see the record unchanged for a whole term, so it is
	// deleted here, after the margin of the holder's last operations.
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return
	}
	m.wg.Go(func() {
		timer := time.NewTimer(m.config.Margin)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-m.stop:
			return
		}
		if err := s.lease.Release(context.Background()); err != nil {
			m.log.Warn("lease: the record of a fixed term is left to expire", "key", s.lease.key, "err", err)
		}
		m.wakeUp(s.lease.key)
	})
}

// Extend makes a lease of a fixed term end d from now, or at Options.MostTerm
// if that comes first, and gives the time that is left. It also shortens. A
// lease without a fixed term is renewed by its Manager and cannot be extended:
// errors.ErrUnsupported.
func (l *Lease) Extend(ctx context.Context, d time.Duration) (time.Duration, error) {
	s := l.sess.Load()
	if s.lease == nil {
		return 0, &OpError{Op: "extend", Key: l.key, Token: l.Token(), Err: fmt.Errorf("%w: it has no fixed term", errors.ErrUnsupported)}
	}
	if d < leastTTL {
		return 0, &OpError{Op: "extend", Key: l.key, Token: l.Token(), Err: fmt.Errorf("by %v, want %v or more", d, leastTTL)}
	}
	start := l.m.clock.now()
	if s.most > 0 && start+int64(d) > s.most {
		d = time.Duration(s.most - start)
	}
	if d <= 0 {
		return 0, &OpError{Op: "extend", Key: l.key, Token: l.Token(), Err: errors.New("its longest term is used up")}
	}
	_, err := l.change(ctx, "extend", false, func(r *Record) { r.TTL = d }, nil)
	if err != nil {
		return 0, err
	}
	for {
		old := s.deadline.Load()
		if !s.check(l.m.clock.now()) {
			return 0, l.failure("extend")
		}
		if s.deadline.CompareAndSwap(old, start+int64(d)) {
			break
		}
	}
	s.timer.Reset(d)
	return d, nil
}
