package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// pingTimeout is how long a ready machine may take to answer.
const pingTimeout = 10 * time.Second

// keepAlive asks the ready machines of a host whether they are there, all at
// once, and then those of templates with a Probe whether they are still ready,
// one at a time. One that does not answer is replaced; one that was handed out
// meanwhile is its guest's to judge.
func (p *Pool) keepAlive(ctx context.Context, h *host) {
	type asked struct {
		unit        *unit
		machine     vm.Machine
		incarnation string
	}
	var all []asked
	p.mu.Lock()
	h.each(func(u *unit) {
		if u.state == ready {
			all = append(all, asked{u, u.machine, u.incarnation})
		}
	})
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() {
			err := ping(ctx, a.machine)
			if err == nil || ctx.Err() != nil {
				return
			}
			p.mu.Lock()
			defer p.unlock()
			u := a.unit
			if u.state != ready || u.incarnation != a.incarnation {
				return
			}
			now := time.Now()
			p.stats.failures++
			p.noteUnit(EventFailed, u, "keepalive", 0, err)
			p.q.Drop(&u.item)
			p.machineFailed(u, fmt.Errorf("an unused machine does not answer: %w", err), now)
			p.destroy(u, "it does not answer any more")
			p.plan(now)
		})
	}
	wg.Wait()
	for _, a := range all {
		if a.unit.template.Probe != nil && ctx.Err() == nil {
			p.probeAgain(a.unit, a.incarnation)
		}
	}
}

// probeAgain asks a ready machine's probe again. Nobody gets the machine
// meanwhile: the probe may work in it.
func (p *Pool) probeAgain(u *unit, incarnation string) {
	p.mu.Lock()
	if u.state != ready || u.incarnation != incarnation || u.parked || !p.q.Take(&u.item) {
		p.mu.Unlock()
		return
	}
	since := u.since
	u.set(renewing, since)
	m, ctx := u.machine, u.ctx
	p.mu.Unlock()
	t := u.template
	ctx, cancel := context.WithTimeoutCause(ctx, t.RenewTimeout, t.renewLate)
	err := t.Probe(ctx, m)
	if err == nil {
		_, err = m.Info(ctx)
	}
	err = because(ctx, err)
	cancel()
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	switch {
	case u.lostErr != nil:
		p.giveUp(u, now)
	case p.closing:
		p.destroy(u, "the pool closes")
	case u.lame() != "":
		p.destroy(u, u.lame())
	case err == nil && u.ended:
		err = errEnded
		fallthrough
	case err != nil:
		p.stats.failures++
		p.noteUnit(EventFailed, u, "keepalive", 0, err)
		p.machineFailed(u, fmt.Errorf("an unused machine is not ready any more: %w", err), now)
		p.destroy(u, "it is not ready any more")
	default:
		p.offer(u, since)
	}
	p.plan(now)
}

var errEnded = errors.New("it ended while it was probed")

// ping asks the guest where there is a channel, else the hypervisor.
func ping(ctx context.Context, m vm.Machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, fmt.Errorf("no answer within %v", pingTimeout))
	defer cancel()
	if c, ok := vm.As[vm.Messenger](m); ok {
		ch, err := c.Channel(ctx)
		if err == nil {
			_, err = ch.Ping(ctx)
		}
		return because(ctx, err)
	}
	_, err := m.Info(ctx)
	return because(ctx, err)
}
