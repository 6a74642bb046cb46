package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/vm"
)

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
	if !lost && u.fixture == nil {
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
	if u.fixture != nil {
		return nil // it is not the pool's to destroy
	}
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
