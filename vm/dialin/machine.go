package dialin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// machine is a worker as a vm.Machine and vm.Messenger.
type machine struct {
	driver *Driver
	worker *worker
}

// ID is the worker's name.
func (m *machine) ID() vm.ID { return vm.ID(m.worker.Name) }

// Info says whether it is connected: running or stopped. Details are where from
// and since when, what its agent says of itself, or why it is not there.
func (m *machine) Info(ctx context.Context) (vm.Info, error) {
	if err := m.driver.check(ctx, vm.OpInfo, m.ID()); err != nil {
		return vm.Info{}, err
	}
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	return m.driver.info(m.worker), nil
}

// info is of one worker. The caller holds mu.
func (d *Driver) info(w *worker) vm.Info {
	i := vm.Info{
		ID: vm.ID(w.Name), State: vm.StateStopped, Created: d.began,
		Owner: vm.Owner{Incarnation: w.Name}, Details: map[string]string{"started": "by hand"},
	}
	if w.refused > 0 {
		i.Details["refused"] = fmt.Sprint(w.refused)
	}
	if w.line == nil {
		i.Details["connected"] = "no"
		if w.last != nil {
			i.Details["why"] = w.last.Error()
		}
		return i
	}
	i.State = vm.StateRunning
	greeting, err := w.line.channel.Ready(d.closed) // it is ready since before it was let in
	if err == nil {
		maps.Copy(i.Details, greeting.Details)
		i.Details["agent"] = greeting.Agent
	}
	i.Details["connected"], i.Details["from"] = w.line.since.Format(time.RFC3339), w.line.from
	return i
}

// Start does nothing for a worker that is connected. For one that is not it answers
// vm.ErrBusy: nobody here can start it, and others may be there.
func (m *machine) Start(ctx context.Context) error {
	_, err := m.line(ctx, vm.OpStart)
	return err
}

// Stop asks the worker's agent to end.
func (m *machine) Stop(ctx context.Context) error {
	l, err := m.line(ctx, vm.OpStop)
	if errors.Is(err, vm.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.channel.PowerOff(ctx)
}

// Kill ends the worker's connection, and with it all that it runs for us.
func (m *machine) Kill(ctx context.Context) error {
	l, err := m.line(ctx, vm.OpKill)
	if errors.Is(err, vm.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.channel.Close(); err != nil {
		return err
	}
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return m.driver.fail(vm.OpKill, m.ID(), context.Cause(ctx))
	}
}

// Destroy answers errors.ErrUnsupported: it is not ours.
func (m *machine) Destroy(context.Context) error {
	return m.driver.fail(vm.OpDestroy, m.ID(), fmt.Errorf("a worker that dials in belongs to who started it: %w", errors.ErrUnsupported))
}

// Channel gives the channel of the present connection.
func (m *machine) Channel(ctx context.Context) (*vm.Channel, error) {
	l, err := m.line(ctx, vm.OpChannel)
	if err != nil {
		return nil, err
	}
	return l.channel, nil
}

// line is the present connection.
func (m *machine) line(ctx context.Context, op string) (*line, error) {
	if err := m.driver.check(ctx, op, m.ID()); err != nil {
		return nil, err
	}
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	if m.worker.line == nil {
		err := fmt.Errorf("%w: the worker is not connected", vm.ErrBusy)
		if m.worker.last != nil {
			err = fmt.Errorf("%w since %w", err, m.worker.last)
		}
		if op == vm.OpChannel {
			err = fmt.Errorf("%w: %w", vm.ErrState, err)
		}
		return nil, m.driver.fail(op, m.ID(), err)
	}
	return m.worker.line, nil
}

// Answers asks whether the worker is there: it is what a pool can know of a machine
// that it cannot roll back. Use it as pool.Template.Clean.
func Answers(ctx context.Context, m vm.Machine) error {
	messenger, ok := vm.As[vm.Messenger](m)
	if !ok {
		return fmt.Errorf("%s has no channel: %w", m.ID(), errors.ErrUnsupported)
	}
	channel, err := messenger.Channel(ctx)
	if err != nil {
		return err
	}
	_, err = channel.Ping(ctx)
	return err
}
