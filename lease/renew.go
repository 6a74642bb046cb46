package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// renew keeps the session record alive until done.
func (s *session) renew() {
	m := s.m
	period := m.config.TTL / 3
	pause := jitter(period)
	retry := m.config.TTL / 60
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			s.buryLost()
			return
		case <-timer.C:
		}
		err := s.renewOnce()
		switch {
		case err == nil:
			pause = jitter(period)
			retry = m.config.TTL / 60
			m.tidySoon()
		case errors.Is(err, ErrLost):
			m.lose(s, err)
			continue
		default:
			left := time.Duration(s.deadline.Load() - m.clock.now())
			m.log.Warn("lease: renewal failed; trying again", "session", s.key, "left", left, "err", err)
			pause = jitter(retry)
			retry = min(2*retry, m.config.TTL/12)
		}
		timer.Reset(max(pause, time.Millisecond))
	}
}

// renewOnce is one renewal. ErrLost says that there is nothing left to renew.
func (s *session) renewOnce() error {
	m := s.m
	ctx, cancel := context.WithTimeout(context.Background(), m.timeout)
	defer cancel()
	for range mostConflicts {
		if !s.check(m.clock.now()) {
			return s.expired()
		}
		next := s.rec
		next.Renewed = time.Now()
		start := m.clock.now()
		rec, err := m.store.Swap(ctx, s.rec, next, false)
		switch {
		case err == nil:
			s.rec = rec
			if !s.acked(start) {
				return s.expired()
			}
			return nil
		case !errors.Is(err, ErrConflict):
			return err
		case rec.Token == s.rec.Token && rec.Renewals > s.rec.Renewals:
			// A renewal of ours was done although its answer was lost. It
			// does not count, for we do not know when; the next one does.
			s.rec = rec
		case rec.Zero():
			return fmt.Errorf("%w: its session record was removed: others took us for dead", ErrLost)
		default:
			return fmt.Errorf("%w: its session record was taken: %s", ErrLost, holderText(rec, time.Now()))
		}
	}
	return ErrConflict
}

// watch is the watchdog: it tells of the loss at the deadline, also while a
// renewal hangs in the store.
func (s *session) watch() {
	m := s.m
	timer := time.NewTimer(m.config.TTL)
	defer timer.Stop()
	for {
		now := m.clock.now()
		if !s.check(now) {
			m.lose(s, s.expired())
			return
		}
		// Timers stand still in a suspend: look often enough to see one.
		timer.Reset(min(time.Duration(s.deadline.Load()-now), m.config.TTL/10))
		select {
		case <-s.done:
			return
		case <-s.kick:
		case <-timer.C:
		}
	}
}

// buryLost removes the record of a lost session after the margin that its
// holders' last operations have, so that nobody has to judge it.
func (s *session) buryLost() {
	m := s.m
	m.mu.Lock()
	lost := s.gone && !m.closing
	m.mu.Unlock()
	if !lost {
		return // Close removes the records
	}
	timer := time.NewTimer(m.config.Margin)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.stop:
	}
	if err := s.remove(context.Background()); err != nil {
		m.log.Warn("lease: the record of a lost session is left to expire", "session", s.key, "err", err)
	}
}

// jitter is d give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d*9/10 + rand.N(d/5+1)
}
