package pool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// pingTimeout is how long a ready machine may take to answer.
const pingTimeout = 10 * time.Second

// keepAlive asks the ready machines of a host whether they are there, all at
// once. One that does not answer is replaced; one that was handed out meanwhile
// is its guest's to judge.
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
}

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
