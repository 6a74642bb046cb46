package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/reconcile"
)

// DefaultBetween is Reaper.Between where it is zero.
const DefaultBetween = 5 * time.Second

// Reaper says where Reconcile looks, and for whose machines.
type Reaper struct {
	// Name is the pool's whose leftovers are looked for, as in Config.Name;
	// empty: "bullpen". Machines of other pools are touched under their slot's
	// lease alone, so in the same store alone.
	Name string
	// Hosts are looked at; of each, Name and Driver are used.
	Hosts []Host
	// Leases are those of the harnesses. Nil: none are shared, and a manager in
	// memory is made, for what runs on one machine without a store.
	Leases *lease.Manager
	// Between is how long after the first look the second one is, for machines
	// without a lease that counts: only what is seen twice is an orphan. Leases
	// of owners who cannot be proven dead from here, such as those of another
	// machine, are free for the second look only when it is more than their TTL
	// and margin later. Zero: DefaultBetween.
	Between time.Duration
	// DryRun only looks, twice as well, and says what would be done.
	DryRun bool
	Logger *slog.Logger // nil: discards
}

// Reconcile looks for the leftovers of dead harnesses without a pool: what a
// pool's own Reconcile does at its start, for a job that runs when no harness
// does. It destroys by the same rules, and nothing else. Machines of harnesses
// that live stay, whatever happens to them meanwhile: each is looked at again
// under its lease before it is destroyed.
//
// The findings are those of the last look at each host; what the first look
// destroyed comes before. In a dry run, Verdict claim or destroy is what would
// have been destroyed; a claim only if its slot's lease is free then, which the
// Reason says. The error names hosts that did not answer and, joined, what could
// not be destroyed.
func Reconcile(ctx context.Context, r Reaper) (_ []Finding, err error) {
	p, err := r.pool()
	if err != nil {
		return nil, err
	}
	defer p.hardStop()
	defer p.softStop()
	if p.ownLeases {
		defer func() { err = errors.Join(err, p.leases.Close(context.WithoutCancel(ctx))) }()
	}
	var all []Finding
	var errs []error
	second := false
	last := make([][]Finding, len(p.hosts))
	how := regular
	if r.DryRun {
		how = rehearsal
	}
	look := func(i int, h *host) {
		found, err := p.reconcile(ctx, h, how)
		if err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
		}
		for _, f := range last[i] {
			if f.Destroyed {
				all = append(all, f)
			}
		}
		last[i] = found
		for _, f := range found {
			second = second || f.Verdict == reconcile.Wait.String()
		}
	}
	for i, h := range p.hosts {
		look(i, h)
	}
	if second {
		between := r.Between
		if between == 0 {
			between = DefaultBetween
		}
		// What is seen of the leases counts from now on.
		if _, err := p.leases.Inspect(ctx, "host/"); err != nil {
			errs = append(errs, err)
		}
		if !sleep(ctx, between) {
			errs = append(errs, fmt.Errorf("between the looks: %w", context.Cause(ctx)))
		} else {
			for i, h := range p.hosts {
				if last[i] != nil { // it answered before
					look(i, h)
				}
			}
		}
	}
	for _, found := range last {
		all = append(all, found...)
	}
	for _, f := range all {
		if f.Err != nil {
			errs = append(errs, fmt.Errorf("machine %s on host %s: %w", f.Machine.ID, f.Host, f.Err))
		}
	}
	if r.DryRun {
		p.foresee(ctx, all)
	}
	if err := errors.Join(errs...); err != nil {
		return all, &OpError{Op: "reconcile", Err: err}
	}
	return all, nil
}

// foresee adds to the claims of a dry run who has the lease that they need.
func (p *Pool) foresee(ctx context.Context, found []Finding) {
	for i := range found {
		f := &found[i]
		if f.Verdict != reconcile.Claim.String() {
			continue
		}
		held, err := p.leases.Inspect(ctx, f.Machine.Owner.Slot)
		if err != nil {
			f.Reason += "; who has its lease could not be read: " + err.Error()
			continue
		}
		free := true
		for _, h := range held {
			if h.Key == f.Machine.Owner.Slot && !h.Record.Zero() {
				free = h.Orphan || h.Known && h.Dead
				f.Reason += "; " + h.String()
			}
		}
		if !free {
			f.Verdict = reconcile.Leave.String()
		}
	}
}

// pool makes a pool that has no machines and no will of its own.
func (r Reaper) pool() (*Pool, error) {
	if r.Between < 0 {
		return nil, fmt.Errorf("pool: Reaper.Between is %v, want 0 (%v) or more", r.Between, DefaultBetween)
	}
	c := Config{Name: r.Name, Leases: r.Leases, Logger: r.Logger, Templates: []Template{{Name: "none"}}}
	for _, h := range r.Hosts {
		c.Hosts = append(c.Hosts, Host{Name: h.Name, Driver: h.Driver, Slots: 1})
	}
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	p := &Pool{
		config: c, leases: c.Leases, closing: true, live: map[string]*unit{}, units: map[*unit]struct{}{},
		store: health.Pause{Policy: health.Policy{First: time.Second, Most: 30 * time.Second}},
	}
	if p.leases == nil {
		p.leases, err = lease.New(lease.Config{Store: lease.NewMemStore(), Logger: c.Logger})
		if err != nil {
			return nil, fmt.Errorf("pool: making a lease manager: %w", err)
		}
		p.ownLeases = true
	}
	for _, h := range c.Hosts {
		p.hosts = append(p.hosts, newHost(h))
	}
	p.soft, p.softStop = context.WithCancel(context.Background())
	p.hard, p.hardStop = context.WithCancel(context.Background())
	return p, nil
}
