package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
)

// boot brings a new unit to its first machine.
func (p *Pool) boot(u *unit) {
	began := time.Now()
	err := p.claim(u)
	if err == nil {
		ctx, cancel := context.WithTimeoutCause(u.ctx, u.template.BootTimeout, u.template.bootLate)
		if u.fixture == nil {
			err = p.clearSlot(ctx, u)
		}
		if err == nil {
			err = p.make(ctx, u, nil)
		}
		err = because(ctx, err)
		cancel()
	}
	p.releaseStart(u)
	p.settle(u, began, err)
}

// because adds the context's cause to an error of its end.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// clearSlot destroys older incarnations in the slots of a unit that was claimed
// just now: whoever left them has lost the lease, as this one's token is higher.
func (p *Pool) clearSlot(ctx context.Context, u *unit) error {
	store, err := p.leases.StoreID(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	listing, err := u.driver.List(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errHost, err)
	}
	for _, i := range listing {
		o := i.Owner
		if o.Store != store || p.isLive(u.host, i.ID, o.Incarnation) {
			continue
		}
		for _, l := range u.leases {
			if l.Key() != o.Slot || l.Token() <= o.Token {
				continue
			}
			err := p.destroyListed(ctx, u.driver, i)
			p.mu.Lock()
			p.note(Event{Kind: EventLeftover, Host: u.host.Name, Template: i.Template, Machine: string(i.ID), Reason: "an older incarnation in slot " + o.Slot, Err: err})
			p.stats.leftovers++
			p.unlock()
			if err != nil {
				return fmt.Errorf("destroying the older incarnation %s: %w", i.ID, err)
			}
		}
	}
	return nil
}

// isLive reports whether a machine is one of the pool's, or is not its to touch.
func (p *Pool) isLive(h *host, id vm.ID, incarnation string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[incarnation] != nil || h.fixed(id)
}

