package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

// Snapshot keeps the machine's state under a name. The channel of one that runs
// ends: Channel gives the next.
func (m *machine) Snapshot(ctx context.Context, name string) error {
	if m.keeps() {
		late := func(struct{}) {
			if err := m.forget(m.d.calls.Context(), name); err != nil && !errors.Is(err, vm.ErrNotFound) {
				m.d.log.Warn("a snapshot that was made too late cannot be removed", "machine", m.id, "snapshot", name, "err", err)
			}
		}
		return m.keeping(ctx, vm.OpSnapshot, late, func(ctx context.Context, spec specRecord) error { return m.keep(ctx, spec, name) })
	}
	return m.snapshot(ctx, vm.OpSnapshot, func(c conn, have []string) error {
		if slices.Contains(have, name) {
			return fmt.Errorf("snapshot %q: %w", name, vm.ErrExists)
		}
		s := libvirtxml.DomainSnapshot{Name: name}
		text, err := s.Marshal()
		if err != nil {
			return err
		}
		return c.Snapshot(string(m.id), text)
	})
}

// Revert goes back to a snapshot, in place: the machine runs then, or is off, as
// it did when the snapshot was made. Its ownership stays what it is.
func (m *machine) Revert(ctx context.Context, name string) error {
	if m.keeps() {
		late := func(struct{}) { m.undo("it was reverted too late") }
		return m.keeping(ctx, vm.OpRevert, late, func(ctx context.Context, spec specRecord) error { return m.goBack(ctx, spec, name) })
	}
	return m.snapshot(ctx, vm.OpRevert, func(c conn, have []string) error {
		if !slices.Contains(have, name) {
			return fmt.Errorf("snapshot %q: %w", name, vm.ErrNotFound)
		}
		before, err := c.Look(string(m.id))
		if err != nil {
			return err
		}
		if err := c.Revert(string(m.id), name); err != nil || before.record == "" {
			return err
		}
		// The description went back too, and the ownership with it.
		now := m.d.recordOf(before)
		if now == nil {
			return nil
		}
		text, err := now.encode()
		if err != nil {
			return err
		}
		return c.SetRecord(string(m.id), text)
	})
}

// DeleteSnapshot removes a snapshot; those made after it stay.
func (m *machine) DeleteSnapshot(ctx context.Context, name string) error {
	if m.keeps() {
		return m.keeping(ctx, vm.OpDeleteSnapshot, nil, func(ctx context.Context, _ specRecord) error { return m.forget(ctx, name) })
	}
	return m.snapshot(ctx, vm.OpDeleteSnapshot, func(c conn, have []string) error {
		if !slices.Contains(have, name) {
			return fmt.Errorf("snapshot %q: %w", name, vm.ErrNotFound)
		}
		return c.DeleteSnapshot(string(m.id), name)
	})
}

// Snapshots lists the names, oldest first.
func (m *machine) Snapshots(ctx context.Context) ([]string, error) {
	return do(ctx, m.d, vm.OpSnapshots, m.id, nil, func(ctx context.Context) (names []string, err error) {
		if m.keeps() {
			if _, err := m.d.lookDomain(ctx, string(m.id)); err != nil {
				return nil, err
			}
			have, err := m.kept()
			for _, h := range have {
				names = append(names, h.Name)
			}
			return names, err
		}
		err = m.d.line.use(ctx, true, func(c conn) (err error) {
			names, err = c.Snapshots(string(m.id))
			return err
		})
		return names, err
	})
}

// keeping is an operation on the snapshots that the driver keeps.
func (m *machine) keeping(ctx context.Context, op string, late func(struct{}), f func(context.Context, specRecord) error) error {
	_, err := do(ctx, m.d, op, m.id, late, func(ctx context.Context) (struct{}, error) {
		spec, unlock, err := m.operate(ctx, op, true)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, errors.Join(f(ctx, spec), unlock())
	})
	return err
}

// snapshot is an operation on the snapshots that libvirt keeps.
func (m *machine) snapshot(ctx context.Context, op string, f func(c conn, have []string) error) error {
	_, err := do(ctx, m.d, op, m.id, nil, func(ctx context.Context) (_ struct{}, err error) {
		_, unlock, err := m.operate(ctx, op, true)
		if err != nil {
			return struct{}{}, err
		}
		err = m.d.line.use(ctx, false, func(c conn) error {
			have, err := c.Snapshots(string(m.id))
			if err != nil {
				return err
			}
			return f(c, have)
		})
		return struct{}{}, errors.Join(err, unlock())
	})
	return err
}
