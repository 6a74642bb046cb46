package pool

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/queue"
)

// errRetired ends boots and renewals of machines that have no place any more.
var errRetired = errors.New("its host, template or slot is not in the configuration any more")

// Reload takes over the hosts, templates, locks, quotas, Poll, Drain and Kept of c;
// the other fields stay as they are, and Name may not differ. After an error nothing
// has changed.
//
// What a template's machines are made from (all but Ready, Most, Idle, MostUses,
// MostAge and Failures; a func is the same when its code is) or a host's driver,
// name, labels or properties that differ make it another one. Machines of what
// is gone or was another one are lame ducks: guests keep theirs, and nobody gets
// them after. Those who wait for what cannot be had any more are told so.
// EventRetired says that no machine of a removed host is left; its driver may be
// closed then.
//
// Guests that an account had before it had a quota do not count against it.
func (p *Pool) Reload(c Config) error {
	fail := func(err error) error { return &OpError{Op: "reload", What: p.config.Name, Err: err} }
	if c.Name == "" {
		c.Name = p.config.Name
	}
	if c.Name != p.config.Name {
		return fail(fmt.Errorf("Config.Name is %q, want %q: machines bear it", c.Name, p.config.Name))
	}
	c, err := c.validate()
	if err != nil {
		return fail(err)
	}
	p.mu.Lock()
	defer p.unlock()
	if p.closing {
		return fail(ErrClosed)
	}
	now := time.Now()
	p.config.Locks, p.config.Poll, p.config.Drain, p.config.Kept = c.Locks, c.Poll, c.Drain, c.Kept
	p.config.Quotas = c.Quotas
	p.reloadTemplates(c.Templates)
	p.reloadHosts(c.Hosts)
	p.join()
	p.retire()
	p.refuseImpossible(now)
	p.requota(now)
	p.wake(now)
	p.plan(now)
	return nil
}

func (p *Pool) reloadTemplates(templates []Template) {
	old := p.byName
	p.templates, p.byName = nil, make(map[string]*template)
	for _, c := range templates {
		t := old[c.Name]
		if t == nil || !alike(t.Template, c) {
			t = newTemplate(c)
		} else {
			t.Ready, t.Most, t.Idle, t.MostUses, t.MostAge, t.Failures = c.Ready, c.Most, c.Idle, c.MostUses, c.MostAge, c.Failures
			t.health.Policy.Threshold = c.Failures
		}
		p.templates = append(p.templates, t)
		p.byName[t.Name] = t
	}
	for name, t := range old {
		if p.byName[name] != t {
			t.retired = true
		}
	}
}

// alike reports whether machines of the two templates are made alike.
func alike(a, b Template) bool {
	code := func(f any) uintptr { return reflect.ValueOf(f).Pointer() }
	if code(a.Clean) != code(b.Clean) || code(a.Probe) != code(b.Probe) {
		return false
	}
	for _, t := range []*Template{&a, &b} {
		t.Clean, t.Probe = nil, nil
		t.Ready, t.Most, t.Idle, t.MostUses, t.MostAge, t.Failures = 0, 0, 0, 0, 0, 0
	}
	return reflect.DeepEqual(a, b)
}

func (p *Pool) reloadHosts(hosts []Host) {
	old := p.hosts
	p.hosts = nil
	for _, c := range hosts {
		i := slices.IndexFunc(old, func(h *host) bool {
			return !h.retired && h.id == c.Driver.HostID() && h.Driver == c.Driver && h.Name == c.Name &&
				reflect.DeepEqual(h.Labels, c.Labels) && reflect.DeepEqual(h.Properties, c.Properties)
		})
		if i < 0 {
			p.hosts = append(p.hosts, newHost(c))
			continue
		}
		h := old[i]
		h.resize(c.Slots)
		h.Starts, h.Keepalive = c.Starts, c.Keepalive
		p.hosts = append(p.hosts, h)
	}
	for _, h := range old {
		if !slices.Contains(p.hosts, h) {
			h.retired = true
			p.hosts = append(p.hosts, h)
		}
	}
}

