package pool

import (
	"slices"
	"time"
)

// elsewhere makes a machine for a wait where it avoids nothing, if all that is
// free now is to be avoided. Until that one is ready or has failed the wait stays
// outside the queue; it has its place by its arrival then. The caller holds p.mu.
func (p *Pool) elsewhere(w *wait, now time.Time) bool {
	if len(w.want.Avoid) == 0 || w.q.Need > 1 || p.closing || !p.store.Over(now) {
		return false
	}
	classes := w.q.Demand.Classes()
	bad, good := false, false
	for _, c := range classes {
		c.EachFree(func(u *unit) bool {
			if w.q.Avoid(u) {
				bad = true
			} else {
				good = true
			}
			return !good
		})
	}
	if good || !bad {
		return false
	}
	pl, h := p.pickClass(classes, now, &w.want)
	if h == nil || slices.Contains(w.want.Avoid, h.Name) {
		return false
	}
	w.eager = p.begin(pl, h, w.want.Inputs, now)
	w.eager.eager = append(w.eager.eager, w)
	return true
}

// letIn queues those who waited for a unit that was made now, or was not. The
// caller holds p.mu.
func (p *Pool) letIn(u *unit, now time.Time) {
	all := u.eager
	u.eager = nil
	for _, w := range all {
		switch {
		case w.eager != u || w.err != nil: // it ended meanwhile
		case p.closing:
			w.eager, w.err = nil, ErrClosed
			w.over()
		default:
			w.eager = nil
			if p.add(w) {
				p.grant(w, now)
			}
		}
	}
}
