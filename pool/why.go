package pool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
)

// what says what a wait is for: "one of 4 machines", counting those that there
// can be.
func (p *Pool) what(w *wait) string {
	n := "one"
	if w.q.Need > 1 {
		n = fmt.Sprint(w.q.Need)
	}
	most := p.most(w.q.Demand)
	s := fmt.Sprintf("%s of %d machine", n, most)
	if most != 1 {
		s += "s"
	}
	if w.want.Template != "" {
		s += " of " + w.want.Template
	}
	return s
}

// whyLocked says what a wait waits for: who holds the machines, which are on
// their way, and which hosts and templates are left alone and why. The caller
// holds p.mu.
func (p *Pool) whyLocked(w *wait, now time.Time) string {
	type holder struct {
		job   string
		since time.Time
	}
	var held_ []holder
	coming := map[string]int{}
	hosts := map[*host]bool{}
	templates := map[*template]bool{}
	for _, c := range w.q.Demand.Classes() {
		pl := p.places[c.Index()]
		templates[pl.template] = true
		for _, h := range pl.hosts {
			hosts[h] = true
		}
	}
	others := 0
	for u := range p.units {
		if !hosts[u.host] {
			continue
		}
		fits := w.q.Demand.Accepts(u.place.class)
		switch u.state {
		case held, kept, detached:
			job := "somebody"
			if u.guest != nil && u.guest.want.Job != "" {
				job = u.guest.want.Job
			} else if u.state == kept {
				job = "kept for " + orSomebody(u.keptFor)
			} else if u.state == detached {
				job = "detached"
			}
			held_ = append(held_, holder{job, u.since})
		case claiming, booting, renewing:
			if fits {
				coming[u.state.String()]++
			} else {
				others++
			}
		case destroying:
			coming[u.state.String()]++
		}
	}
	var parts []string
	if why := p.outside(w); why != "" {
		parts = append(parts, why)
	}
	if got := w.q.Got; len(got) > 0 {
		names := make([]string, len(got))
		for i, item := range got {
			names[i] = item.Value.name + " on " + item.Value.host.Name
		}
		parts = append(parts, fmt.Sprintf("it has %d of %d: %s", len(got), w.q.Need, strings.Join(names, ", ")))
	}
	if len(held_) > 0 {
		slices.SortFunc(held_, func(a, b holder) int {
			if c := a.since.Compare(b.since); c != 0 {
				return c
			}
			return strings.Compare(a.job, b.job)
		})
		const most = 4
		var names []string
		for i, h := range held_ {
			if i == most {
				names = append(names, fmt.Sprintf("%d more", len(held_)-most))
				break
			}
			names = append(names, fmt.Sprintf("%s %v", h.job, people(now.Sub(h.since))))
		}
		parts = append(parts, "held: "+strings.Join(names, ", "))
	}
	for _, s := range []unitState{claiming, booting, renewing, destroying} {
		if n := coming[s.String()]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", n, s))
		}
	}
	if others > 0 {
		parts = append(parts, fmt.Sprintf("%d of other templates on their way", others))
	}
	if place := p.q.Place(&w.q); place > 0 {
		parts = append(parts, fmt.Sprintf("%d before it", place))
	}
	if p.storeErr != nil {
		parts = append(parts, fmt.Sprintf("lease store: %v", p.storeErr))
	}
	for _, t := range p.templates {
		if templates[t] {
			if s := p.whereParent(t, hosts); s != "" {
				parts = append(parts, s)
			}
			parts = append(parts, alone("template "+t.Name, &t.health, now)...)
			if !t.locked.Over(now) {
				parts = append(parts, fmt.Sprintf("others have a lock of %s (%s)", t.Name, strings.Join(t.Locks, ", ")))
			}
		}
	}
	for _, h := range p.hosts {
		if !hosts[h] {
			continue
		}
		if !h.listed && h.lost.State(now) == health.Healthy {
			parts = append(parts, h.Name+" is being listed for the first time")
		}
		if h.paused {
			parts = append(parts, h.Name+" is paused")
		}
		parts = append(parts, alone(h.Name, &h.lost, now)...)
		parts = append(parts, alone(h.Name, &h.sick, now)...)
		for t := range templates {
			if b := h.pairs[t]; b != nil {
				parts = append(parts, alone(t.Name+" on "+h.Name, b, now)...)
			}
		}
		for _, f := range h.fixtures {
			if templates[f.template] {
				parts = append(parts, alone(string(f.id), &f.sick, now)...)
				if !f.full.Over(now) {
					parts = append(parts, string(f.id)+" is used by others")
				}
			}
		}
		if !h.busy.Over(now) {
			parts = append(parts, fmt.Sprintf("%s is busy, next try in %v", h.Name, people(h.busy.Until().Sub(now))))
		}
		if !h.full.Over(now) {
			parts = append(parts, h.Name+" is used up by others")
		}
	}
	if s := p.whereInputs(w.want.Inputs, hosts); s != "" {
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

func alone(name string, b *health.Breaker, now time.Time) []string {
	switch b.State(now) {
	case health.Quarantined:
		until, _ := b.Until()
		return []string{fmt.Sprintf("%s quarantined %v: %s", name, people(until.Sub(now)), b.Reason())}
	case health.Probing:
		return []string{fmt.Sprintf("%s being probed after: %s", name, b.Reason())}
	}
	return nil
}
