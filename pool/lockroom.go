package pool

import (
	"slices"
	"time"
)

// lockRoom makes room in named locks: a machine that waits for its next guest
// holds its locks too, and somebody may wait for them. The zero value is for one
// look at the waiters.
type lockRoom struct {
	leaving []*unit // machines on their way out that have locks, each for one waiter
	looked  bool
}

// evict chooses a free machine whose lock a machine of the classes was refused a
// moment ago, beyond its template's Ready first, the least recently used first.
// leaves: one that goes already will do. The caller holds p.mu.
func (r *lockRoom) evict(p *Pool, classes []*class, now time.Time) (u *unit, leaves bool) {
	for _, c := range classes {
		t := p.places[c.Index()].template
		if len(t.Locks) == 0 || t.locked.Over(now) {
			continue
		}
		if !r.looked {
			r.looked = true
			for u := range p.units {
				if u.state == destroying && len(u.extra) > 0 {
					r.leaving = append(r.leaving, u)
				}
			}
		}
		has := func(u *unit) bool { return len(u.extra) > 0 && slices.Contains(u.template.Locks, t.locked.For) }
		if i := slices.IndexFunc(r.leaving, has); i >= 0 {
			r.leaving = slices.Delete(r.leaving, i, i+1)
			return nil, true
		}
		var best *unit
		for o := range p.units {
			if o.state != ready || !o.item.Free() || o.doomed || !has(o) {
				continue
			}
			if best == nil || spare(o) && !spare(best) || spare(o) == spare(best) && o.since.Before(best.since) {
				best = o
			}
		}
		if best != nil {
			best.doomed = true
			return best, false
		}
	}
	return nil, false
}

// blocks reports whether a machine of the template was refused a lock that the unit
// has: who gives the unit back had better give the lock back too.
func (u *unit) blocks(t *template, now time.Time) bool {
	return t != u.template && len(u.extra) > 0 && !t.locked.Over(now) && slices.Contains(u.template.Locks, t.locked.For)
}

func spare(u *unit) bool { return u.template.free() > u.template.Ready }

// lockError says which lock others have.
type lockError struct {
	name string
	err  error
}

// Error is that of the attempt to take it.
func (e *lockError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *lockError) Unwrap() error { return e.err }

// unlocked has templates tried at once that were refused one of the locks.
func (p *Pool) unlocked(locks []string) {
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	for _, t := range p.templates {
		if slices.ContainsFunc(t.Locks, func(l string) bool { return slices.Contains(locks, l) }) {
			t.locked.Reset()
		}
	}
	p.plan(now)
}
