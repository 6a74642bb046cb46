package pool

import (
	"context"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/queue"
)

// plan starts machines for those who wait and for those to be kept ready, and
// makes room by destroying machines that nobody wants. The caller holds p.mu.
func (p *Pool) plan(now time.Time) {
	if p.closing || !p.store.Over(now) || !p.surveyed(now) {
		return
	}
	copyInflight := func() {
		for i, pl := range p.places {
			p.avail[i] = pl.inflight
		}
	}
	planned := false
	p.hoarded = nil
	if p.q.Waiting() > 0 && p.mayHelp(now) {
		planned = true
		copyInflight()
		p.planWaiters(now)
	}
	for _, t := range p.templates {
		if t.Ready == 0 || t.free() >= t.Ready {
			continue
		}
		if !planned {
			planned = true
			copyInflight()
			p.consume()
		}
		lack := t.Ready - t.free()
		for _, pl := range t.places {
			lack -= p.avail[pl.class.Index()]
		}
		for ; lack > 0; lack-- {
			pl, h := p.pick(t.places, now)
			if h == nil {
				break
			}
			p.begin(pl, h, nil, now)
		}
	}
}

// mayHelp reports whether anything at all could be started or destroyed for
// those who wait; it keeps plan cheap when all slots are in use.
func (p *Pool) mayHelp(now time.Time) bool {
	for _, t := range p.templates {
		if t.free() > 0 {
			return true
		}
	}
	for _, h := range p.hosts {
		if (h.used < h.Slots || len(h.fixtures) > 0) && p.open(h, now) {
			return true
		}
	}
	return false
}

// consume takes out of p.avail what is on its way to those who wait.
func (p *Pool) consume() {
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		for lacks := qw.Lacks(); lacks > 0; lacks-- {
			if !p.expect(qw.Demand.Classes()) {
				return queue.SkipDemand
			}
		}
		return queue.Go
	})
}

// expect takes one machine of the classes out of p.avail.
func (p *Pool) expect(classes []*class) bool {
	for _, c := range classes {
		if p.avail[c.Index()] > 0 {
			p.avail[c.Index()]--
			return true
		}
	}
	return false
}

// planWaiters goes through the waiters in their order. Each is covered by
// machines on their way, by slots about to come free, by a new machine, or by
// room made for one; who cannot be covered lets the others go on.
func (p *Pool) planWaiters(now time.Time) {
	for i := range p.vacant {
		p.vacant[i] = 0
	}
	if p.vacating > 0 {
		for u := range p.units {
			if u.state == destroying {
				p.vacant[u.host.index] += u.template.Weight
			}
		}
	}
	var evicted []*unit
	var locks lockRoom
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		classes := qw.Demand.Classes()
		for lacks := qw.Lacks(); lacks > 0; lacks-- {
			if p.expect(classes) {
				continue
			}
			if pl, h := p.pickClass(classes, now, &qw.Value.want); h != nil {
				p.begin(pl, h, qw.Value.want.Inputs, now)
				continue
			}
			if p.expectVacancy(classes, now) {
				continue
			}
			if room := p.evict(classes, &qw.Value.want, now); room != nil {
				evicted = append(evicted, room...)
				continue
			}
			if u, leaves := locks.evict(p, classes, now); u != nil || leaves {
				if u != nil {
					evicted = append(evicted, u)
				}
				continue
			}
			if p.hoarded == nil {
				p.hoarded = p.hoard(classes, now)
			}
			return queue.SkipDemand
		}
		return queue.Go
	})
	for _, u := range evicted {
		u.doomed = false
		p.discard(u, "room is needed for another template")
	}
}

// open reports whether a host may be used for new machines at all.
func (p *Pool) open(h *host, now time.Time) bool {
	return h.listed && !h.paused && h.lost.Allow(now) && h.sick.Allow(now) && h.busy.Over(now) && h.full.Over(now) &&
		(h.Starts == 0 || h.boots < h.Starts)
}

