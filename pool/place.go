package pool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// By how much more a host may be loaded than another one and still be preferred
// for what it has, in hundredths of its slots. Together they are 75: one that is
// three quarters full is never preferred to one that idles.
const (
	// ParentCredit is for a host that has the parent which a machine is to be
	// made from; see Template.Parent.
	ParentCredit = 50
	// InputsCredit is for a host that has all inputs of a call, less in
	// proportion for some of them; see Want.Inputs.
	InputsCredit = 25
)

// firstLook is how long after New the pool waits for all hosts to be listed before
// it makes machines on those that were: the first one that answers would get all
// of them, whatever the others have. A host that is slower is not waited for.
const firstLook = time.Second

// surveyed reports whether it is known what there is to choose from. The caller
// holds p.mu.
func (p *Pool) surveyed(now time.Time) bool {
	if p.survey {
		return true
	}
	if until := p.began.Add(firstLook); now.Before(until) {
		for _, h := range p.hosts {
			if !h.looked {
				p.wake(until)
				return false
			}
		}
	}
	p.survey = true
	return true
}

// candidate is a host on which a machine could be made, or is free.
type candidate struct {
	place   *place
	host    *host
	load    int // slots
	avoided bool
	credit  int // in hundredths of a hundredth of its slots, so that shares of inputs count
}

func (h *host) parentCredit(t *template) int {
	if t.Parent != "" && h.have.parents.has(t.Parent) && h.forks(t) {
		return 100 * ParentCredit
	}
	return 0
}

func (h *host) inputsCredit(inputs []string) int {
	if len(inputs) == 0 || len(h.have.inputs.names) == 0 {
		return 0
	}
	return 100 * InputsCredit * h.holds(inputs) / len(inputs)
}

// before reports whether c is the better choice: not to be avoided; then the
// lower share of used slots, less the credit for what the host has; then the
// lower share alone, so that a host is not preferred beyond its credit.
//
// The sum of a locality score and a load score is how the Kubernetes scheduler
// weighs images that a node has (ImageLocality beside LeastAllocated, both with
// weight 1). As a credit in slots it is bounded by construction, which keeps the
// one host that has all from being flooded.
func (c *candidate) before(d *candidate) bool {
	if d.host == nil {
		return true
	}
	if c.avoided != d.avoided {
		return d.avoided
	}
	cs, ds := c.host.Slots, d.host.Slots
	if x, y := (10_000*c.load-c.credit*cs)*ds, (10_000*d.load-d.credit*ds)*cs; x != y {
		return x < y
	}
	if x, y := c.load*ds, d.load*cs; x != y {
		return x < y
	}
	return c.credit > d.credit
}

// pickClass finds a place and a host for a new machine of one of the classes; nil
// when there is none now.
func (p *Pool) pickClass(classes []*class, now time.Time, want *Want) (*place, *host) {
	var best candidate
	for _, c := range classes {
		p.choose(&best, p.places[c.Index()], now, want)
	}
	return best.place, best.host
}

// pick is pickClass of places, for nobody's call.
func (p *Pool) pick(places []*place, now time.Time) (*place, *host) {
	var best candidate
	for _, pl := range places {
		p.choose(&best, pl, now, &Want{})
	}
	return best.place, best.host
}

// choose makes best the best of itself and the hosts of a place: of equal ones
// the first.
func (p *Pool) choose(best *candidate, pl *place, now time.Time, want *Want) {
	t := pl.template
	for _, h := range pl.hosts {
		if h.used+t.Weight > h.Slots || h == p.hoarded || !p.able(pl, h, now) {
			continue
		}
		c := candidate{place: pl, host: h, load: h.used, avoided: slices.Contains(want.Avoid, h.Name), credit: h.parentCredit(t) + h.inputsCredit(want.Inputs)}
		if c.before(best) {
			*best = c
		}
	}
}

// Of the machines that are free, those that came free last are looked at for the
// inputs of a call: so many of each class, and so many altogether.
const (
	recentOfClass = 64
	recentOfAll   = 256
)