// join works out anew which templates are made on which hosts.
func (p *Pool) join() {
	for _, pl := range p.places {
		pl.hosts = nil
	}
	for _, t := range p.templates {
		t.places = nil
	}
	for i, h := range p.hosts {
		h.index = i
		h.places = make(map[*template]*place, len(p.templates))
		h.fixtures = slices.DeleteFunc(h.fixtures, func(f *fixture) bool { return f.template.retired && f.unit == nil })
		for _, t := range p.templates {
			if h.retired || len(t.Hosts) > 0 && !slices.Contains(t.Hosts, h.Name) {
				continue
			}
			for _, e := range t.Existing {
				known := func(f *fixture) bool { return f.template == t && f.id == e.Machine }
				if e.Host == h.Name && !slices.ContainsFunc(h.fixtures, known) {
					h.fixtures = append(h.fixtures, &fixture{id: e.Machine, template: t, full: health.Pause{Policy: health.Policy{First: 250 * time.Millisecond, Most: 5 * time.Second}}})
				}
			}
			if h.room(t) == 0 {
				continue
			}
			labels := mergeAll(h.Labels, t.Labels)
			cl := p.q.Class(t.Name, labels)
			if cl.Index() == len(p.places) {
				p.places = append(p.places, &place{class: cl, labels: labels})
			}
			pl := p.places[cl.Index()]
			pl.template = t
			pl.hosts = append(pl.hosts, h)
			if !slices.Contains(t.places, pl) {
				t.places = append(t.places, pl)
			}
			h.places[t] = pl
			if h.forks(t) && !h.have.parents.done && h.listed {
				h.nextSweep = time.Time{} // nobody asked it for its parents yet
			}
			if h.pairs[t] == nil {
				h.pairs[t] = new(health.Breaker)
				h.recipes[t] = recipe(t, h)
			}
		}
	}
	p.avail, p.vacant = make([]int, len(p.places)), make([]int, len(p.hosts))
}

// lame says why a machine has no place any more; empty: it has.
func (u *unit) lame() string {
	switch {
	case u.host.retired:
		return "its host was removed"
	case u.template.retired:
		return "its template was removed or changed"
	case slices.ContainsFunc(u.numbers, func(n int) bool { return n >= u.host.Slots }):
		return "its slot was removed"
	}
	return ""
}

// retire destroys lame machines that nobody holds, and lets go of hosts that
// have none left. The caller holds p.mu.
func (p *Pool) retire() {
	left := map[*host]bool{}
	for u := range p.units {
		left[u.host] = true
		why := u.lame()
		if why == "" {
			continue
		}
		switch u.state {
		case ready:
			p.discard(u, why)
		case claiming, booting, renewing:
			u.cancel(errRetired)
		}
	}
	p.hosts = slices.DeleteFunc(p.hosts, func(h *host) bool {
		if !h.retired || h.sweeping || left[h] {
			return false
		}
		p.note(Event{Kind: EventRetired, Host: h.Name})
		return true
	})
	for i, h := range p.hosts {
		h.index = i
	}
}

// refuseImpossible ends the waits for more than there can be now.
func (p *Pool) refuseImpossible(now time.Time) {
	var out []*wait
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		if qw.Need > p.most(qw.Demand) {
			out = append(out, qw.Value)
		}
		return queue.Go
	})
	for _, w := range out {
		w.err = fmt.Errorf("%w since the pool was changed: %s", ErrImpossible, p.near(w.want, w.q.Demand, w.q.Need))
		p.abandon(w, now)
		w.over()
	}
}

// Resize changes how many slots of a host the pool uses. Machines in slots that
// are gone are lame ducks, as in Reload.
func (p *Pool) Resize(name string, slots int) error {
	fail := func(err error) error { return &OpError{Op: "resize", What: fmt.Sprintf("host %q", name), Err: err} }
	if slots < 0 {
		return fail(fmt.Errorf("to %d slots, want 0 or more", slots))
	}
	p.mu.Lock()
	defer p.unlock()
	i := slices.IndexFunc(p.hosts, func(h *host) bool { return h.Name == name && !h.retired })
	if i < 0 {
		return fail(errNoHost)
	}
	now := time.Now()
	p.hosts[i].resize(slots)
	p.join()
	p.retire()
	p.refuseImpossible(now)
	p.plan(now)
	return nil
}

func (h *host) resize(slots int) {
	h.Slots = slots
	for len(h.slots) < slots {
		h.slots = append(h.slots, nil)
	}
}

// reaches says whether anything can be handed out for a demand one day.
func (p *Pool) reaches(d *queue.Demand[*unit, *wait]) bool {
	for _, c := range d.Classes() {
		if len(p.places[c.Index()].hosts) > 0 {
			return true
		}
	}
	return false
}