// able reports whether a machine of the place could be made on the host, room
// aside.
func (p *Pool) able(pl *place, h *host, now time.Time) bool {
	t := pl.template
	return p.open(h, now) && (t.Most == 0 || t.count < t.Most) && t.health.Allow(now) && t.locked.Over(now) && h.pairs[t].Allow(now) &&
		(!t.existing() || h.vacant(t, now) != nil)
}

// begin makes a unit and lets it look for a slot. inputs are those of the call
// that it is made for, if any.
func (p *Pool) begin(pl *place, h *host, inputs []string, now time.Time) *unit {
	u := &unit{pool: p, host: h, template: pl.template, place: pl, state: gone, since: now}
	if p.watched {
		u.why = p.whyHere(pl, h, inputs, now)
	}
	u.item.Value, u.item.Class = u, pl.class
	u.renew = func() { p.renew(u) }
	u.ctx, u.cancel = context.WithCancelCause(p.soft)
	if pl.template.existing() {
		u.fixture = h.vacant(pl.template, now)
		u.fixture.unit = u
		u.fixture.sick.Begin(now)
	}
	for i, b := range []*health.Breaker{&h.lost, &h.sick, h.pairs[pl.template], &pl.template.health} {
		if b.Begin(now) {
			u.probing[i] = b
		}
	}
	p.units[u] = struct{}{}
	u.set(claiming, now)
	p.wg.Go(func() { p.boot(u) })
	return u
}

// yields reports whether the slot of a unit that was given back is better used
// for another template: somebody waits for one, whom no other slot serves, and
// nobody who goes before wants this one.
func (p *Pool) yields(u *unit, now time.Time) bool {
	active := p.q.Active()
	if len(active) == 0 || len(active) == 1 && active[0].Accepts(u.place.class) {
		return false
	}
	for i, pl := range p.places {
		p.avail[i] = pl.inflight
	}
	yields, hoarding := false, false
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		for lacks := qw.Lacks(); lacks > 0; lacks-- {
			if p.expect(qw.Demand.Classes()) {
				continue
			}
			if qw.Demand.Accepts(u.place.class) {
				return queue.Stop
			}
			for _, c := range qw.Demand.Classes() {
				pl := p.places[c.Index()]
				if u.blocks(pl.template, now) {
					yields = true
					return queue.Stop
				}
				if u.host.places[pl.template] == pl && !pl.template.existing() && u.template.Weight >= pl.template.Weight && p.able(pl, u.host, now) {
					yields = true
					return queue.Stop
				}
			}
			if h := p.hoard(qw.Demand.Classes(), now); h != nil && !hoarding {
				if hoarding = true; h == u.host {
					yields = true
					return queue.Stop
				}
			}
			return queue.SkipDemand
		}
		return queue.Go
	})
	return yields
}

// shrink destroys machines that were idle for too long or are too old, and sets
// the alarm for the next one. Only free ones are looked at: a machine in use is
// neither idle nor ever too old.
func (p *Pool) shrink(now time.Time) {
	var old []*unit
	for _, t := range p.templates {
		idle, ends := t.Idle.limit()
		if t.free() == 0 || !ends && t.MostAge == 0 {
			continue
		}
		old = old[:0]
		for _, pl := range t.places {
			pl.class.EachFree(func(u *unit) bool { old = append(old, u); return true })
		}
		slices.SortFunc(old, func(a, b *unit) int { return a.since.Compare(b.since) })
		surplus := t.free() - t.Ready
		for _, u := range old {
			dies := u.since.Add(idle)
			aged := u.born.Add(t.MostAge)
			switch {
			case t.MostAge > 0 && !now.Before(aged):
				p.discard(u, "it is older than "+t.MostAge.String())
			case ends && surplus > 0 && !now.Before(dies):
				p.discard(u, "it was idle for "+people(now.Sub(u.since)).String())
			default:
				if t.MostAge > 0 {
					p.wake(aged)
				}
				if ends && surplus > 0 {
					p.wake(dies)
				}
				continue
			}
			surplus--
		}
	}
}
