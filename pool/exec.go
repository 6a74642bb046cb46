package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"

	"github.com/bullpen-vm/bullpen/vm"
)

// Exec runs one command in the guest and waits for its end; see vm.Exec. It ends
// as well when the guest is released or its lease is lost, with an error that
// says so. The machine needs a channel (vm.Messenger).
func (g *Guest) Exec(ctx context.Context, c vm.Command) (vm.Exit, error) {
	exit := vm.Exit{Code: -1}
	err := g.during(ctx, "exec on", func(ctx context.Context) (err error) {
		exit, err = vm.Exec(ctx, g.Machine(), c)
		return err
	})
	return exit, err
}

// CopyTo lays the files of src out below a folder in the guest; see vm.CopyTo.
func (g *Guest) CopyTo(ctx context.Context, guestPath string, src fs.FS, o *vm.CopyOptions) (vm.Copied, error) {
	var copied vm.Copied
	err := g.during(ctx, "copy to", func(ctx context.Context) (err error) {
		copied, err = vm.CopyTo(ctx, g.Machine(), guestPath, src, o)
		return err
	})
	return copied, err
}

// CopyFrom writes a file or folder of the guest to w as a tar stream that is not
// to be trusted; see vm.CopyFrom.
func (g *Guest) CopyFrom(ctx context.Context, guestPath string, w io.Writer, o *vm.CopyOptions) (vm.Copied, error) {
	var copied vm.Copied
	err := g.during(ctx, "copy from", func(ctx context.Context) (err error) {
		copied, err = vm.CopyFrom(ctx, g.Machine(), guestPath, w, o)
		return err
	})
	return copied, err
}

// Addresses waits until the guest has an address and gives all; an error that is
// errors.ErrUnsupported where its driver cannot tell (vm.Addresser).
func (g *Guest) Addresses(ctx context.Context) ([]netip.Addr, error) {
	var all []netip.Addr
	err := g.during(ctx, "addresses of", func(ctx context.Context) (err error) {
		a, ok := vm.As[vm.Addresser](g.Machine())
		if !ok {
			return fmt.Errorf("the machine does not tell its addresses: %w", errors.ErrUnsupported)
		}
		all, err = a.Addresses(ctx)
		return err
	})
	return all, err
}

// during does something that lasts no longer than the guest is held.
func (g *Guest) during(ctx context.Context, op string, do func(context.Context) error) error {
	fail := func(err error) error { return &OpError{Op: op, What: g.name, Why: g.want.Job, Err: err} }
	if err := g.check(); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held := g.Context()
	stop := context.AfterFunc(held, func() { cancel(context.Cause(held)) })
	defer stop()
	if err := do(ctx); err != nil {
		err = because(ctx, err)
		if g.loan != nil {
			err = g.loan.confirm(ctx, err)
		}
		return fail(err)
	}
	return nil
}
