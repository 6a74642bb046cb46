package pool

import (
	"errors"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/vm"
)

// withdrawProbe takes back the probes that a boot was: it told nothing.
func (p *Pool) withdrawProbe(u *unit) {
	for i, b := range u.probing {
		if b != nil {
			b.Withdraw()
			u.probing[i] = nil
		}
	}
	if u.fixture != nil {
		u.fixture.sick.Withdraw()
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
	h.pairs[t].Success()
	if u.fixture != nil {
		u.fixture.sick.Success()
		u.fixture.full.Reset()
	}
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
	case u.fixture != nil && (errors.Is(err, errFull) || errors.Is(err, vm.ErrBusy)):
		p.withdrawProbe(u)
		u.fixture.full.Busy(now)
		p.wake(u.fixture.full.Until())
		p.noteUnit(EventBusy, u, "", 0, err)
		p.stats.busy++
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
		if refused := new(lockError); errors.As(err, &refused) {
			t.locked.For = refused.name
		}
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
	p.machineFailed(u, err, now)
}

// deathsInARow is how many machines of a template must die in use on a host, one
// after the other with none given back healthy between, before that counts as a
// failure of host and template: the first ones may be what their jobs did.
const deathsInARow = 3

// machineDied counts the end of a machine that a guest gave back as broken.
func (p *Pool) machineDied(u *unit, err error, now time.Time) {
	if u.fixture == nil {
		u.host.deaths[u.template]++
		if n := u.host.deaths[u.template]; n%deathsInARow != 0 {
			u.template.last = err
			return
		}
	}
	p.machineFailed(u, err, now)
}

// machineFailed counts a failure of a machine that its host is not known to be
// guilty of.
func (p *Pool) machineFailed(u *unit, err error, now time.Time) {
	if u.fixture != nil {
		p.fixtureFailed(u, err, now)
		return
	}
	h, t := u.host, u.template
	pair := h.pairs[t]
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
		p.refuse(t, t.health.Fails(), err, now)
	}
}

// hostLost begins or lengthens the quarantine of a host that does not answer. Its
// ready machines are not handed out until it does.
func (p *Pool) hostLost(h *host, err error, now time.Time) {
	h.lost.Failure(now, err.Error())
	p.quarantined(&h.lost, now, Event{Host: h.Name, Err: err})
	h.each(func(u *unit) {
		if u.state == ready && p.q.Take(&u.item) {
			u.parked = true
		}
	})
	p.plan(now)
}

// unpark offers the ready machines of a host that answers again.
func (p *Pool) unpark(h *host) {
	h.each(func(u *unit) {
		if u.parked {
			u.parked = false
			if u.state == ready {
				p.offer(u, u.since)
			}
		}
	})
}

func (p *Pool) quarantined(b *health.Breaker, now time.Time, e Event) {
	if until, ok := b.Until(); ok && until.After(now) {
		p.wake(until)
		e.Kind, e.Reason = EventQuarantine, "left alone for "+people(until.Sub(now)).String()
		p.note(e)
	}
}
