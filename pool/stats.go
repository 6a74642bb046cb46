package pool

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
)

// counters only rise.
type counters struct {
	grants, releases, waits, refused, boots, destroyed, failures, busy, lost, leftovers, adopted, reconciles, fromParent, cold int64
	waited, held                                                                                                               time.Duration
}

// Stats are a pool's numbers at one moment. Counters rise from the pool's start.
type Stats struct {
	// Gauges.
	Slots, Machines, Claiming, Booting, Ready, Held, Renewing, Destroying, Kept, Detached int
	Waiting                                                                               int // callers
	Quarantined                                                                           int // hosts and templates
	Unlisted                                                                              int // hosts that could not say which parents or inputs they have
	// Counters.
	Grants, Releases, Waits, Refused  int64
	Boots, Destroyed, Failures, Busy  int64
	LeasesLost, Leftovers, Reconciles int64
	Adopted                           int64 // machines that survived their run
	FromParent, Cold                  int64 // machines made from a parent, and booted from cold
	TimeWaited, TimeHeld              time.Duration
}

// Stats gives the pool's numbers, all of one moment.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	c := p.stats
	s := Stats{
		Machines: len(p.units), Claiming: p.counts[claiming], Booting: p.counts[booting], Ready: p.counts[ready], Held: p.counts[held],
		Renewing: p.counts[renewing], Destroying: p.counts[destroying], Kept: p.counts[kept], Detached: p.counts[detached], Waiting: p.q.Waiting(),
		Grants: c.grants, Releases: c.releases, Waits: c.waits, Refused: c.refused, Boots: c.boots, Destroyed: c.destroyed,
		Failures: c.failures, Busy: c.busy, LeasesLost: c.lost, Leftovers: c.leftovers, Adopted: c.adopted, Reconciles: c.reconciles, FromParent: c.fromParent, Cold: c.cold,
		TimeWaited: c.waited, TimeHeld: c.held,
	}
	for _, h := range p.hosts {
		s.Slots += h.Slots
		if h.lost.State(now) != health.Healthy || h.sick.State(now) != health.Healthy {
			s.Quarantined++
		}
		if h.have.parents.err != nil || h.have.inputs.err != nil {
			s.Unlisted++
		}
	}
	for _, t := range p.templates {
		if t.health.State(now) != health.Healthy {
			s.Quarantined++
		}
	}
	return s
}

// GuestInfo is a machine as the pool sees it.
type GuestInfo struct {
	Host, Template, Name, Slot string
	State                      string // claiming, booting, ready, held, renewing, destroying, kept, detached
	Since                      time.Duration
	Age                        time.Duration // since it was made; zero while it is not
	Uses                       int
	Rung                       string // how it was made: cold, fork, restore; none while the pool made none
	Job                        string // of the holder
	Token                      uint64
}

// Guests gives all machines of the pool, by host and slot.
func (p *Pool) Guests() []GuestInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	out := make([]GuestInfo, 0, len(p.units))
	for u := range p.units {
		i := GuestInfo{
			Host: u.host.Name, Template: u.template.Name, Name: u.name, Slot: u.key, State: u.state.String(),
			Since: now.Sub(u.since), Uses: u.uses, Rung: u.rung.String(), Token: u.token,
		}
		if !u.born.IsZero() {
			i.Age = now.Sub(u.born)
		}
		if u.guest != nil {
			i.Job = u.guest.want.Job
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b GuestInfo) int {
		if c := strings.Compare(a.Host, b.Host); c != 0 {
			return c
		}
		if c := len(a.Slot) - len(b.Slot); c != 0 {
			return c
		}
		if c := strings.Compare(a.Slot, b.Slot); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// String is a table of the machines, with a line of totals.
func (p *Pool) String() string {
	guests, s := p.Guests(), p.Stats()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tTEMPLATE\tMACHINE\tSTATE\tFOR\tUSES\tJOB")
	for _, g := range guests {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\t%d\t%s\n", g.Host, g.Template, g.Name, g.State, people(g.Since), g.Uses, g.Job)
	}
	_ = w.Flush() // into memory
	fmt.Fprintf(&b, "%d of %d slots: %d ready, %d held, %d on their way; %d waiting\n",
		s.Machines, s.Slots, s.Ready, s.Held, s.Claiming+s.Booting+s.Renewing, s.Waiting)
	return b.String()
}
