package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Wait waits for the end of a run that this driver started, and looks every
// now and then when another process did.
func (m *machine) Wait(ctx context.Context) (vm.End, error) {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return vm.End{}, m.d.fail("wait", m.id, err)
	}
	defer end()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		info, err := m.look()
		if err != nil {
			return vm.End{}, m.d.fail("wait", m.id, err)
		}
		if info.End != nil {
			return *info.End, nil
		}
		if info.State == vm.StateDefined {
			return vm.End{Detail: "it has never run"}, nil
		}
		m.d.mu.Lock()
		own := m.d.runs[m.id]
		m.d.mu.Unlock()
		if own != nil {
			select {
			case <-own.done:
			case <-ctx.Done():
				// Close kills and then lets nobody wait: its word is the better one.
				return vm.End{}, m.d.fail("wait", m.id, context.Cause(ctx))
			}
			continue
		}
		if err := sleep(ctx, wait); err != nil {
			return vm.End{}, m.d.fail("wait", m.id, err)
		}
	}
}

// Channel gives the channel of the present run; errors.ErrUnsupported when
// another driver started it, which then has the only channel.
func (m *machine) Channel(ctx context.Context) (*vm.Channel, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail("channel", m.id, err)
	}
	defer end()
	if _, err := m.spec(); err != nil {
		return nil, m.d.fail("channel", m.id, err)
	}
	m.d.mu.Lock()
	own := m.d.runs[m.id]
	m.d.mu.Unlock()
	if own != nil {
		return own.channel, nil
	}
	st, err := m.status()
	switch {
	case err != nil:
		err = m.gone(err)
	case st.end != nil || st.state == vm.StateDefined:
		err = fmt.Errorf("%w: it is %v, want running", vm.ErrState, st.state)
	default:
		err = fmt.Errorf("process %d started it and has its only channel: %w", st.run.Harness, errors.ErrUnsupported)
	}
	return nil, m.d.fail("channel", m.id, err)
}

// SetOwner replaces what is written on the machine, as a whole.
func (m *machine) SetOwner(ctx context.Context, o vm.Owner) error {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail("set owner", m.id, err)
	}
	defer end()
	if _, err = m.spec(); err == nil {
		if err = writeRecord(m.path(ownerFile), o, true); err != nil {
			err = m.gone(err)
		}
	}
	return m.d.fail("set owner", m.id, err)
}

// Console gives the last bytes that keeper and agent wrote, over all runs.
func (m *machine) Console(ctx context.Context, n int) ([]byte, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail("console", m.id, err)
	}
	defer end()
	spec, err := m.spec()
	if err != nil {
		return nil, m.d.fail("console", m.id, err)
	}
	b, err := consoleTail(spec.Console, n)
	return b, m.d.fail("console", m.id, err)
}
