package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// MakeParent sees to it that the driver has a parent of that name, for Policy.Parent:
// where it has none, a machine of the Spec is made, booted, proven clean, saved
// and destroyed. The Spec's Name and Owner are that machine's own; all else must
// be as it will be of those that are made from the parent, so a name that is
// derived from the Spec's content never gives a stale one.
//
// errors.ErrUnsupported when the driver makes no machines from parents. Of
// several callers at once all succeed; each may boot a machine, so their Specs
// need different names. Whatever comes of it, the machine is destroyed.
func MakeParent(ctx context.Context, d Driver, parent string, s Spec) (err error) {
	fail := func(err error) error {
		return &OpError{Op: OpSave, Driver: d.HostID(), ID: ID(s.Name), Err: fmt.Errorf("parent %s: %w", parent, err)}
	}
	f, ok := As[Forker](d)
	if !ok {
		return fail(fmt.Errorf("the driver makes no machines from parents: %w", errors.ErrUnsupported))
	}
	there, err := f.Parents(ctx)
	if err != nil {
		return fail(err)
	}
	if slices.Contains(there, parent) {
		return nil
	}
	m, err := d.Create(ctx, s)
	if err != nil {
		return fail(err)
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewCleanup)
		defer cancel()
		if derr := m.Destroy(cctx); derr != nil {
			err = errors.Join(err, fail(derr))
		}
	}()
	if err := m.Start(ctx); err != nil {
		return fail(err)
	}
	if err := ProveClean(ctx, m); err != nil {
		return fail(err)
	}
	saver, ok := As[Saver](m)
	if !ok {
		return fail(fmt.Errorf("its machines cannot be saved: %w", errors.ErrUnsupported))
	}
	if err := saver.Save(ctx, parent); err != nil && !errors.Is(err, ErrExists) {
		return fail(err)
	}
	return nil
}
