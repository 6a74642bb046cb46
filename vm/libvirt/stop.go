package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// Stop asks the agent to power off where this driver has its channel, and
// presses the power button otherwise, which guests without an ACPI daemon do not
// hear.
func (m *machine) Stop(ctx context.Context) error {
	_, err := do(ctx, m.d, vm.OpStop, m.id, nil, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.stop(ctx)
	})
	return err
}

func (m *machine) stop(ctx context.Context) error {
	info, err := m.look(ctx)
	if err != nil {
		return err
	}
	switch info.State {
	case vm.StateDefined, vm.StateStopped, vm.StateCrashed:
		return nil
	case vm.StateStarting:
		return fmt.Errorf("%w: it is starting", vm.ErrState)
	}
	if r := m.d.own(m.id); r != nil && r.channel != nil {
		if err := r.channel.PowerOff(ctx); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return err
		}
	}
	err = m.d.line.use(ctx, true, func(c conn) error { return c.Shutdown(string(m.id)) })
	if hasCode(err, codeInvalid) {
		return nil // it ended meanwhile
	}
	return err
}

// Kill ends the domain, and waits for an operation in progress first.
func (m *machine) Kill(ctx context.Context) error {
	_, err := do(ctx, m.d, vm.OpKill, m.id, nil, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := m.d.killTime(ctx)
		defer cancel()
		return struct{}{}, m.kill(ctx, "killed by Kill")
	})
	return err
}

func (d *Driver) killTime(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := d.conf.KillTimeout
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("the machine did not end within %v: %w", limit, context.DeadlineExceeded))
}

// Halt kills QEMU and sees it end; it is for machines that are to be destroyed, see
// killNow. Where libvirt notices that before QEMU's parent has, it looks again 200 ms
// later (virProcessKillPainfully) and answers no call for that domain until then.
func (m *machine) Halt(ctx context.Context) error {
	_, err := do(ctx, m.d, vm.OpHalt, m.id, nil, func(ctx context.Context) (_ struct{}, err error) {
		_, unlock, err := m.operate(ctx, vm.OpHalt, true)
		if err != nil {
			return struct{}{}, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		own := m.d.own(m.id)
		if own == nil {
			return struct{}{}, fmt.Errorf("it was not started here: %w", errors.ErrUnsupported)
		}
		if !own.killNow(ctx, "killed by Halt") {
			return struct{}{}, fmt.Errorf("its QEMU cannot be killed or seen to end: %w", errors.ErrUnsupported)
		}
		return struct{}{}, nil
	})
	return err
}

func (m *machine) kill(ctx context.Context, why string) (err error) {
	_, unlock, err := m.operate(ctx, vm.OpKill, true)
	if err != nil {
		return err
	}
	return errors.Join(m.killLocked(ctx, why), unlock())
}

// killLocked ends the present run, whoever started it.
func (m *machine) killLocked(ctx context.Context, why string) error {
	got, err := m.d.lookDomain(ctx, string(m.id))
	if err != nil {
		return err
	}
	own := m.d.own(m.id)
	if !active(got.state) {
		if own != nil {
			return own.over(ctx)
		}
		return nil
	}
	if own != nil {
		return own.kill(ctx, why)
	}
	if err := m.d.killDomain(ctx, string(m.id)); err != nil {
		return err
	}
	if m.foreign() {
		return nil
	}
	last, err := readRun(m.d.dir(m.id))
	if err != nil || last == nil {
		return err
	}
	return m.writeEnd(last.Boot, vm.End{Kind: vm.EndKilled, Detail: fmt.Sprintf("%s, from process %d", why, os.Getpid())})
}

// killDomain ends a domain; one that does not run is no error.
func (d *Driver) killDomain(ctx context.Context, name string) error {
	spec, err := readSpec(d.dir(vm.ID(name)), name)
	if err != nil {
		spec.UUID = "" // a foreign one: libvirt's way has to do
	}
	defer d.force(spec.UUID)()
	err = d.line.use(ctx, true, func(c conn) error { return c.Kill(name) })
	if hasCode(err, codeInvalid) || hasCode(err, codeNoDomain) {
		return nil
	}
	return err
}

// Destroy ends the domain and removes it with all that was made for it, the
// files last. A domain that this library did not make is not removed.
func (m *machine) Destroy(ctx context.Context) error {
	_, err := do(ctx, m.d, vm.OpDestroy, m.id, nil, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := m.d.killTime(ctx)
		defer cancel()
		return struct{}{}, m.destroy(ctx)
	})
	return err
}

func (m *machine) destroy(ctx context.Context) error {
	_, unlock, err := m.operate(ctx, vm.OpDestroy, true)
	noFolder := err != nil
	if noFolder {
		if errors.Is(err, flock.ErrLocked) || context.Cause(ctx) != nil {
			return err
		}
		// It is gone, or damaged: the metadata say whether it may be removed.
		unlock = func() error { return nil }
	}
	return errors.Join(m.destroyLocked(ctx, noFolder), unlock())
}

func (m *machine) destroyLocked(ctx context.Context, noFolder bool) error {
	got, err := m.d.lookDomain(ctx, string(m.id))
	if hasCode(err, codeNoDomain) {
		if noFolder {
			return nil
		}
		return m.d.bury(m.id, m.d.dir(m.id))
	}
	if err != nil {
		return err
	}
	rec := m.d.recordOf(got)
	if rec == nil {
		return fmt.Errorf("%w: its domain has no metadata of this library, which removes only what it has made; use virsh undefine", vm.ErrState)
	}
	if m.incarnation != "" && rec.Incarnation != m.incarnation {
		return nil // this machine is gone; the one of that name is another
	}
	if noFolder {
		err = m.d.killDomain(ctx, string(m.id)) // the folder is elsewhere, or half removed
	} else {
		const why = "killed by Destroy"
		if own := m.d.own(m.id); own != nil {
			own.killNow(ctx, why)
		}
		err = m.killLocked(ctx, why)
	}
	if err == nil {
		err = m.d.removeVolumes(ctx, *rec)
	}
	if err == nil {
		err = m.d.line.use(ctx, true, func(c conn) error { return c.Undefine(string(m.id)) })
	}
	if err != nil && !hasCode(err, codeNoDomain) {
		return err
	}
	m.d.hub.forget(string(m.id))
	m.d.removeLog(string(m.id))
	return m.buryFolder(rec.Dir)
}

// buryFolder removes the machine's folder, which another process may have made
// in a root of its own: its place is in the metadata, and only a folder that
// says that it is this machine's is removed.
func (m *machine) buryFolder(dir string) error {
	if dir == "" {
		dir = m.d.dir(m.id)
	}
	spec, err := readSpec(dir, string(m.id))
	if errors.Is(err, vm.ErrNotFound) {
		return nil
	}
	if err == nil && m.incarnation != "" && spec.Incarnation != m.incarnation {
		return nil
	}
	if err != nil && dir != m.d.dir(m.id) {
		return err
	}
	return m.d.bury(m.id, dir)
}