// make renews the machine old, or makes one when it is nil, proves it clean and
// ready, and raises the slot's token for the next hand-out.
func (p *Pool) make(ctx context.Context, u *unit, old vm.Machine) error {
	if u.fixture != nil {
		return p.prepare(ctx, u)
	}
	store, err := p.leases.StoreID(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	t, h := u.template, u.host
	incarnation := uuid.NewString()
	name := machineName(p.config.Name, u.numbers[0], incarnation)
	properties := mergeAll(h.Properties, t.Spec.Properties, t.Properties, map[string]string{
		"machine": name, "host": h.Name, "template": t.Name, "slot": u.key, "pool": p.config.Name, "run": p.config.Run.ID,
	})
	spec := t.Spec
	spec.Name, spec.Template, spec.OnExit = name, t.Name, t.OnExit
	spec.Properties = properties
	spec.Secret = vm.Secret(rand.Text())
	spec.Disks, spec.JobDisks = slices.Clone(spec.Disks), slices.Clone(spec.JobDisks)
	if len(spec.JobDisks) == 0 {
		spec.JobDisks = []int64{DefaultJobDisk}
	}
	spec.Inputs = t.inputs()
	spec.Owner = vm.Owner{
		Store: store, Pool: p.config.Name, Run: p.config.Run.ID, Job: p.config.Run.Job,
		Session: p.leases.SessionKey(), Slot: u.key, Incarnation: incarnation, Lock: p.leases.LockPath(), Token: u.leases[0].Token(),
	}
	p.mu.Lock()
	before := u.incarnation
	u.stopWatch()
	u.made, u.incarnation = true, incarnation
	spec.Owner.Recipe = h.recipes[t]
	if old == nil {
		u.name = name
	}
	p.live[incarnation] = u
	p.mu.Unlock()

	rungs := t.Rungs
	if old != nil && t.reverts != nil {
		rungs = t.others // that one was tried
	}
	r, err := vm.Renew(ctx, old, vm.Policy{
		Driver: u.driver, Spec: spec, Rungs: rungs, Parent: t.Parent, Snapshot: t.Snapshot,
		Clean: t.prove,
	})
	if err == nil {
		_, err = u.leases[0].Raise(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Machine != nil || err == nil {
		u.machine = r.Machine
	}
	if err != nil && r.Machine == nil {
		u.machine = nil
	}
	if r.Rung == vm.RungRevert || err != nil && r.Machine == old && old != nil {
		delete(p.live, incarnation)
		u.incarnation = before
	} else if before != "" {
		delete(p.live, before)
	}
	if err != nil {
		return err
	}
	if r.Rung != vm.RungRevert {
		p.learn(u, r)
		u.name, u.properties, u.uses, u.born = name, properties, 0, time.Now()
	}
	u.newFence()
	return nil
}

// newFence binds the next hand-out to the slot's present token. The caller holds
// p.mu.
func (u *unit) newFence() {
	u.token = u.leases[0].Token()
	first := u.leases[0].Fence()
	rest := slices.Concat(u.leases[1:], u.extra)
	u.fence = first
	if len(rest) > 0 {
		u.fence = func() error {
			for _, l := range rest {
				if err := l.Check(); err != nil {
					return err
				}
			}
			return first()
		}
	}
}

// prove says that a machine is clean and ready.
func prove(ctx context.Context, t *template, m vm.Machine) error {
	if t.Clean != nil {
		if err := t.Clean(ctx, m); err != nil {
			return fmt.Errorf("not clean: %w", err)
		}
	} else if _, ok := vm.As[vm.Messenger](m); ok {
		if err := vm.ProveClean(ctx, m); err != nil {
			return err
		}
	}
	if t.Probe != nil {
		if err := t.Probe(ctx, m); err != nil {
			return fmt.Errorf("not ready: %w", err)
		}
		// A probe may take long and look at anything: it must still run.
		i, err := m.Info(ctx)
		if err != nil {
			return fmt.Errorf("not ready: %w", err)
		}
		if i.State == vm.StateStopped || i.State == vm.StateCrashed {
			return fmt.Errorf("not ready: it ended while it was probed (%v)", i.State)
		}
	}
	return nil
}

// machineName is short, the same for the same arguments, and says whose it is.
func machineName(pool string, slot int, incarnation string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, pool)
	clean = strings.TrimLeft(clean, "-.")
	if clean == "" {
		clean = "pool"
	}
	if len(clean) > 40 {
		clean = clean[:40]
	}
	return clean + "-" + strconv.Itoa(slot) + "-" + strings.ReplaceAll(incarnation, "-", "")[:12]
}

// renew rolls a used machine back behind its guest.
func (p *Pool) renew(u *unit) {
	began := time.Now()
	// The timer is the unit's, used again and again: a renewal that it ends is
	// the unit's last operation, for the machine is destroyed then.
	if u.late == nil {
		u.late = time.AfterFunc(u.template.RenewTimeout, func() { u.cancel(u.template.renewLate) })
	} else {
		u.late.Reset(u.template.RenewTimeout)
	}
	old := u.machine
	var err error
	if u.recycle && old != nil && u.fixture == nil {
		if err = old.Destroy(u.ctx); err == nil {
			p.mu.Lock()
			u.machine, old = nil, nil
			p.mu.Unlock()
		}
	}
	if err == nil {
		var done bool
		if done, err = p.revert(u, old); !done && p.another(u, err) {
			err = errors.Join(err, p.make(u.ctx, u, old))
		}
	}
	if !u.late.Stop() && err == nil {
		err = u.template.renewLate
	}
	p.settle(u, began, because(u.ctx, err))
}

// another reports whether the template has a rung that may do better than the
// revert that failed so.
func (p *Pool) another(u *unit, err error) bool {
	if err == nil {
		return true
	}
	if u.ctx.Err() != nil || len(u.template.others) == 0 || errors.Is(err, vm.ErrBusy) || errors.Is(err, vm.ErrHostLost) ||
		errors.Is(err, vm.ErrClosed) || errors.Is(err, errRaise) {
		return false
	}
	p.mu.Lock()
	p.noteUnit(EventFailed, u, "reverting; other ways are tried", 0, err)
	p.unlock()
	return true
}

// errRaise: the slot's token could not be raised.
var errRaise = errors.New("no new token")

// revert takes the machine back in place where that is the first rung that the
// template can take: no new machine is prepared for then. It answers neither
// done nor an error where it is not.
func (p *Pool) revert(u *unit, old vm.Machine) (done bool, err error) {
	t := u.template
	if old == nil || t.reverts == nil {
		return false, nil
	}
	p.mu.Lock()
	u.stopWatch()
	p.mu.Unlock()
	inputs := t.inputs()
	if u.fixture != nil {
		inputs = t.Spec.Inputs
	}
	_, err = vm.Renew(u.ctx, old, vm.Policy{
		Driver: u.driver, Spec: vm.Spec{Name: u.name, Inputs: inputs}, Rungs: t.reverts, Snapshot: t.Snapshot, Clean: t.prove,
	})
	if err != nil {
		return false, err
	}
	if _, err := u.leases[0].Raise(u.ctx); err != nil {
		return false, fmt.Errorf("%w: %w", errRaise, err)
	}
	p.mu.Lock()
	u.newFence()
	p.mu.Unlock()
	return true, nil
}

// settle judges how a boot or a renewal ended and says what becomes of the unit.
func (p *Pool) settle(u *unit, began time.Time, err error) {
	p.mu.Lock()
	now := time.Now()
	took := now.Sub(began)
	switch {
	case u.lostErr != nil:
		p.withdrawProbe(u)
		p.giveUp(u, now)
	case err == nil && p.closing:
		p.withdrawProbe(u)
		p.destroy(u, "the pool closes")
	case err == nil:
		p.succeeded(u, now)
		u.template.took = took
		u.bootTime, u.recycle, u.ended = took, false, false
		p.stats.boots++
		p.noteUnit(EventReady, u, u.origin(), took, nil)
		p.watchMachine(u)
		p.offer(u, now)
	default:
		if p.closing || u.ctx.Err() != nil {
			p.withdrawProbe(u)
		} else {
			p.failed(u, err, now)
		}
		if len(u.leases) == 0 && len(u.extra) == 0 {
			p.giveUp(u, now)
		} else {
			p.destroy(u, "its boot or renewal failed")
		}
	}
	p.letIn(u, now)
	p.plan(now)
	p.unlock()
}

// releaseStart gives the start back, before the next one is planned.
func (p *Pool) releaseStart(u *unit) {
	p.mu.Lock()
	l := u.start
	u.start = nil
	p.mu.Unlock()
	if l != nil {
		p.releaseAll([]*lease.Lease{l})
	}
}
