package pool

import (
	"fmt"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/queue"
)

// offer brings a ready machine to those who wait, or leaves it free. The caller
// holds p.mu.
func (p *Pool) offer(u *unit, now time.Time) {
	if why := u.lame(); why != "" {
		p.destroy(u, why)
		return
	}
	u.set(ready, now)
	if w := p.q.Offer(&u.item); w != nil {
		p.grant(w.Value, now)
	}
	if u.item.Free() {
		if idle, ok := u.template.Idle.limit(); ok && u.template.free() > u.template.Ready {
			p.wake(now.Add(idle))
		}
		if u.template.MostAge > 0 {
			p.wake(u.born.Add(u.template.MostAge))
		}
	}
}

// grant hands a waiter, who has all that it needs in its hand, its machines.
// Those whose lease was lost a moment ago are given up, and the waiter has its
// old place again. The caller holds p.mu.
func (p *Pool) grant(w *wait, now time.Time) {
	for {
		var lost []*unit
		for _, i := range w.q.Got {
			if err := i.Value.fence(); err != nil {
				i.Value.lostErr = err
				lost = append(lost, i.Value)
			}
		}
		if len(lost) == 0 {
			break
		}
		var good []*unit
		for _, i := range w.q.Got {
			if i.Value.lostErr == nil {
				good = append(good, i.Value)
			}
		}
		w.q.Leave()
		for _, u := range lost {
			p.lose(u, u.lostErr, now)
		}
		// Its own machines first, so that it loses no place by the detour.
		if !p.readd(w, good) {
			p.plan(now)
			return
		}
	}
	if w.granted == nil {
		w.granted = w.unit1[:0]
	}
	for _, i := range w.q.Got {
		u := i.Value
		w.granted = append(w.granted, u)
		u.set(held, now)
		u.uses++
		p.stats.grants++
	}
	w.q.Leave()
	w.over()
}

// readd queues a waiter with its old place, with the machines it had offered
// anew, and reports whether it has all again. As it had the first right to
// them, they come back to it unless somebody before it lacks one.
func (p *Pool) readd(w *wait, good []*unit) bool {
	if w.ready == nil {
		w.ready = make(chan struct{})
	}
	full := p.add(w)
	for _, u := range good {
		if full {
			// Got others meanwhile; these are for whoever is next.
			p.offer(u, u.since)
			continue
		}
		v := p.q.Offer(&u.item)
		switch {
		case v == nil:
		case v.Value == w:
			full = true
		default:
			p.grant(v.Value, u.since)
		}
	}
	return full
}

// giveBack takes machines that were granted to a wait which does not want them
// any more. They were never handed out and are as clean as before.
func (p *Pool) giveBack(w *wait, now time.Time) {
	us := w.granted
	w.granted = nil
	for _, u := range us {
		u.uses--
		p.stats.grants--
		if u.lostErr != nil {
			continue // gone already
		}
		if p.closing || u.ended {
			p.destroy(u, "the pool closes, or the machine ended")
			continue
		}
		p.offer(u, now)
	}
}

// discard destroys a ready machine that nobody holds.
func (p *Pool) discard(u *unit, reason string) {
	p.q.Drop(&u.item)
	p.destroy(u, reason)
}

// refuse ends the waits for machines of a template whose boots fail, where
// nothing else would serve them: no other template, and no machine of this one
// that works and comes back one day.
func (p *Pool) refuse(t *template, fails int, err error, now time.Time) {
	if p.inUse(t) {
		return
	}
	var out []*wait
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		for _, c := range qw.Demand.Classes() {
			if o := p.places[c.Index()].template; o != t && (o.health.Fails() < o.Failures || p.inUse(o)) {
				return queue.SkipDemand
			}
		}
		if !slices.ContainsFunc(t.places, func(pl *place) bool { return qw.Demand.Accepts(pl.class) }) {
			return queue.SkipDemand
		}
		out = append(out, qw.Value)
		return queue.Go
	})
	for _, w := range out {
		w.err = fmt.Errorf("%d boots of template %s in a row failed: %w", fails, t.Name, err)
		p.abandon(w, now)
		w.over()
	}
}

// inUse reports whether a template has machines that work.
func (p *Pool) inUse(t *template) bool {
	for u := range p.units {
		if u.template == t && (u.state == held || u.state == ready || u.state == renewing) {
			return true
		}
	}
	return false
}

// abandon takes a wait out of the queue; what it had reserved goes on.
func (p *Pool) abandon(w *wait, now time.Time) {
	for _, v := range p.q.Remove(&w.q) {
		p.grant(v.Value, now)
	}
	p.refund(w, now)
}
