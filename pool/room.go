package pool

import (
	"slices"
	"time"
)

// expectVacancy takes one slot that is about to come free for the classes.
func (p *Pool) expectVacancy(classes []*class, now time.Time) bool {
	if p.vacating == 0 {
		return false
	}
	for _, c := range classes {
		pl := p.places[c.Index()]
		for _, h := range pl.hosts {
			if h != p.hoarded && !pl.template.existing() && p.vacant[h.index] >= pl.template.Weight && p.able(pl, h, now) {
				p.vacant[h.index] -= pl.template.Weight
				return true
			}
		}
	}
	return false
}

// hoard gives the host whose slots come together for a machine of the classes
// that is heavier than one: the one that lacks the fewest, then the first. Lighter
// machines would take each slot as it comes free, and the heavy one would never
// have two of them.
func (p *Pool) hoard(classes []*class, now time.Time) *host {
	var best *host
	most := -1
	for _, c := range classes {
		pl := p.places[c.Index()]
		if pl.template.existing() || pl.template.Weight < 2 {
			continue
		}
		for _, h := range pl.hosts {
			if h.Slots < pl.template.Weight || !p.able(pl, h, now) {
				continue
			}
			free := h.Slots - h.used
			for _, u := range h.slots {
				if u != nil && u.state == destroying {
					free++
				}
			}
			if free > most {
				best, most = h, free
			}
		}
	}
	return best
}

// evict chooses free machines on one host whose slots together make room for a
// machine of the classes: a host that has what the machine is made from and given
// before others, and there those beyond their template's Ready first, the least
// recently used first. Machines in use are never chosen.
func (p *Pool) evict(classes []*class, want *Want, now time.Time) []*unit {
	for _, near := range [...]bool{true, false} {
		for _, c := range classes {
			pl := p.places[c.Index()]
			t := pl.template
			if t.existing() || near && t.Parent == "" && len(want.Inputs) == 0 {
				continue
			}
			for _, h := range pl.hosts {
				if near != (h.parentCredit(t)+h.inputsCredit(want.Inputs) > 0) || !p.able(pl, h, now) {
					continue
				}
				if room := h.evict(t.Weight); room != nil {
					return room
				}
			}
		}
	}
	return nil
}

// evict chooses free machines of the host that make room for a weight, and marks
// them.
func (h *host) evict(weight int) []*unit {
	var free []*unit
	for _, u := range h.slots {
		if u != nil && u.state == ready && u.item.Free() && !u.doomed && !slices.Contains(free, u) {
			free = append(free, u)
		}
	}
	slices.SortFunc(free, func(a, b *unit) int {
		if x, y := a.template.free() > a.template.Ready, b.template.free() > b.template.Ready; x != y {
			if x {
				return -1
			}
			return 1
		}
		return a.since.Compare(b.since)
	})
	room := h.Slots - h.used
	for i, u := range free {
		if room += u.template.Weight; room >= weight {
			for _, u := range free[:i+1] {
				u.doomed = true
			}
			return free[:i+1]
		}
	}
	return nil
}
