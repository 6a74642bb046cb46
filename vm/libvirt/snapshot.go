package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

// Snapshot keeps the domain's state under a name.
func (m *machine) Snapshot(ctx context.Context, name string) error {
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

// Revert goes back to a snapshot, in place.
func (m *machine) Revert(ctx context.Context, name string) error {
	return m.snapshot(ctx, vm.OpRevert, func(c conn, have []string) error {
		if !slices.Contains(have, name) {
			return fmt.Errorf("snapshot %q: %w", name, vm.ErrNotFound)
		}
		return c.Revert(string(m.id), name)
	})
}

// DeleteSnapshot removes a snapshot; those made after it stay.
func (m *machine) DeleteSnapshot(ctx context.Context, name string) error {
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
		err = m.d.line.use(ctx, true, func(c conn) (err error) {
			names, err = c.Snapshots(string(m.id))
			return err
		})
		return names, err
	})
}

// snapshot is an operation on the snapshots that are there.
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
