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
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/vm"
)

// boot brings a new unit to its first machine.
func (p *Pool) boot(u *unit) {
	began := time.Now()
	err := p.claim(u)
	if err == nil {
		ctx, cancel := context.WithTimeoutCause(u.ctx, u.template.BootTimeout, fmt.Errorf("not ready after %v", u.template.BootTimeout))
		if err = p.clearSlot(ctx, u); err == nil {
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
		if o.Store != store || p.isLive(i.ID, o.Incarnation) {
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

// destroyListed destroys a machine that a listing showed, if it still is that
// incarnation.
func (p *Pool) destroyListed(ctx context.Context, d vm.Driver, i vm.Info) error {
	m, err := d.Open(ctx, i.ID)
	if errors.Is(err, vm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now, err := m.Info(ctx)
	if errors.Is(err, vm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.Owner != i.Owner {
		return fmt.Errorf("machine %s: its owner changed since it was listed; left alone", i.ID)
	}
	if err := m.Destroy(ctx); err != nil && !errors.Is(err, vm.ErrNotFound) {
		return err
	}
	return nil
}

func (p *Pool) isLive(_ vm.ID, incarnation string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[incarnation] != nil
}

// make renews the machine old, or makes one when it is nil, proves it clean and
// ready, and raises the slot's token for the next hand-out.
func (p *Pool) make(ctx context.Context, u *unit, old vm.Machine) error {
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
	if spec.Inputs == 0 {
		spec.Inputs = DefaultInputs
	}
	spec.Owner = vm.Owner{
		Store: store, Pool: p.config.Name, Run: p.config.Run.ID, Job: p.config.Run.Job,
		Session: p.leases.SessionKey(), Slot: u.key, Incarnation: incarnation, Lock: p.leases.LockPath(), Token: u.leases[0].Token(),
	}
	p.mu.Lock()
	before := u.incarnation
	u.stopWatch()
	u.made, u.incarnation = true, incarnation
	if old == nil {
		u.name = name
	}
	p.live[incarnation] = u
	p.mu.Unlock()

	r, err := vm.Renew(ctx, old, vm.Policy{
		Driver: u.driver, Spec: spec, Rungs: t.Rungs, Parent: t.Parent, Snapshot: t.Snapshot,
		Clean: func(ctx context.Context, m vm.Machine) error { return prove(ctx, t, m) },
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
		u.name, u.properties, u.uses, u.born = name, properties, 0, time.Now()
	}
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
	return nil
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
	ctx, cancel := context.WithTimeoutCause(u.ctx, u.template.RenewTimeout, fmt.Errorf("not renewed after %v", u.template.RenewTimeout))
	defer cancel()
	old := u.machine
	var err error
	if u.recycle && old != nil {
		if err = old.Destroy(ctx); err == nil {
			p.mu.Lock()
			u.machine, old = nil, nil
			p.mu.Unlock()
		}
	}
	if err == nil {
		err = p.make(ctx, u, old)
	}
	p.settle(u, began, because(ctx, err))
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
		p.noteUnit(EventReady, u, "", took, nil)
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

func (p *Pool) withdrawProbe(u *unit) {
	for i, b := range u.probing {
		if b != nil {
			b.Withdraw()
			u.probing[i] = nil
		}
	}
}

// succeeded counts a success for host and template.
func (p *Pool) succeeded(u *unit, now time.Time) {
	h, t := u.host, u.template
	for _, b := range []*health.Breaker{&h.lost, &h.sick} {
		if b.State(now) != health.Healthy {
			p.note(Event{Kind: EventRecovered, Host: h.Name})
		}
		b.Success()
	}
	if t.health.State(now) != health.Healthy {
		p.note(Event{Kind: EventRecovered, Template: t.Name})
	}
	t.health.Success()
	t.last = nil
	h.pairs[t.index].Success()
	delete(h.failed, t)
	h.busy.Reset()
	h.full.Reset()
	t.locked.Reset()
	p.unpark(h)
	p.store.Reset()
	p.storeErr = nil
	u.probing = [4]*health.Breaker{}
}

// failed counts a failed boot against what it tells something about.
func (p *Pool) failed(u *unit, err error, now time.Time) {
	h, t := u.host, u.template
	switch {
	case errors.Is(err, errStore):
		p.withdrawProbe(u)
		p.store.Busy(now)
		p.storeErr = err
		p.wake(p.store.Until())
		p.noteUnit(EventFailed, u, "lease store", 0, err)
		return
	case errors.Is(err, errFull):
		p.withdrawProbe(u)
		h.full.Busy(now)
		p.wake(h.full.Until())
		p.noteUnit(EventBusy, u, "", 0, err)
		p.stats.busy++
		return
	case errors.Is(err, errLock):
		p.withdrawProbe(u)
		t.locked.Busy(now)
		p.wake(t.locked.Until())
		p.noteUnit(EventBusy, u, "", 0, err)
		p.stats.busy++
		return
	case errors.Is(err, vm.ErrBusy):
		p.withdrawProbe(u)
		h.busy.Busy(now)
		p.wake(h.busy.Until())
		p.noteUnit(EventBusy, u, "", 0, err)
		p.stats.busy++
		return
	}
	p.stats.failures++
	p.noteUnit(EventFailed, u, "", now.Sub(u.since), err)
	if errors.Is(err, errHost) || errors.Is(err, vm.ErrHostLost) {
		p.withdrawProbe(u)
		p.hostLost(h, err, now)
		return
	}
	for i := range u.probing {
		if i == 0 && u.probing[0] != nil {
			u.probing[0].Success() // it answers: the machine fails, not the way to the host
		}
		u.probing[i] = nil
	}
	p.machineFailed(h, t, err, now)
}

// machineFailed counts a failure of a machine that its host is not known to be
// guilty of.
func (p *Pool) machineFailed(h *host, t *template, err error, now time.Time) {
	pair := &h.pairs[t.index]
	pair.Failure(now, err.Error())
	p.quarantined(pair, now, Event{Host: h.Name, Template: t.Name, Err: err})
	t.last = err
	t.health.Failure(now, err.Error())
	p.quarantined(&t.health, now, Event{Template: t.Name, Err: err})
	h.failed[t]++
	if len(h.failed) > 1 {
		h.sick.Failure(now, err.Error())
		p.quarantined(&h.sick, now, Event{Host: h.Name, Err: err})
	}
	if t.health.Fails() >= t.Failures {
		p.refuse(t, err, now)
	}
}

// hostLost begins or lengthens the quarantine of a host that does not answer. Its
// ready machines are not handed out until it does.
func (p *Pool) hostLost(h *host, err error, now time.Time) {
	h.lost.Failure(now, err.Error())
	p.quarantined(&h.lost, now, Event{Host: h.Name, Err: err})
	for _, u := range h.slots {
		if u != nil && u.state == ready && p.q.Take(&u.item) {
			u.parked = true
		}
	}
	p.plan(now)
}

// unpark offers the ready machines of a host that answers again.
func (p *Pool) unpark(h *host) {
	for _, u := range h.slots {
		if u != nil && u.parked {
			u.parked = false
			if u.state == ready {
				p.offer(u, u.since)
			}
		}
	}
}

func (p *Pool) quarantined(b *health.Breaker, now time.Time, e Event) {
	if until, ok := b.Until(); ok && until.After(now) {
		p.wake(until)
		e.Kind, e.Reason = EventQuarantine, "left alone for "+people(until.Sub(now)).String()
		p.note(e)
	}
}

// watchMachine learns when a machine ends by itself, so that a dead one is not
// handed out. The caller holds p.mu.
func (p *Pool) watchMachine(u *unit) {
	w, ok := vm.As[vm.Waiter](u.machine)
	if !ok {
		return
	}
	u.stopWatch()
	ctx, cancel := context.WithCancel(p.soft)
	u.watch = cancel
	incarnation := u.incarnation
	p.wg.Go(func() {
		defer cancel()
		end, err := w.Wait(ctx)
		if err != nil {
			return // the watch ended, or the driver cannot tell; keepalive and Run see more
		}
		p.mu.Lock()
		if u.incarnation == incarnation && ctx.Err() == nil {
			u.ended = true
			if u.state == ready {
				now := time.Now()
				err := fmt.Errorf("an unused machine ended: %v %s", end.Kind, end.Detail)
				p.stats.failures++
				p.noteUnit(EventFailed, u, "", 0, err)
				p.q.Drop(&u.item)
				p.machineFailed(u.host, u.template, err, now)
				p.destroy(u, "it ended while nobody used it")
				p.plan(now)
			}
		}
		p.unlock()
	})
}

func (u *unit) stopWatch() {
	if u.watch != nil {
		u.watch()
		u.watch = nil
	}
}

// destroy begins to destroy a unit's machine and to give up its slot. The caller
// holds p.mu.
func (p *Pool) destroy(u *unit, reason string) {
	u.stopWatch()
	u.set(destroying, time.Now())
	p.noteUnit(EventDestroy, u, reason, 0, nil)
	p.wg.Go(func() { p.tearDown(u) })
}

// tearDown destroys the machine, however often that takes, and gives the slot
// up after it: never before, or the next holder would be over capacity.
func (p *Pool) tearDown(u *unit) {
	pause := health.Pause{Policy: health.Policy{First: time.Second, Most: time.Minute}}
	for {
		ctx, cancel := context.WithTimeout(p.hard, destroyTimeout)
		err := p.remove(ctx, u)
		cancel()
		p.mu.Lock()
		now := time.Now()
		if err == nil || u.lostErr != nil || p.hard.Err() != nil {
			if err != nil && u.lostErr == nil {
				p.left = append(p.left, fmt.Errorf("machine %s on host %s: %w", u.name, u.host.Name, err))
			}
			p.mu.Unlock()
			break
		}
		p.noteUnit(EventFailed, u, "destroying", 0, err)
		p.stats.failures++
		pause.Busy(now)
		p.unlock()
		if !sleep(p.hard, pause.Until().Sub(now)) {
			continue // hard has ended: one last look above
		}
	}
	// The leases before the count: who plans the slot must find it free.
	p.mu.Lock()
	leases := slices.Concat(u.extra, u.leases)
	lost := u.lostErr != nil
	u.leases, u.extra = nil, nil
	u.released = true
	p.mu.Unlock()
	p.releaseAll(leases)
	p.mu.Lock()
	now := time.Now()
	if !lost {
		p.stats.destroyed++
	}
	p.giveUp(u, now)
	p.plan(now)
	p.unlock()
}

// sleep waits, and reports false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// remove destroys the machine of a unit. Where a boot failed on the way nobody
// has a handle of what came into being: it is looked for by its incarnation.
func (p *Pool) remove(ctx context.Context, u *unit) error {
	p.mu.Lock()
	m, made, incarnation := u.machine, u.made, u.incarnation
	p.mu.Unlock()
	if m != nil {
		if err := m.Destroy(ctx); err != nil && !errors.Is(err, vm.ErrNotFound) {
			return err
		}
		return nil
	}
	if !made {
		return nil
	}
	listing, err := u.driver.List(ctx)
	if err != nil {
		return err
	}
	for _, i := range listing {
		if i.Owner.Incarnation != incarnation {
			continue
		}
		if err := p.destroyListed(ctx, u.driver, i); err != nil {
			return err
		}
	}
	return nil
}
