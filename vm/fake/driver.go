package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// host is a driver without faults.
type host struct {
	h      *Hypervisor
	closed bool // protected by h.mu
}

var (
	_ vm.Driver  = (*host)(nil)
	_ vm.Forker  = (*host)(nil)
	_ vm.Stocker = (*host)(nil)
)

// As answers for what the hypervisor is to have.
func (d *host) As(target any) bool {
	switch t := target.(type) {
	case *vm.Driver:
		*t = d
	case *vm.Forker:
		if d.h.c.Without.Has(vm.CanFork) {
			return false
		}
		*t = d
	case *vm.Stocker:
		if d.h.c.Without.Has(vm.CanStock) {
			return false
		}
		*t = d
	default:
		return false
	}
	return true
}

func (d *host) fail(op string, id vm.ID, err error) error {
	return &vm.OpError{Op: op, Driver: d.h.c.HostID, ID: id, Err: err}
}

// usable says why nothing can be done. The caller holds h.mu.
func (d *host) usable() error {
	switch {
	case d.closed:
		return vm.ErrClosed
	case d.h.lost:
		return vm.ErrHostLost
	}
	return nil
}

// HostID is the hypervisor's.
func (d *host) HostID() string { return d.h.c.HostID }

// Create makes a machine.
func (d *host) Create(ctx context.Context, s vm.Spec) (vm.Machine, error) {
	r, err := d.add(ctx, vm.OpCreate, s, d.h.c.Times.Create, nil)
	if err != nil {
		return nil, err
	}
	return &machine{d, r}, nil
}

// add makes a record; from is nil or the parent to run it from.
func (d *host) add(ctx context.Context, op string, s vm.Spec, takes time.Duration, from func() (*parent, error)) (*record, error) {
	id := vm.ID(s.Name)
	if err := s.Validate(); err != nil {
		return nil, d.fail(op, id, err)
	}
	h := d.h
	check := func() error {
		if err := d.usable(); err != nil {
			return d.fail(op, id, err)
		}
		if h.machines[id] != nil {
			return d.fail(op, id, vm.ErrExists)
		}
		if h.c.Capacity > 0 && len(h.machines) >= h.c.Capacity {
			return d.fail(op, id, fmt.Errorf("%w: there are %d machines of at most %d", vm.ErrBusy, len(h.machines), h.c.Capacity))
		}
		return nil
	}
	h.mu.Lock()
	err := check()
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, takes); err != nil {
		return nil, d.fail(op, id, err)
	}
	if ctx.Err() != nil {
		return nil, d.fail(op, id, context.Cause(ctx))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := check(); err != nil {
		return nil, err
	}
	r := &record{
		id: id, spec: cloneSpec(s), owner: s.Owner, created: time.Now(), state: vm.StateDefined, by: d,
		inputs: map[int]vm.Image{}, disks: make([]*disk, len(s.JobDisks)),
	}
	for i, n := range s.JobDisks {
		r.disks[i] = newDisk(n)
	}
	if from != nil {
		p, err := from()
		if err != nil {
			return nil, d.fail(op, id, err)
		}
		r.from, r.memory = p, p.saved.clone()
		g, _ := ctx.Value(guestKey{}).(Guest)
		h.run(r, g, 0, p)
	}
	h.machines[id] = r
	h.made++
	h.peak = max(h.peak, len(h.machines))
	return r, nil
}

func cloneSpec(s vm.Spec) vm.Spec {
	s.Disks = slices.Clone(s.Disks)
	s.JobDisks = slices.Clone(s.JobDisks)
	s.Properties = maps.Clone(s.Properties)
	return s
}

// Open finds a machine.
func (d *host) Open(ctx context.Context, id vm.ID) (vm.Machine, error) {
	if err := pause(ctx, d.h.c.Times.Info); err != nil {
		return nil, d.fail(vm.OpOpen, id, err)
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if err := d.usable(); err != nil {
		return nil, d.fail(vm.OpOpen, id, err)
	}
	r := d.h.machines[id]
	if r == nil {
		return nil, d.fail(vm.OpOpen, id, vm.ErrNotFound)
	}
	return &machine{d, r}, nil
}

// List gives all machines by name.
func (d *host) List(ctx context.Context) ([]vm.Info, error) {
	if err := pause(ctx, d.h.c.Times.List); err != nil {
		return nil, d.fail(vm.OpList, "", err)
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if err := d.usable(); err != nil {
		return nil, d.fail(vm.OpList, "", err)
	}
	all := make([]vm.Info, 0, len(d.h.machines))
	for _, r := range d.h.sorted() {
		all = append(all, r.info())
	}
	return all, nil
}

// Close ends what was made with vm.Die, and closes the channels.
func (d *host) Close() error {
	d.h.mu.Lock()
	d.closed = true
	var channels []*vm.Channel
	var boots []*boot
	for _, r := range d.h.machines {
		b := r.boot
		if b == nil {
			continue
		}
		if b.channel != nil && b.by == d {
			channels = append(channels, b.channel)
		}
		if r.by == d && r.spec.OnExit == vm.Die {
			d.h.finish(r, b, vm.End{Kind: vm.EndKilled, Detail: "the process that started it ended"})
			boots = append(boots, b)
		}
	}
	d.h.mu.Unlock()
	for _, c := range channels {
		_ = c.Close() // it cannot fail
	}
	for _, b := range boots {
		b.work.Wait()
	}
	return nil
}

// Fork makes a running machine from a parent.
func (d *host) Fork(ctx context.Context, name string, s vm.Spec) (vm.Machine, error) {
	r, err := d.add(ctx, vm.OpFork, s, d.h.c.Times.Fork, func() (*parent, error) {
		p := d.h.parents[name]
		if p == nil {
			return nil, fmt.Errorf("parent %s: %w", name, vm.ErrNotFound)
		}
		return p, nil
	})
	if err != nil {
		return nil, err
	}
	return &machine{d, r}, nil
}

// Parents lists by name.
func (d *host) Parents(ctx context.Context) ([]string, error) {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if err := d.usable(); err != nil {
		return nil, d.fail(vm.OpParents, "", err)
	}
	return slices.Sorted(maps.Keys(d.h.parents)), ctx.Err()
}

// DropParent removes one.
func (d *host) DropParent(ctx context.Context, name string) error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if err := d.usable(); err != nil {
		return d.fail(vm.OpDropParent, "", err)
	}
	delete(d.h.parents, name)
	return ctx.Err()
}

// Stock lists the inputs that were put in once, and those of
// Hypervisor.Stock, in their order.
func (d *host) Stock(ctx context.Context) ([]string, error) {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if err := d.usable(); err != nil {
		return nil, d.fail(vm.OpStock, "", err)
	}
	return slices.Clone(d.h.stock), ctx.Err()
}

// Rung is the configured one.
func (d *host) Rung() vm.Rung { return d.h.c.Rung }
