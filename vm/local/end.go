package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Stop presses the power button: the keeper asks the agent to end.
func (m *machine) Stop(ctx context.Context) error {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail("stop", m.id, err)
	}
	defer end()
	if _, err := m.spec(); err != nil {
		return m.d.fail("stop", m.id, err)
	}
	st, err := m.status()
	if err != nil {
		return m.d.fail("stop", m.id, m.gone(err))
	}
	switch {
	case st.state == vm.StateStarting:
		err = fmt.Errorf("%w: it is starting", vm.ErrState)
	case st.end != nil || st.state == vm.StateDefined:
	default:
		if err = st.reachable(); err == nil {
			err = st.run.Keeper.signal(syscall.SIGPWR)
		}
	}
	return m.d.fail("stop", m.id, err)
}

// reachable reports whether signals can be sent to the machine from here.
func (st status) reachable() error {
	if st.abroad {
		return fmt.Errorf("%w: it runs in another PID namespace (%s, harness %d there): do it from there", vm.ErrState, st.run.PIDs, st.run.Harness)
	}
	return nil
}

// Kill ends every process of the machine, and waits for an operation in
// progress first. It may be called from any process that has the root.
func (m *machine) Kill(ctx context.Context) error {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail("kill", m.id, err)
	}
	defer end()
	ctx, cancel := m.killTime(ctx)
	defer cancel()
	spec, unlock, err := m.operate(ctx, "kill", true)
	if err != nil {
		return m.d.fail("kill", m.id, err)
	}
	err = m.kill(ctx, spec, "killed by Kill")
	return m.d.fail("kill", m.id, errors.Join(err, unlock()))
}

func (m *machine) killTime(ctx context.Context) (context.Context, context.CancelFunc) {
	d := m.d.conf.KillTimeout
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the machine's processes did not end within %v: %w", d, context.DeadlineExceeded))
}

// kill ends the present run, or what is left of the last one.
func (m *machine) kill(ctx context.Context, spec specRecord, why string) error {
	m.d.mu.Lock()
	own := m.d.runs[m.id]
	m.d.mu.Unlock()
	if own != nil {
		return own.kill(ctx, why)
	}
	st, err := m.status()
	if err != nil {
		return err
	}
	if err := st.reachable(); err != nil {
		return err
	}
	if err := slaughter(ctx, spec.Mark, st.run); err != nil {
		return err
	}
	if st.end != nil || st.state == vm.StateDefined {
		return nil
	}
	// Its harness lives elsewhere; the keeper may have been too stopped to
	// say how it ended.
	end, err := m.readEnd(st.run.Boot)
	if err != nil {
		return err
	}
	if end == nil || end.Kind == vm.EndKilled {
		end = &endRecord{Boot: st.run.Boot, Kind: vm.EndKilled, Detail: fmt.Sprintf("%s, from process %d", why, os.Getpid()), At: time.Now().UTC()}
		return m.writeEnd(end)
	}
	return nil
}

// Destroy kills the machine and removes its folder, from any process that has
// the root. A machine that is gone is no error.
func (m *machine) Destroy(ctx context.Context) error {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail("destroy", m.id, err)
	}
	defer end()
	kctx, cancel := m.killTime(ctx)
	defer cancel()
	spec, unlock, err := m.operate(kctx, "destroy", true)
	if errors.Is(err, vm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return m.d.fail("destroy", m.id, err)
	}
	if err = m.kill(kctx, spec, "killed by Destroy"); err == nil {
		// From here on it is not listed, so a removal that is cut short leaves
		// no half machine; it goes on at the next List or Open.
		dead := filepath.Join(m.d.root, deadPrefix+rand.Text())
		if err = giveAddress(m.d.root, string(m.id)); err == nil {
			err = os.Rename(m.dir(), dead)
		}
		if err == nil {
			err = removeTree(dead)
		}
	}
	return m.d.fail("destroy", m.id, errors.Join(err, unlock()))
}

// Suspend stops all of the machine's processes but the keeper.
func (m *machine) Suspend(ctx context.Context) error {
	return m.change(ctx, "suspend", vm.StateRunning, func(ctx context.Context, h herd) error {
		err := h.freeze(ctx)
		if err != nil {
			tctx, cancel := m.killTime(context.WithoutCancel(ctx))
			defer cancel()
			err = errors.Join(err, h.thaw(tctx))
		}
		return err
	})
}

// Resume lets them go on, also those that a job itself had stopped.
func (m *machine) Resume(ctx context.Context) error {
	return m.change(ctx, "resume", vm.StatePaused, func(ctx context.Context, h herd) error { return h.thaw(ctx) })
}

// change is an operation on the processes of a machine that is in a state.
func (m *machine) change(ctx context.Context, op string, want vm.State, f func(context.Context, herd) error) error {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail(op, m.id, err)
	}
	defer end()
	ctx, cancel := m.killTime(ctx)
	defer cancel()
	spec, unlock, err := m.operate(ctx, op, false)
	if err != nil {
		return m.d.fail(op, m.id, err)
	}
	st, err := m.status()
	if err == nil && st.state != want {
		err = fmt.Errorf("%w: it is %v, want %v", vm.ErrState, st.state, want)
	}
	if err == nil {
		err = st.reachable()
	}
	if err == nil {
		h := newHerd(spec.Mark, st.run)
		h.spare = st.run.Keeper
		err = f(ctx, h)
	}
	return m.d.fail(op, m.id, errors.Join(err, unlock()))
}