// nearest gives as many free machines as the wait lacks whose hosts have its
// inputs, by the rule of candidate.before with the slots that are in use as the
// load, then those that came free last. It gives nil where that is no better than
// any others: no host has any, or too few of them are not to be avoided.
func (p *Pool) nearest(w *wait) []*unit {
	type option struct {
		candidate
		unit *unit
	}
	var all []option
	helps := false
	for _, c := range w.q.Demand.Classes() {
		n := 0
		c.EachFree(func(u *unit) bool {
			if w.q.Avoid == nil || !w.q.Avoid(u) {
				o := option{candidate{host: u.host, load: u.host.held, credit: u.host.inputsCredit(w.want.Inputs)}, u}
				helps = helps || o.credit > 0
				all = append(all, o)
			}
			n++
			return n < recentOfClass && len(all) < recentOfAll
		})
	}
	if !helps || len(all) < w.q.Lacks() {
		return nil
	}
	slices.SortStableFunc(all, func(a, b option) int { return b.unit.since.Compare(a.unit.since) })
	var chosen []*unit
	for range w.q.Lacks() {
		best := 0
		for i := range all {
			if i != best && all[i].before(&all[best].candidate) {
				best = i
			}
		}
		u := all[best].unit
		chosen = append(chosen, u)
		all = slices.Delete(all, best, best+1)
		for i := range all {
			if all[i].host == u.host {
				all[i].load += u.template.Weight
			}
		}
	}
	return chosen
}

// favour does add, which offers a wait to the queue, so that of the machines that
// are free it gets those nearest to its inputs. Who gets a machine is not changed
// by it: free machines are wanted by nobody else.
func (p *Pool) favour(w *wait, add func() bool) bool {
	if len(w.want.Inputs) == 0 {
		return add()
	}
	chosen := p.nearest(w)
	if chosen == nil {
		return add()
	}
	avoid := w.q.Avoid
	w.q.Avoid = func(u *unit) bool { return !slices.Contains(chosen, u) }
	defer func() { w.q.Avoid = avoid }() // it has all that it lacked
	return add()
}

// add queues a wait.
func (p *Pool) add(w *wait) bool {
	if len(w.want.Inputs) == 0 {
		return p.q.Add(&w.q)
	}
	return p.favour(w, func() bool { return p.q.Add(&w.q) })
}

// try gives a wait what is free for it.
func (p *Pool) try(w *wait) bool {
	if len(w.want.Inputs) == 0 {
		return p.q.Try(&w.q)
	}
	return p.favour(w, func() bool { return p.q.Try(&w.q) })
}

// whyHere says why a machine is made on a host, where more than load counts. The
// caller holds p.mu, and the machine has no slot yet.
func (p *Pool) whyHere(pl *place, h *host, inputs []string, now time.Time) string {
	t := pl.template
	var parts []string
	switch {
	case t.Parent == "" || h.way == vm.RungNone:
	case h.have.parents.has(t.Parent):
		parts = append(parts, "it has parent "+t.Parent)
	default:
		var others []string
		for _, o := range p.hosts {
			if o != h && o.places[t] != nil && o.have.parents.has(t.Parent) {
				others = append(others, o.Name+" ("+p.notThere(o, t, now)+")")
			}
		}
		if k := &h.have.parents; k.err != nil {
			parts = append(parts, fmt.Sprintf("whether it has parent %s is not known", t.Parent))
		} else {
			parts = append(parts, "it has no parent "+t.Parent)
		}
		if len(others) > 0 {
			parts = append(parts, "those that have it: "+strings.Join(others, ", "))
		}
	}
	if len(inputs) > 0 {
		parts = append(parts, fmt.Sprintf("it has %d of %d inputs", h.holds(inputs), len(inputs)))
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(append(parts, fmt.Sprintf("%d of its %d slots are used", h.used, h.Slots)), "; ")
}

// notThere says in a word why a machine was not made on a host.
func (p *Pool) notThere(h *host, t *template, now time.Time) string {
	switch {
	case !h.listed:
		return "not listed yet"
	case h.paused:
		return "paused"
	case !h.lost.Allow(now) || !h.sick.Allow(now) || !h.pairs[t].Allow(now):
		return "quarantined"
	case !h.busy.Over(now):
		return "busy"
	case !h.full.Over(now):
		return "used up by others"
	case h.used+t.Weight > h.Slots:
		return "no free slot"
	case h.Starts > 0 && h.boots >= h.Starts:
		return "no start free"
	case h == p.hoarded:
		return "kept for a heavier one"
	}
	return "loaded"
}
