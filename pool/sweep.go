package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/reconcile"
	"github.com/bullpen-vm/bullpen/vm"
)

// Finding is what the pool thinks of a machine that a host lists.
type Finding struct {
	Host    string
	Machine vm.Info
	// Verdict is foreign, ours, leave, wait (an orphan at its first sight),
	// claim or destroy.
	Verdict string
	// Rule is "a" (under the slot's lease, with a higher token) or "b" (same
	// pool name, owner seen dead) for machines that may be destroyed.
	Rule   string
	Reason string
	// Destroyed: it was; Err: why it was not, though it should have been.
	Destroyed bool
	Err       error
	// Adopted: the pool takes it over (see Template.OnExit), or would.
	Adopted bool

	ownerDead bool // proven
}

// ReconcileOptions are those of one Reconcile.
type ReconcileOptions struct {
	// DryRun only looks: nothing is destroyed, and nothing counts as seen.
	DryRun bool
}

// Reconcile looks at all hosts now and destroys leftovers, as the pool does by
// itself at its start and every Config.Poll. The findings of hosts that answered
// are complete; the error names those that did not.
func (p *Pool) Reconcile(ctx context.Context, o ReconcileOptions) ([]Finding, error) {
	p.mu.Lock()
	closing, hosts := p.closing, slices.Clone(p.hosts)
	p.mu.Unlock()
	if closing {
		return nil, &OpError{Op: "reconcile", Err: ErrClosed}
	}
	var all []Finding
	var errs []error
	for _, h := range hosts {
		how := regular
		if o.DryRun {
			how = dryRun
		}
		found, err := p.reconcile(ctx, h, how)
		all = append(all, found...)
		if err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return all, &OpError{Op: "reconcile", Err: err}
	}
	return all, nil
}

// sweep is the reconcile that the pool does by itself.
func (p *Pool) sweep(h *host) {
	ctx := p.soft
	how := regular
	p.mu.Lock()
	if h.doubts > 0 && time.Since(h.swept) < p.config.Poll {
		how = early
	}
	p.mu.Unlock()
	found, err := p.reconcile(ctx, h, how)
	p.mu.Lock()
	alive := err == nil && h.Keepalive > 0 && !time.Now().Before(h.nextAlive)
	if alive {
		h.nextAlive = time.Now().Add(h.Keepalive)
	}
	p.mu.Unlock()
	if alive {
		p.keepAlive(ctx, h)
	}
	p.mu.Lock()
	now := time.Now()
	h.sweeping, h.looked = false, true
	if how == regular {
		h.swept = now
	}
	every := p.config.Poll
	if p.doubtful(found) {
		every = min(every, time.Second<<min(h.doubts, 20))
		h.doubts++
	} else if err == nil {
		h.doubts = 0
	}
	if h.Keepalive > 0 {
		every = min(every, h.Keepalive)
	}
	h.nextSweep = now.Add(every)
	if until, ok := h.lost.Until(); err != nil && ok && until.After(now) {
		h.nextSweep = until
	}
	if errors.Is(err, errStore) {
		h.nextSweep = p.store.Until()
	}
	p.wake(h.nextSweep)
	p.plan(now)
	p.unlock()
}

// doubtful reports machines of a pool of this name whose owner lives: another
// harness, or one that is dying at this moment. A killed process seems to live
// for as long as a child of it has not got from its fork to its exec, and its
// successor may have started by then. So such hosts are looked at again soon,
// and once more by Close.
func (p *Pool) doubtful(found []Finding) bool {
	for _, f := range found {
		if f.Verdict == reconcile.Leave.String() && f.Machine.Owner.Pool == p.config.Name {
			return true
		}
	}
	return false
}

// lastLook is how long Close looks once more at a host that was in doubt.
const lastLook = 10 * time.Second

// lookAgain is Close's last look.
func (p *Pool) lookAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	for _, h := range p.hosts {
		p.mu.Lock()
		doubts := h.doubts
		p.mu.Unlock()
		if doubts == 0 {
			continue
		}
		if _, err := p.reconcile(ctx, h, early); err != nil {
			p.config.Logger.Warn("pool: leftovers may be left", "pool", p.config.Name, "host", h.Name, "error", err)
		}
	}
}

// look is how a host is looked at.
type look uint8

const (
	regular   look = iota
	early          // too soon after another to count as a sighting of its own
	dryRun         // nothing is done, and nothing counts as seen
	rehearsal      // nothing is done, and what is seen counts
)

