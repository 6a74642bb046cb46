package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// can are the capabilities that a kind of hypervisor has, of the driver and of
// its machines. The test driver runs no guests, so nothing that needs one.
func (t target) can() vm.Set {
	const always = vm.CanWait | vm.CanOwn | vm.CanSuspend
	switch {
	case t.kind == kindTest:
		return always | vm.CanSnapshot
	case t.remote():
		return always | vm.CanAttach | vm.CanConsole | vm.CanMessage | vm.CanStock | vm.CanSnapshot
	}
	return always | vm.CanAttach | vm.CanConsole | vm.CanMessage | vm.CanSave | vm.CanFork | vm.CanSnapshot
}

// As answers for vm.As: what is declared depends on the hypervisor, and on what
// the machine was made with.
func (m *machine) As(target any) bool {
	can := m.d.target.can() | m.extra
	if m.extra.Has(vm.CanAddress) {
		can &^= vm.CanSave // machines made of it would share its hardware address
	}
	if m.d.target.remote() && m.incarnation != "" && m.foreign() {
		can &^= vm.CanSnapshot // the computer that made it keeps them
	}
	switch t := target.(type) {
	case *vm.Halter:
		if m.d.target.remote() || !m.d.target.guests() || m.foreign() {
			return false
		}
		*t = m
		return true
	case *vm.Waiter:
		return give(can, vm.CanWait, t, m)
	case *vm.Owned:
		return give(can, vm.CanOwn, t, m)
	case *vm.Suspender:
		return give(can, vm.CanSuspend, t, m)
	case *vm.Snapshotter:
		return give(can, vm.CanSnapshot, t, m)
	case *vm.Attacher:
		return give(can, vm.CanAttach, t, m)
	case *vm.Consoler:
		return give(can, vm.CanConsole, t, m)
	case *vm.Messenger:
		return give(can, vm.CanMessage, t, m)
	case *vm.Saver:
		return give(can, vm.CanSave, t, m)
	case *vm.Addresser:
		return give(can, vm.CanAddress, t, m)
	case *vm.Screenshotter:
		return give(can, vm.CanScreenshot, t, m)
	case *vm.Machine:
		*t = m
		return true
	}
	return false
}

// give stores v where it is asked for and the capability is there.
func give[T any](can, want vm.Set, to *T, v any) bool {
	if !can.Has(want) {
		return false
	}
	t, ok := v.(T)
	if ok {
		*to = t
	}
	return ok
}

