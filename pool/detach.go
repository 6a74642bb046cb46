package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Detached is a machine that left the pool for good: its holder destroys it when
// it is not needed any more, and then calls End.
type Detached struct {
	// Machine is the driver's, behind no fence. It works until the driver is
	// closed; what becomes of it then is its template's OnExit.
	Machine vm.Machine
	HostID  string
	Owner   vm.Owner // as it is written on it now
	// Slot is the leased key that is kept, with its token, until End or until
	// the pool closes: so long the host is not filled up with others.
	Slot    string
	Token   uint64
	Details map[string]string // the driver's, such as a command to get in

	unit *unit
}

// Detach takes the guest's machine out of the pool, as it is: the pool never
// reuses or destroys it, and no reconcile takes it for a leftover, for its
// ownership is rewritten to say whose it is. The guest is released by it. The
// machine must be vm.Owned (else errors.ErrUnsupported) and made by the pool.
// After an error the guest is still held.
func (g *Guest) Detach(ctx context.Context, owner string) (*Detached, error) {
	fail := func(err error) (*Detached, error) {
		return nil, &OpError{Op: "detach", What: g.name, Why: g.want.Job, Err: err}
	}
	if g.loan != nil {
		return fail(fmt.Errorf("it is borrowed: %w", errors.ErrUnsupported))
	}
	u := g.unit
	p := u.pool
	if u.fixture != nil {
		return fail(fmt.Errorf("machine %s was not made by the pool: %w", g.name, errors.ErrUnsupported))
	}
	owned, ok := vm.As[vm.Owned](g.Machine())
	if !ok {
		return fail(fmt.Errorf("its ownership cannot be rewritten: %w", errors.ErrUnsupported))
	}
	info, err := g.Machine().Info(ctx)
	if err != nil {
		return fail(err)
	}
	raw, err := u.host.Driver.Open(ctx, info.ID)
	if err != nil {
		return fail(err)
	}
	// Neither store nor slot nor lock: by no rule is it anybody's to destroy.
	now := vm.Owner{Pool: "detached: " + orSomebody(owner), Run: info.Owner.Run, Job: info.Owner.Job, Incarnation: info.Owner.Incarnation}
	if err := owned.SetOwner(ctx, now); err != nil {
		return fail(err)
	}
	p.mu.Lock()
	defer p.unlock()
	if u.guest != g || u.state != held || !g.released.CompareAndSwap(false, true) {
		// It was released or lost meanwhile, and its slot's next owner could
		// not tell whose it is: nothing may be left that is nobody's.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		p.mu.Unlock()
		err := raw.Destroy(cctx)
		p.mu.Lock()
		return fail(errors.Join(ErrReleased, u.lostErr, err))
	}
	at := time.Now()
	u.guest = nil
	p.credit(g.want.Account, g.charged(), at)
	u.stopWatch()
	p.stats.releases++
	p.stats.held += at.Sub(u.since)
	delete(p.live, u.incarnation)
	u.set(detached, at)
	p.noteUnit(EventDetached, u, "for "+orSomebody(owner), 0, nil)
	g.end(ErrReleased)
	return &Detached{
		Machine: raw, HostID: u.host.id, Owner: now, Slot: u.key, Token: u.leases[0].Token(), Details: maps.Clone(info.Details), unit: u,
	}, nil
}

// End gives the slot of a detached machine back. It does not touch the machine,
// which is to be gone by then. It is idempotent and does no I/O.
func (d *Detached) End() {
	p := d.unit.pool
	p.mu.Lock()
	defer p.unlock()
	if d.unit.state != detached {
		return
	}
	now := time.Now()
	p.giveUp(d.unit, now)
	p.plan(now)
}
