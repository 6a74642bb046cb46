package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/queue"
)

// closeTimeout is how long Close goes on destroying machines when its context
// has ended.
const closeTimeout = time.Minute

// Close ends the pool: those who wait get ErrClosed, machines that nobody holds
// are destroyed at once, guests and kept machines are waited for until ctx or Config.Drain ends,
// and then taken away and destroyed too. It returns when all goroutines of the
// pool have ended and all leases are given back. Destroying goes on for a minute
// after ctx has ended, so that a context that ended long ago cleans up as well.
//
// The error names guests that were taken away and machines that could not be
// destroyed: whoever has their slots next destroys them. Close is idempotent;
// later calls wait for the first, or for their ctx, and give its answer. Close
// the pool before its lease manager, and that before the drivers.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		select {
		case <-p.done:
			return p.closeErr
		case <-ctx.Done():
			return &OpError{Op: "close", What: p.config.Name, Why: "another Close is not through", Err: context.Cause(ctx)}
		}
	}
	p.closing = true
	now := time.Now()
	p.note(Event{Kind: EventClosing})
	for t := range p.tickets {
		p.endTicket(t, ErrClosed, now)
	}
	p.refuseAll()
	var ducks []*unit
	p.softStop() // boots and renewals end, and their workers destroy what they made
	for u := range p.units {
		switch u.state {
		case ready:
			p.discard(u, "the pool closes")
		case detached: // not the pool's any more; its slot was kept as a favour
			ducks = append(ducks, u)
		}
		// One that is held without a guest was granted at this instant: its
		// waiter hands it out, or gives it back to be destroyed.
	}
	if len(p.units) == 0 {
		close(p.empty)
	}
	for _, u := range ducks {
		p.giveUp(u, now)
	}
	p.unlock()

	errs := p.drain(ctx, now)
	p.hardStop()
	<-p.empty
	p.wg.Wait()
	p.lookAgain(ctx)
	p.mu.Lock()
	errs = append(errs, p.left...)
	p.mu.Unlock()
	if p.ownLeases {
		if err := p.leases.Close(context.WithoutCancel(ctx)); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		p.closeErr = &OpError{Op: "close", What: p.config.Name, Err: err}
	}
	close(p.done)
	return p.closeErr
}

// refuseAll ends all waits. What they had reserved is destroyed with the rest.
func (p *Pool) refuseAll() {
	var all []*wait
	p.q.Walk(func(qw *queue.Waiter[*unit, *wait]) queue.Next {
		all = append(all, qw.Value)
		return queue.Go
	})
	for _, a := range p.accounts {
		for _, w := range a.short {
			w.err = ErrClosed
			w.over()
		}
		a.short = nil
	}
	for _, w := range all {
		for len(w.q.Got) > 0 {
			p.discard(w.q.Got[0].Value, "the pool closes")
		}
	}
	for _, w := range all {
		p.q.Remove(&w.q)
		w.err = ErrClosed
		w.over()
	}
}

// drain waits for the guests, then takes away those that are left, and waits for
// the machines to be destroyed.
func (p *Pool) drain(ctx context.Context, began time.Time) []error {
	var patience <-chan time.Time
	if p.config.Drain > 0 {
		timer := time.NewTimer(p.config.Drain)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-p.empty:
		return nil
	case <-ctx.Done():
	case <-patience:
	}
	var errs []error
	p.mu.Lock()
	for u := range p.units {
		if u.state == kept {
			errs = append(errs, fmt.Errorf("machine %s was kept for %s and is destroyed", u.name, orSomebody(u.keptFor)))
			p.endHold(u, "the pool closes")
			continue
		}
		if u.state != held || u.guest == nil {
			continue
		}
		g := u.guest
		u.guest = nil
		g.cut(ErrClosed)
		errs = append(errs, fmt.Errorf("guest %s was not released within %v and was taken away from %s", g.name, people(time.Since(began)), orSomebody(g.want.Job)))
		p.destroy(u, "the pool closes")
	}
	p.unlock()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-p.empty:
	case <-timer.C:
	}
	return errs
}

func orSomebody(job string) string {
	if job == "" {
		return "somebody"
	}
	return job
}
