package fake

import (
	"context"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// machine is a handle of a machine, for one driver.
type machine struct {
	d *host
	r *record
}

// As answers for what the hypervisor is to have.
func (m *machine) As(target any) bool {
	switch t := target.(type) {
	case *vm.Machine:
		*t = m
		return true
	case *vm.Halter:
		if m.d.h.c.Halts {
			*t = m
		}
		return m.d.h.c.Halts
	case *vm.Waiter:
		return give(t, m, vm.CanWait)
	case *vm.Snapshotter:
		return give(t, m, vm.CanSnapshot)
	case *vm.Saver:
		return give(t, m, vm.CanSave)
	case *vm.Attacher:
		return give(t, m, vm.CanAttach)
	case *vm.Owned:
		return give(t, m, vm.CanOwn)
	case *vm.Addresser:
		return give(t, m, vm.CanAddress)
	case *vm.Consoler:
		return give(t, m, vm.CanConsole)
	case *vm.Messenger:
		return give(t, m, vm.CanMessage)
	case *vm.Suspender:
		return give(t, m, vm.CanSuspend)
	case *vm.Screenshotter:
		return give(t, m, vm.CanScreenshot)
	}
	return false
}

func give[T any](to *T, m *machine, c vm.Set) bool {
	if m.d.h.c.Without.Has(c) {
		return false
	}
	*to = any(m).(T)
	return true
}

func (m *machine) fail(op string, err error) error { return m.d.fail(op, m.r.id, err) }

// ID is the machine's name.
func (m *machine) ID() vm.ID { return m.r.id }

// here says why nothing can be done with the machine. The caller holds h.mu.
func (m *machine) here() error {
	if err := m.d.usable(); err != nil {
		return err
	}
	if m.r.gone {
		return vm.ErrNotFound
	}
	return nil
}

// locked does something under the hypervisor's lock with a machine that is there.
func (m *machine) locked(ctx context.Context, op string, do func() error) error {
	if ctx.Err() != nil {
		return m.fail(op, context.Cause(ctx))
	}
	m.d.h.mu.Lock()
	defer m.d.h.mu.Unlock()
	err := m.here()
	if err == nil {
		err = do()
	}
	if err != nil {
		return m.fail(op, err)
	}
	return nil
}

// changing does a change of state that takes its time: may is asked under the
// lock before, did is called under it after, when nobody cut in.
func (m *machine) changing(ctx context.Context, op string, takes time.Duration, may, did func() error) error {
	var change int
	var before vm.State
	err := m.locked(ctx, op, func() error {
		if m.r.busy != "" {
			return fmt.Errorf("%w: %s is under way", vm.ErrState, m.r.busy)
		}
		if err := may(); err != nil {
			return err
		}
		m.r.busy, change, before = op, m.r.change, m.r.state
		if op == vm.OpStart {
			m.r.state = vm.StateStarting
		}
		return nil
	})
	if err != nil {
		return err
	}
	waited := pause(ctx, takes)
	m.d.h.mu.Lock()
	defer m.d.h.mu.Unlock()
	m.r.busy = ""
	if m.r.state == vm.StateStarting {
		m.r.state = before
	}
	switch err = m.here(); {
	case err != nil:
	case m.r.change != change:
		err = fmt.Errorf("%w: it was killed during the %s", vm.ErrState, op)
	case waited != nil:
		err = waited
	default:
		err = did()
	}
	if err != nil {
		if oe, ok := err.(*vm.OpError); ok { //nolint:errorlint // the outermost alone
			return oe
		}
		return m.fail(op, err)
	}
	return nil
}

func (m *machine) must(states ...vm.State) error {
	for _, s := range states {
		if m.r.state == s {
			return nil
		}
	}
	return fmt.Errorf("%w: it is %v", vm.ErrState, m.r.state)
}

// Info looks.
func (m *machine) Info(ctx context.Context) (vm.Info, error) {
	if err := pause(ctx, m.d.h.c.Times.Info); err != nil {
		return vm.Info{}, m.fail(vm.OpInfo, err)
	}
	var i vm.Info
	err := m.locked(ctx, vm.OpInfo, func() error {
		i = m.r.info()
		return nil
	})
	return i, err
}

// Start boots.
func (m *machine) Start(ctx context.Context) error {
	g, _ := ctx.Value(guestKey{}).(Guest)
	h := m.d.h
	return m.changing(ctx, vm.OpStart, h.c.Times.Start,
		func() error { return m.must(vm.StateDefined, vm.StateStopped, vm.StateCrashed) },
		func() error {
			m.r.boots++
			m.r.print(fmt.Sprintf("booting %s, boot %d\n", m.r.id, m.r.boots))
			if g.Fail {
				end := vm.End{Kind: vm.EndCrashed, Detail: "the boot failed"}
				m.r.print("Kernel panic - not syncing: VFS: Unable to mount root fs\n")
				end.Console = m.r.tail(vm.ConsoleTail)
				m.r.state, m.r.end = vm.StateCrashed, &end
				return &vm.OpError{Op: vm.OpStart, Driver: h.c.HostID, ID: m.r.id, Err: fmt.Errorf("the boot failed"), Console: end.Console}
			}
			m.r.memory.jobs = 0 // counted by the agent, which starts anew
			h.run(m.r, g, h.c.Times.Boot, nil)
			return nil
		})
}

// Stop asks the guest to power off.
func (m *machine) Stop(ctx context.Context) error {
	return m.locked(ctx, vm.OpStop, func() error {
		if b := m.r.boot; b != nil && !b.fault.Deaf && !b.fault.Silent {
			b.powerOff()
		}
		return nil
	})
}

// Kill ends the machine, also in the middle of another change.
func (m *machine) Kill(ctx context.Context) error {
	if err := m.locked(ctx, vm.OpKill, func() error { return nil }); err != nil {
		return err
	}
	if err := pause(ctx, m.d.h.c.Times.Kill); err != nil {
		return m.fail(vm.OpKill, err)
	}
	return m.locked(ctx, vm.OpKill, func() error {
		if m.r.busy != "" || m.r.boot != nil {
			m.r.change++
		}
		if m.r.boot != nil {
			m.d.h.finish(m.r, m.r.boot, vm.End{Kind: vm.EndKilled, Detail: "killed"})
		}
		return nil
	})
}

// Halt is Kill.
func (m *machine) Halt(ctx context.Context) error { return m.Kill(ctx) }

// Destroy removes the machine, also in the middle of a change.
func (m *machine) Destroy(ctx context.Context) error {
	h := m.d.h
	gone := func() (bool, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := m.d.usable(); err != nil {
			return false, m.fail(vm.OpDestroy, err)
		}
		return m.r.gone, nil
	}
	if gone, err := gone(); gone || err != nil {
		return err
	}
	if err := pause(ctx, h.c.Times.Destroy); err != nil {
		return m.fail(vm.OpDestroy, err)
	}
	if ctx.Err() != nil {
		return m.fail(vm.OpDestroy, context.Cause(ctx))
	}
	h.mu.Lock()
	if err := m.d.usable(); err != nil {
		h.mu.Unlock()
		return m.fail(vm.OpDestroy, err)
	}
	var ch *vm.Channel
	if b := m.r.boot; b != nil && b.by == m.d {
		ch = b.channel
	}
	if !m.r.gone {
		h.remove(m.r)
	}
	h.mu.Unlock()
	if ch != nil {
		_ = ch.Close() // it cannot fail
	}
	return nil
}