// reconcile lists one host and sees to what it finds.
func (p *Pool) reconcile(ctx context.Context, h *host, how look) ([]Finding, error) {
	lctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	store, err := p.leases.StoreID(lctx)
	if err != nil {
		p.mu.Lock()
		p.store.Busy(time.Now())
		p.storeErr = err
		p.note(Event{Kind: EventFailed, Host: h.Name, Reason: "lease store", Err: err})
		p.unlock()
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	p.mu.Lock()
	before := p.machinesOf(h)
	p.mu.Unlock()
	listing, err := h.Driver.List(lctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// An error is not an empty host: nothing is decided, growth stops.
		p.mu.Lock()
		p.stats.failures++
		p.note(Event{Kind: EventFailed, Host: h.Name, Reason: "listing", Err: err})
		p.hostLost(h, err, time.Now())
		p.unlock()
		return nil, fmt.Errorf("%w: %w", errHost, err)
	}
	found := p.judge(h, listing, store, how)
	if how == dryRun || how == rehearsal {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range found {
			found[i].Adopted = p.adoptable(h, found[i]) != nil
		}
		return found, nil
	}
	for i := range found {
		f := &found[i]
		if f.Verdict != reconcile.Claim.String() && f.Verdict != reconcile.Destroy.String() {
			continue
		}
		if f.Adopted = p.adopt(ctx, h, *f); f.Adopted {
			continue
		}
		f.Destroyed, f.Err = p.clear(ctx, h, *f)
		p.mu.Lock()
		if f.Destroyed {
			p.stats.leftovers++
		}
		if f.Destroyed || f.Err != nil {
			p.note(Event{Kind: EventLeftover, Host: h.Name, Template: f.Machine.Template, Machine: string(f.Machine.ID), Reason: f.Reason, Err: f.Err})
		}
		p.unlock()
	}
	// Leftovers are judged by their owners' locks, so the folders of these go
	// after the machines. What cannot be removed is tried again.
	if _, err := p.leases.SweepRuns(); err != nil {
		p.config.Logger.Warn("pool: folders of dead runs are left", "error", err)
	}
	p.inspect(ctx, h)
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	if how == regular {
		p.phantoms(h, before, listing, now)
	}
	if h.lost.State(now) != health.Healthy {
		p.note(Event{Kind: EventRecovered, Host: h.Name})
	}
	if h.lost.State(now) != health.Probing { // a boot that is out has the word
		h.lost.Success()
	}
	p.unpark(h)
	h.listed = true
	p.stats.reconciles++
	p.note(Event{Kind: EventReconciled, Host: h.Name, Reason: fmt.Sprintf("%d machines", len(listing))})
	return found, nil
}

func (p *Pool) judge(h *host, listing []vm.Info, store string, how look) []Finding {
	// OwnerAlive looks at files, so owners are asked without the lock.
	type life struct{ alive, known bool }
	owners := map[string]life{}
	for _, i := range listing {
		if _, ok := owners[i.Owner.Lock]; !ok && i.Owner.Lock != "" {
			alive, known := lease.OwnerAlive(i.Owner.Lock)
			owners[i.Owner.Lock] = life{alive, known}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	held := map[string]uint64{}
	for u := range p.units {
		if u.host.id == h.id {
			for _, l := range u.leases {
				held[l.Key()] = l.Token()
			}
		}
	}
	view := reconcile.View{
		Store: store, Pool: p.config.Name,
		Live: func(id vm.ID, incarnation string) bool { return p.live[incarnation] != nil || h.fixed(id) },
		Held: func(slot string) (uint64, bool) { t, ok := held[slot]; return t, ok },
		Alive: func(lock string) (bool, bool) {
			l := owners[lock]
			return l.alive, l.known
		},
	}
	sightings := &h.sightings
	if how != regular && how != rehearsal {
		sightings = &reconcile.Sightings{}
	}
	judged := sightings.Judge(listing, view)
	found := make([]Finding, len(judged))
	for i, f := range judged {
		l := owners[f.Info.Owner.Lock]
		found[i] = Finding{Host: h.Name, Machine: f.Info, Verdict: f.Verdict.String(), Rule: f.Rule, Reason: f.Reason, ownerDead: l.known && !l.alive}
	}
	return found
}

// clear destroys a leftover. Under rule (a) its slot's lease is taken first; who
// has it is the owner, and the machine is left.
func (p *Pool) clear(ctx context.Context, h *host, f Finding) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	i := f.Machine
	driver := h.Driver
	if f.Verdict == reconcile.Claim.String() {
		l, err := p.leases.TryAcquire(ctx, i.Owner.Slot, &lease.Options{Note: "reaping " + string(i.ID)})
		if errors.Is(err, lease.ErrHeld) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer p.releaseAll([]*lease.Lease{l})
		if l.Token() <= i.Owner.Token {
			return false, nil
		}
		driver = vm.Guard(driver, l.Check)
	} else if f.Rule == "a" {
		// The slot is ours: by the unit's own guard, if it still has it.
		p.mu.Lock()
		driver = nil
		for u := range p.units {
			if u.host.id == h.id && u.driver != nil {
				for _, l := range u.leases {
					if l.Key() == i.Owner.Slot && l.Token() > i.Owner.Token {
						driver = u.driver
					}
				}
			}
		}
		live := p.live[i.Owner.Incarnation] != nil || h.fixed(i.ID)
		p.mu.Unlock()
		if driver == nil || live {
			return false, nil
		}
	}
	if err := p.destroyListed(ctx, driver, i); err != nil {
		return false, err
	}
	return true, nil
}

// machinesOf gives the ready machines of a host by incarnation.
func (p *Pool) machinesOf(h *host) map[string]*unit {
	m := map[string]*unit{}
	for u := range p.units {
		if u.host == h && u.state == ready {
			m[u.mark()] = u
		}
	}
	return m
}

// fixedMark is no incarnation's first letter.
const fixedMark = "="

// mark tells machines of one host apart: by incarnation, which those that others
// made may not have.
func (u *unit) mark() string {
	if u.fixture != nil {
		return fixedMark + string(u.fixture.id)
	}
	return u.incarnation
}

// phantoms finds ready machines that were there before the listing and are
// missing in it, twice in a row: they are gone, and others are made.
func (p *Pool) phantoms(h *host, before map[string]*unit, listing []vm.Info, now time.Time) {
	for _, i := range listing {
		delete(before, i.Owner.Incarnation)
		delete(before, fixedMark+string(i.ID))
	}
	missing := map[*unit]bool{}
	for incarnation, u := range before {
		if u.state != ready || u.mark() != incarnation {
			continue
		}
		if !h.missing[u] {
			missing[u] = true
			continue
		}
		p.stats.failures++
		p.noteUnit(EventFailed, u, "its host does not list it any more", 0, nil)
		p.discard(u, "its host does not list it any more")
	}
	h.missing = missing
	p.plan(now)
}
