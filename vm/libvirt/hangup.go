package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// saveTo has libvirt save the state of a machine that runs, which ends it. The guest
// has to notice before that its host has left, or it would not say hello to the
// next. A machine that goes on, because that failed, does as if nothing had been.
func (m *machine) saveTo(ctx context.Context, state string, spec specRecord, last runRecord) error {
	before := m.d.own(m.id)
	err := m.hangUp(ctx)
	if err == nil {
		err = full(m.d.line.use(ctx, false, func(c conn) error { return c.Save(string(m.id), state) }))
	}
	if err == nil || before == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.d.conf.BootTimeout)
	defer cancel()
	if over := before.over(ctx); over != nil {
		return errors.Join(err, over)
	}
	got, unseen := m.d.lookDomain(ctx, string(m.id))
	if unseen != nil || !active(got.state) {
		return errors.Join(err, unseen)
	}
	r := newRun(m, spec, last)
	err = errors.Join(err, r.retake(ctx))
	if !r.supervised && spec.OnExit != vm.Survive && m.d.calls.Closing() { // Close did not see it
		err = errors.Join(err, m.d.killDomain(ctx, string(m.id)), m.writeEnd(last.Boot, vm.End{Kind: vm.EndKilled, Detail: driverClosed}))
	}
	return err
}

// hangUp ends the channel, which only the one who has it can, and gives the guest
// the time to see it.
func (m *machine) hangUp(ctx context.Context) error {
	if r := m.d.own(m.id); r != nil {
		r.leave()
		if err := r.over(ctx); err != nil {
			return err
		}
	}
	lock, err := flock.Try(m.path(channelLock), os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) {
		return fmt.Errorf("%s has its only channel: %w", flock.ReadNote(m.path(channelLock)), errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	return errors.Join(sleep(ctx, quietTime), lock.Unlock())
}
