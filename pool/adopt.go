package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/reconcile"
	"github.com/bullpen-vm/bullpen/vm"
)

// recipe is a digest of what a machine of a template on a host is made from, as
// far as data can tell: funcs are asked again of each machine that is adopted.
func recipe(t *template, h *host) string {
	b, err := json.Marshal(struct {
		Name             string
		Spec             vm.Spec
		Properties       map[string]string
		Parent, Snapshot string
		Rungs            []vm.Rung
	}{t.Name, t.Spec, mergeAll(h.Properties, t.Spec.Properties, t.Properties), t.Parent, t.Snapshot, t.Rungs})
	if err != nil {
		return "" // of no other's
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// adoptable gives the template that a leftover goes on as a machine of; nil: it
// is destroyed. It must have been made to survive, by a run of this pool that is
// proven dead, in a slot of this store that the pool still has, from the same
// recipe. The caller holds p.mu.
func (p *Pool) adoptable(h *host, f Finding) *template {
	o := f.Machine.Owner
	if f.Verdict != reconcile.Claim.String() || !f.ownerDead || o.Pool != p.config.Name || f.Machine.State != vm.StateRunning || p.closing {
		return nil
	}
	t := p.byName[f.Machine.Template]
	switch {
	case t == nil, t.OnExit != vm.Survive, t.Weight != 1, len(t.Locks) > 0, h.retired, h.places[t] == nil:
		return nil
	case o.Recipe == "" || o.Recipe != h.recipes[t]:
		return nil
	case t.Most > 0 && t.count >= t.Most:
		return nil
	}
	if n := h.slotOf(o.Slot); n < 0 || h.slots[n] != nil || h.used >= h.Slots {
		return nil
	}
	return t
}

// slotOf gives the number of a slot's key; -1: it is none of the host's.
func (h *host) slotOf(key string) int {
	for n := range h.Slots {
		if slotKey(h.id, n) == key {
			return n
		}
	}
	return -1
}

// adopt takes over a machine that survived its run, behind its slot's lease. It
// answers false when it is to be destroyed like other leftovers, or is not to be
// touched, which destroying finds out as well.
func (p *Pool) adopt(ctx context.Context, h *host, f Finding) bool {
	p.mu.Lock()
	may := p.adoptable(h, f) != nil
	p.mu.Unlock()
	if !may {
		return false
	}
	i := f.Machine
	lctx, cancel := context.WithTimeout(ctx, storeTimeout)
	l, err := p.leases.TryAcquire(lctx, i.Owner.Slot, &lease.Options{Note: i.Template})
	cancel()
	if err != nil {
		return false
	}
	p.mu.Lock()
	t := p.adoptable(h, f) // it may have changed while the store was asked
	if t == nil || l.Token() <= i.Owner.Token {
		p.mu.Unlock()
		p.releaseAll([]*lease.Lease{l})
		return false
	}
	now := time.Now()
	n := h.slotOf(i.Owner.Slot)
	u := &unit{
		pool: p, host: h, template: t, place: h.places[t], state: gone, since: now, numbers: []int{n}, leases: []*lease.Lease{l},
		key: l.Key(), driver: vm.Guard(h.Driver, l.Check), made: true, name: string(i.ID), incarnation: i.Owner.Incarnation, born: i.Created,
	}
	u.item.Value, u.item.Class = u, u.place.class
	u.renew = func() { p.renew(u) }
	u.ctx, u.cancel = context.WithCancelCause(p.soft)
	p.units[u] = struct{}{}
	p.live[u.incarnation] = u
	h.slots[n] = u
	u.set(booting, now)
	p.noteUnit(EventAdopted, u, f.Reason, 0, nil)
	p.wg.Go(func() { p.takeOver(u, i) })
	p.unlock()
	p.watchLease(u, l)
	return true
}

// takeOver brings a machine that is adopted to its known state, or destroys it.
func (p *Pool) takeOver(u *unit, listed vm.Info) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(u.ctx, u.template.BootTimeout, u.template.bootLate)
	err := p.own(ctx, u, listed)
	cancel()
	p.mu.Lock()
	now := time.Now()
	switch {
	case u.lostErr != nil:
		p.giveUp(u, now)
	case p.closing:
		p.destroy(u, "the pool closes")
	case err == nil:
		p.stats.adopted++
		u.bootTime = now.Sub(began)
		p.noteUnit(EventReady, u, "", u.bootTime, nil)
		p.watchMachine(u)
		p.offer(u, now)
	default:
		p.noteUnit(EventLeftover, u, "it survived its run and cannot be used", 0, err)
		p.stats.leftovers++
		p.destroy(u, "it cannot be adopted: "+err.Error())
	}
	p.plan(now)
	p.unlock()
}

// own writes the new ownership on a machine, proves it clean or reverts it, and
// raises its slot's token for the first hand-out.
func (p *Pool) own(ctx context.Context, u *unit, listed vm.Info) error {
	m, err := u.driver.Open(ctx, listed.ID)
	if err != nil {
		return err
	}
	i, err := m.Info(ctx)
	if err != nil {
		return err
	}
	if i.Owner != listed.Owner {
		return fmt.Errorf("machine %s: its owner changed since it was listed", i.ID)
	}
	p.mu.Lock()
	u.machine = m
	p.mu.Unlock()
	owned, ok := vm.As[vm.Owned](m)
	if !ok {
		return fmt.Errorf("machine %s: its ownership cannot be rewritten: %w", i.ID, errors.ErrUnsupported)
	}
	former := i.Owner.Run
	o := i.Owner
	o.Run, o.Job = p.config.Run.ID, p.config.Run.Job
	o.Session, o.Lock, o.Token = p.leases.SessionKey(), p.leases.LockPath(), u.leases[0].Token()
	if err := owned.SetOwner(ctx, o); err != nil {
		return err
	}
	err = u.template.prove(ctx, m)
	if errors.Is(err, vm.ErrDirty) && u.template.reverts != nil {
		_, err = vm.Renew(ctx, m, vm.Policy{
			Driver: u.driver, Spec: vm.Spec{Name: u.name, Inputs: u.template.inputs()}, Rungs: u.template.reverts,
			Snapshot: u.template.Snapshot, Clean: u.template.prove,
		})
	}
	if err == nil {
		_, err = u.leases[0].Raise(ctx)
	}
	if err != nil {
		return because(ctx, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t, h := u.template, u.host
	u.properties = mergeAll(h.Properties, t.Spec.Properties, t.Properties, map[string]string{
		"machine": u.name, "host": h.Name, "template": t.Name, "slot": u.key, "pool": p.config.Name, "run": former, // as it was told
	})
	if u.born.IsZero() {
		u.born = time.Now()
	}
	u.newFence()
	return nil
}