// Wait waits for the hypervisor's word, and looks every now and then besides.
func (m *machine) Wait(ctx context.Context) (vm.End, error) {
	return do(ctx, m.d, vm.OpWait, m.id, nil, func(ctx context.Context) (vm.End, error) {
		for {
			next := m.d.hub.next(string(m.id))
			own := m.d.own(m.id)
			info, err := m.look(ctx)
			switch {
			case err != nil:
				return vm.End{}, err
			case info.End != nil && own == nil:
				return *info.End, nil
			case info.State == vm.StateDefined:
				return vm.End{Detail: "it has never run"}, nil
			}
			if own != nil {
				// Its supervisor knows more, and has it recorded.
				if err := own.over(ctx); err != nil {
					return vm.End{}, context.Cause(ctx)
				}
				continue
			}
			t := time.NewTimer(m.d.conf.Poll)
			select {
			case <-next:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			if err := context.Cause(ctx); err != nil {
				return vm.End{}, err
			}
		}
	})
}

// SetOwner replaces the ownership in the domain's metadata.
func (m *machine) SetOwner(ctx context.Context, o vm.Owner) error {
	_, err := do(ctx, m.d, vm.OpSetOwner, m.id, nil, func(ctx context.Context) (_ struct{}, err error) {
		_, unlock, err := m.operate(ctx, vm.OpSetOwner, true)
		if err != nil {
			return struct{}{}, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		got, err := m.d.lookDomain(ctx, string(m.id))
		if err != nil {
			return struct{}{}, err
		}
		rec := m.d.recordOf(got)
		if rec == nil {
			// Existing machines are leased, not owned: nothing is written on them.
			return struct{}{}, fmt.Errorf("%w: its domain has no metadata of this library", vm.ErrState)
		}
		rec.Owner = o
		text, err := rec.encode()
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, m.d.line.use(ctx, true, func(c conn) error { return c.SetRecord(string(m.id), text) })
	})
	return err
}

// Console gives the end of the console's file, or volume.
func (m *machine) Console(ctx context.Context, n int) ([]byte, error) {
	if m.d.target.remote() {
		return do(ctx, m.d, vm.OpConsole, m.id, nil, func(ctx context.Context) ([]byte, error) {
			spec, err := m.spec(ctx)
			if err != nil {
				return nil, err
			}
			return m.d.consoleTail(ctx, spec, n)
		})
	}
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail(vm.OpConsole, m.id, err)
	}
	defer end()
	spec, err := readSpec(m.d.dir(m.id), string(m.id))
	if err != nil {
		return nil, m.d.fail(vm.OpConsole, m.id, err)
	}
	b, err := consoleTail(spec.Console, n)
	return b, m.d.fail(vm.OpConsole, m.id, err)
}

// Channel gives the channel of the present run. That of a machine which another
// driver started is taken over when nobody has it; else errors.ErrUnsupported.
func (m *machine) Channel(ctx context.Context) (*vm.Channel, error) {
	return do(ctx, m.d, vm.OpChannel, m.id, nil, func(ctx context.Context) (_ *vm.Channel, err error) {
		if r := m.d.own(m.id); r != nil && r.channel != nil {
			if !m.d.target.remote() || !ended(r.channel) {
				return r.channel, nil
			}
			// It went with the connection: there may be another now.
			r.leave()
			if err := r.over(ctx); err != nil {
				return nil, err
			}
		}
		if m.d.target.remote() && m.foreign() {
			return nil, fmt.Errorf("the computer that made it has its secret: %w", errors.ErrUnsupported)
		}
		spec, unlock, err := m.operate(ctx, vm.OpChannel, true)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if r := m.d.own(m.id); r != nil && r.channel != nil {
			return r.channel, nil
		}
		info, err := m.look(ctx)
		if err != nil {
			return nil, err
		}
		if info.State != vm.StateRunning && info.State != vm.StatePaused {
			return nil, fmt.Errorf("%w: it is %v, want running", vm.ErrState, info.State)
		}
		last, err := readRun(m.d.dir(m.id))
		if err != nil {
			return nil, err
		}
		if last == nil {
			return nil, fmt.Errorf("%w: it runs without a record of its start", vm.ErrState)
		}
		r := newRun(m, spec, *last)
		if err := r.retake(ctx); err != nil {
			return nil, err
		}
		return r.channel, nil
	})
}

func ended(c *vm.Channel) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// Suspend freezes the domain.
func (m *machine) Suspend(ctx context.Context) error {
	return m.change(ctx, vm.OpSuspend, vm.StateRunning, func(c conn) error { return c.Suspend(string(m.id)) })
}

// Resume lets it go on.
func (m *machine) Resume(ctx context.Context) error {
	return m.change(ctx, vm.OpResume, vm.StatePaused, func(c conn) error { return c.Resume(string(m.id)) })
}

// change is an operation on a domain that is in a state.
func (m *machine) change(ctx context.Context, op string, want vm.State, f func(conn) error) error {
	_, err := do(ctx, m.d, op, m.id, nil, func(ctx context.Context) (_ struct{}, err error) {
		_, unlock, err := m.operate(ctx, op, false)
		if err != nil {
			return struct{}{}, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		info, err := m.look(ctx)
		if err == nil && info.State != want {
			err = fmt.Errorf("%w: it is %v, want %v", vm.ErrState, info.State, want)
		}
		if err == nil {
			err = m.d.line.use(ctx, false, f)
		}
		return struct{}{}, err
	})
	return err
}
