package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/vm"
)

// Existing names a machine that was made by others; see Template.Existing.
type Existing struct {
	Host    string // the name; empty: the one host that there is
	Machine vm.ID
}

// fixture is an Existing and what the pool knows of it. All is under Pool.mu.
type fixture struct {
	id       vm.ID
	template *template
	unit     *unit          // that has it; nil: none of this pool
	sick     health.Breaker // it could not be brought to its known state
	full     health.Pause   // others have its lease
}

func machineKey(host string, id vm.ID) string { return "machine/" + host + "/" + string(id) }

// existing reports whether the template's machines are made by others.
func (t *template) existing() bool { return len(t.Existing) > 0 }

// validateExisting checks what holds for templates of existing machines only. It
// fills in the hosts.
func (t *Template) validateExisting(c Config, hosts map[string]int, taken map[Existing]string) error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s is %v, want %s", field, value, want)
	}
	switch {
	case t.Weight != 0:
		return bad("Weight", t.Weight, "0: existing machines take no slots")
	case len(t.Hosts) > 0:
		return bad("Hosts", t.Hosts, "none: Existing names them")
	case t.Parent != "":
		return bad("Parent", fmt.Sprintf("%q", t.Parent), "none: existing machines are never made")
	case len(t.Rungs) > 0 && !slices.Equal(t.Rungs, []vm.Rung{vm.RungRevert}):
		return bad("Rungs", t.Rungs, "none, or revert alone: existing machines are never made")
	case t.MostUses != 0 || t.MostAge != 0:
		return bad("MostUses or MostAge", "set", "0: existing machines are never made anew")
	}
	t.Existing = slices.Clone(t.Existing)
	t.Hosts = nil
	for i := range t.Existing {
		e := &t.Existing[i]
		if e.Host == "" && len(c.Hosts) == 1 {
			e.Host = c.Hosts[0].Name
		}
		field := fmt.Sprintf("Existing[%d].", i)
		if _, ok := hosts[e.Host]; !ok {
			return bad(field+"Host", fmt.Sprintf("%q", e.Host), "the name of a host")
		}
		if e.Machine == "" {
			return bad(field+"Machine", "empty", "the machine's ID")
		}
		if other, twice := taken[*e]; twice {
			return bad(field+"Machine", fmt.Sprintf("%q", e.Machine), fmt.Sprintf("a machine that template %s does not name already", other))
		}
		taken[*e] = t.Name
		if !slices.Contains(t.Hosts, e.Host) {
			t.Hosts = append(t.Hosts, e.Host)
		}
	}
	if t.Ready > len(t.Existing) {
		return bad("Ready", t.Ready, fmt.Sprintf("at most the %d of Existing", len(t.Existing)))
	}
	return nil
}

// room is how many machines of the template there can be on the host.
func (h *host) room(t *template) int {
	if !t.existing() {
		return h.Slots / t.Weight
	}
	n := 0
	for _, f := range h.fixtures {
		if f.template == t {
			n++
		}
	}
	return n
}

// vacant gives a machine of the template that nobody is known to have.
func (h *host) vacant(t *template, now time.Time) *fixture {
	for _, f := range h.fixtures {
		if f.template == t && f.unit == nil && f.sick.Allow(now) && f.full.Over(now) {
			return f
		}
	}
	return nil
}

// each visits the host's units that have a slot or an existing machine.
func (h *host) each(visit func(*unit)) {
	for _, u := range h.slots {
		if u != nil {
			visit(u)
		}
	}
	for _, f := range h.fixtures {
		if f.unit != nil {
			visit(f.unit)
		}
	}
}

// fixed reports whether a machine is one of the existing ones.
func (h *host) fixed(id vm.ID) bool {
	return slices.ContainsFunc(h.fixtures, func(f *fixture) bool { return f.id == id })
}

// claimExisting takes the lease of a unit's existing machine.
func (p *Pool) claimExisting(ctx context.Context, u *unit) error {
	l, err := p.leases.TryAcquire(ctx, machineKey(u.host.id, u.fixture.id), &lease.Options{Note: u.template.Name})
	switch {
	case errors.Is(err, lease.ErrHeld):
		return fmt.Errorf("machine %s: %w: %w", u.fixture.id, errFull, err)
	case err != nil:
		return fmt.Errorf("machine %s: %w: %w", u.fixture.id, errStore, err)
	}
	p.mu.Lock()
	u.leases = append(u.leases, l)
	p.mu.Unlock()
	p.watchLease(u, l)
	return nil
}

// prepare brings an existing machine to its known state where it can be, and
// proves that it is there. It is neither made nor destroyed.
func (p *Pool) prepare(ctx context.Context, u *unit) error {
	t, h, id := u.template, u.host, u.fixture.id
	m, err := u.driver.Open(ctx, id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	u.stopWatch()
	u.machine, u.name = m, string(id)
	p.mu.Unlock()
	if t.reverts != nil {
		_, err = vm.Renew(ctx, m, vm.Policy{
			Driver: u.driver, Spec: vm.Spec{Name: string(id), Inputs: t.Spec.Inputs}, Rungs: t.reverts, Snapshot: t.Snapshot, Clean: t.prove,
		})
	} else if err = wakeUp(ctx, m); err == nil {
		err = t.prove(ctx, m)
	}
	if err == nil {
		_, err = u.leases[0].Raise(ctx)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u.properties = mergeAll(h.Properties, t.Spec.Properties, t.Properties, map[string]string{
		"machine": u.name, "host": h.Name, "template": t.Name, "slot": u.key, "pool": p.config.Name, "run": p.config.Run.ID,
	})
	if u.born.IsZero() {
		u.born = time.Now()
	}
	u.newFence()
	return nil
}

// wakeUp makes a machine run.
func wakeUp(ctx context.Context, m vm.Machine) error {
	i, err := m.Info(ctx)
	if err != nil {
		return err
	}
	switch i.State {
	case vm.StateDefined, vm.StateStopped, vm.StateCrashed:
		return m.Start(ctx)
	case vm.StatePaused:
		s, ok := vm.As[vm.Suspender](m)
		if !ok {
			return fmt.Errorf("machine %s is paused and cannot be resumed: %w", m.ID(), errors.ErrUnsupported)
		}
		return s.Resume(ctx)
	}
	return nil
}

// fixtureFailed leaves an existing machine alone for a time. When all of its
// template fail, those who wait are told. The caller holds p.mu.
func (p *Pool) fixtureFailed(u *unit, err error, now time.Time) {
	f, t := u.fixture, u.template
	f.sick.Failure(now, err.Error())
	t.last = err
	p.quarantined(&f.sick, now, Event{Host: u.host.Name, Template: t.Name, Machine: string(f.id), Err: err})
	fails := 0
	for _, pl := range t.places {
		for _, h := range pl.hosts {
			for _, f := range h.fixtures {
				if f.template == t && f.sick.Fails() < t.Failures {
					return
				}
				fails = max(fails, f.sick.Fails())
			}
		}
	}
	p.refuse(t, fails, err, now)
}
