package lease

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// judgement is what is known of the holder of a record.
type judgement struct {
	holder Record // the record that was judged
	free   bool   // it may be swapped away
	alive  bool   // its owner is proven alive
	why    string // why it is free
	until  int64  // when it can be free by the clock alone; monotonic
	seen   int64  // since when it is seen unchanged; monotonic
}

// sightings remember since when sessions and fixed terms are seen unchanged.
type sightings struct {
	mu   sync.Mutex
	seen map[string]*sighting
	most int // how many may be remembered before the old ones are looked for
}

type sighting struct {
	rec    Record
	since  int64 // after the load that first showed this token and count
	looked int64 // after the last load
}

// mostSightings is how many are always remembered. Beyond it those that nobody
// asked for lately are forgotten; a forgotten one costs a new wait.
const mostSightings = 4096

// note takes down what a load that has just ended showed, and tells since when
// it was so.
func (g *sightings) note(rec Record, now int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.seen[rec.Key]
	if s == nil || s.rec.Token != rec.Token || s.rec.Renewals != rec.Renewals {
		if s == nil && len(g.seen) >= max(g.most, mostSightings) {
			g.forget(now)
			g.most = 2 * len(g.seen)
		}
		s = &sighting{since: now}
		g.seen[rec.Key] = s
	}
	s.rec, s.looked = rec, now
	return s.since
}

// last gives what is remembered of key.
func (g *sightings) last(key string) (sighting, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.seen[key]; s != nil {
		return *s, true
	}
	return sighting{}, false
}

func (g *sightings) drop(key string) {
	g.mu.Lock()
	delete(g.seen, key)
	g.mu.Unlock()
}

func (g *sightings) forget(now int64) {
	for key, s := range g.seen {
		if terms := add(int64(s.rec.TTL), int64(s.rec.Margin)); now-s.looked > terms {
			delete(g.seen, key)
		}
	}
}

// add saturates: what records promise may be any number.
func add(a, b int64) int64 {
	if a > 0 && b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// expiry is when a record seen unchanged since then is free.
func (m *Manager) expiry(since int64, rec Record) int64 {
	ttl := rec.TTL
	if ttl <= 0 { // nobody promises that: damaged
		ttl = max(m.config.TTL, DefaultTTL)
	}
	return add(since, add(int64(ttl), int64(max(rec.Margin, m.config.Margin))))
}

// judge tells whether the lease record rec, which was just read, may be taken.
// When it says so, the session behind it is gone from the store, so that its
// holder cannot renew any more; the record itself must be swapped or deleted
// by its token and count.
func (m *Manager) judge(ctx context.Context, rec Record) (judgement, error) {
	if rec.Session == "" {
		return m.judgeTerm(rec), nil
	}
	srec, fresh := Record{}, false
	now := m.clock.mono()
	if s, ok := m.sightings.last(rec.Session); ok && now-s.looked < int64(m.config.Poll/4) && now < m.expiry(s.since, s.rec) {
		srec, fresh = s.rec, true
	}
	if !fresh {
		var err error
		if srec, err = m.store.Load(ctx, rec.Session); err != nil {
			return judgement{holder: rec}, err
		}
		now = m.clock.mono()
	}
	if srec.Zero() {
		m.sightings.drop(rec.Session)
		return judgement{holder: rec, free: true, why: "its session is gone"}, nil
	}
	j, err := m.judgeSession(ctx, srec, now, fresh)
	j.holder = rec
	return j, err
}

// judgeTerm judges a record that stands for itself.
func (m *Manager) judgeTerm(rec Record) judgement {
	now := m.clock.mono()
	j := judgement{holder: rec, seen: m.sightings.note(rec, now)}
	j.until = m.expiry(j.seen, rec)
	if now >= j.until {
		j.free, j.why = true, "its fixed term is over"
	}
	return j
}

// judgeSession judges a session record that was loaded at now, and removes it
// when it is dead.
func (m *Manager) judgeSession(ctx context.Context, srec Record, now int64, fresh bool) (judgement, error) {
	j := judgement{holder: srec}
	if fresh {
		s, _ := m.sightings.last(srec.Key)
		j.seen = s.since
	} else {
		j.seen = m.sightings.note(srec, now)
	}
	j.until = m.expiry(j.seen, srec)
	dead, known := Dead(srec)
	j.alive = known && !dead
	switch {
	case known && dead:
		j.why = "its owner is dead: the flock is free"
	case now >= j.until:
		j.why = "no sign of life for " + roundForPeople(time.Duration(now-j.seen)).String()
	default:
		return j, nil
	}
	err := m.store.Delete(ctx, srec)
	switch {
	case err == nil:
		j.free = true
		m.sightings.drop(srec.Key)
		m.log.Info("lease: removed a dead session", "session", srec.Key, "owner", srec.Owner, "because", j.why)
		return j, nil
	case errors.Is(err, ErrConflict): // renewed, or removed by another, at this very instant
		m.sightings.drop(srec.Key)
		j.why, j.until = "", m.clock.mono()+int64(time.Millisecond)
		return j, nil
	}
	return j, err
}
