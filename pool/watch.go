package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// watchMachine learns when a machine ends by itself, so that a dead one is not
// handed out. The caller holds p.mu.
func (p *Pool) watchMachine(u *unit) {
	if u.waited != u.machine {
		u.waited = u.machine
		u.waiter, _ = vm.As[vm.Waiter](u.machine)
	}
	w := u.waiter
	if w == nil {
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
				p.machineFailed(u, err, now)
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
