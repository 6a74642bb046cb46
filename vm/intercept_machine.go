package vm

import (
	"context"
	"io"
	"net/netip"
)

var (
	_ Machine       = (*machineProxy)(nil)
	_ Halter        = (*machineProxy)(nil)
	_ Waiter        = (*machineProxy)(nil)
	_ Snapshotter   = (*machineProxy)(nil)
	_ Saver         = (*machineProxy)(nil)
	_ Attacher      = (*machineProxy)(nil)
	_ Owned         = (*machineProxy)(nil)
	_ Addresser     = (*machineProxy)(nil)
	_ Consoler      = (*machineProxy)(nil)
	_ Messenger     = (*machineProxy)(nil)
	_ Suspender     = (*machineProxy)(nil)
	_ Screenshotter = (*machineProxy)(nil)
)

// machineProxy has the methods of all capabilities, so that a type assertion
// cannot get past it either; As says which of them the machine has.
type machineProxy struct {
	in   Machine
	hook Interceptor
}

// As answers for the capabilities that the wrapped machine has.
func (p *machineProxy) As(target any) bool {
	ok := true
	switch t := target.(type) {
	case *Machine:
		*t = p
	case *Halter:
		if ok = has[Halter](p.in); ok {
			*t = p
		}
	case *Waiter:
		if ok = has[Waiter](p.in); ok {
			*t = p
		}
	case *Snapshotter:
		if ok = has[Snapshotter](p.in); ok {
			*t = p
		}
	case *Saver:
		if ok = has[Saver](p.in); ok {
			*t = p
		}
	case *Attacher:
		if ok = has[Attacher](p.in); ok {
			*t = p
		}
	case *Owned:
		if ok = has[Owned](p.in); ok {
			*t = p
		}
	case *Addresser:
		if ok = has[Addresser](p.in); ok {
			*t = p
		}
	case *Consoler:
		if ok = has[Consoler](p.in); ok {
			*t = p
		}
	case *Messenger:
		if ok = has[Messenger](p.in); ok {
			*t = p
		}
	case *Suspender:
		if ok = has[Suspender](p.in); ok {
			*t = p
		}
	case *Screenshotter:
		if ok = has[Screenshotter](p.in); ok {
			*t = p
		}
	default:
		return false
	}
	return ok
}

// call does an operation that answers with an error only.
func (p *machineProxy) call(ctx context.Context, op string, do func(context.Context) error) error {
	return p.hook.Call(ctx, op, p.in.ID(), nil, do)
}

// with does an operation of a capability that answers with an error only.
func with[T any](ctx context.Context, p *machineProxy, op string, do func(context.Context, T) error) error {
	return p.call(ctx, op, func(ctx context.Context) error {
		c, err := need[T](p.in, op, "", p.in.ID())
		if err != nil {
			return err
		}
		return do(ctx, c)
	})
}

// ask does an operation of a capability that answers with a result.
func ask[T, R any](ctx context.Context, p *machineProxy, op string, do func(context.Context, T) (R, error)) (R, error) {
	return intercept(ctx, p.hook, op, p.in.ID(), func(ctx context.Context) (R, error) {
		c, err := need[T](p.in, op, "", p.in.ID())
		if err != nil {
			var none R
			return none, err
		}
		return do(ctx, c)
	})
}

func (p *machineProxy) ID() ID { return p.in.ID() }

func (p *machineProxy) Info(ctx context.Context) (Info, error) {
	return intercept(ctx, p.hook, OpInfo, p.in.ID(), p.in.Info)
}

func (p *machineProxy) Start(ctx context.Context) error { return p.call(ctx, OpStart, p.in.Start) }
func (p *machineProxy) Stop(ctx context.Context) error  { return p.call(ctx, OpStop, p.in.Stop) }
func (p *machineProxy) Kill(ctx context.Context) error  { return p.call(ctx, OpKill, p.in.Kill) }
func (p *machineProxy) Destroy(ctx context.Context) error {
	return p.call(ctx, OpDestroy, p.in.Destroy)
}

func (p *machineProxy) Halt(ctx context.Context) error {
	return with(ctx, p, OpHalt, func(ctx context.Context, c Halter) error { return c.Halt(ctx) })
}

func (p *machineProxy) Wait(ctx context.Context) (End, error) {
	return ask(ctx, p, OpWait, func(ctx context.Context, c Waiter) (End, error) { return c.Wait(ctx) })
}

func (p *machineProxy) Snapshot(ctx context.Context, name string) error {
	return with(ctx, p, OpSnapshot, func(ctx context.Context, c Snapshotter) error { return c.Snapshot(ctx, name) })
}

func (p *machineProxy) Revert(ctx context.Context, name string) error {
	return with(ctx, p, OpRevert, func(ctx context.Context, c Snapshotter) error { return c.Revert(ctx, name) })
}

func (p *machineProxy) Snapshots(ctx context.Context) ([]string, error) {
	return ask(ctx, p, OpSnapshots, func(ctx context.Context, c Snapshotter) ([]string, error) { return c.Snapshots(ctx) })
}

func (p *machineProxy) DeleteSnapshot(ctx context.Context, name string) error {
	return with(ctx, p, OpDeleteSnapshot, func(ctx context.Context, c Snapshotter) error { return c.DeleteSnapshot(ctx, name) })
}

func (p *machineProxy) Save(ctx context.Context, parent string) error {
	return with(ctx, p, OpSave, func(ctx context.Context, c Saver) error { return c.Save(ctx, parent) })
}

func (p *machineProxy) JobDisk(ctx context.Context, n int) (JobDisk, error) {
	d, err := ask(ctx, p, OpJobDisk, func(ctx context.Context, c Attacher) (JobDisk, error) { return c.JobDisk(ctx, n) })
	if err != nil || d == nil {
		return nil, err
	}
	return &diskProxy{d, p.in.ID(), p.hook}, nil
}

func (p *machineProxy) Insert(ctx context.Context, place int, in Image) error {
	return with(ctx, p, OpInsert, func(ctx context.Context, c Attacher) error { return c.Insert(ctx, place, in) })
}

func (p *machineProxy) Eject(ctx context.Context, place int) error {
	return with(ctx, p, OpEject, func(ctx context.Context, c Attacher) error { return c.Eject(ctx, place) })
}

func (p *machineProxy) SetOwner(ctx context.Context, o Owner) error {
	return with(ctx, p, OpSetOwner, func(ctx context.Context, c Owned) error { return c.SetOwner(ctx, o) })
}

func (p *machineProxy) Addresses(ctx context.Context) ([]netip.Addr, error) {
	return ask(ctx, p, OpAddresses, func(ctx context.Context, c Addresser) ([]netip.Addr, error) { return c.Addresses(ctx) })
}

func (p *machineProxy) Console(ctx context.Context, n int) ([]byte, error) {
	return ask(ctx, p, OpConsole, func(ctx context.Context, c Consoler) ([]byte, error) { return c.Console(ctx, n) })
}

func (p *machineProxy) Channel(ctx context.Context) (*Channel, error) {
	c, err := ask(ctx, p, OpChannel, func(ctx context.Context, c Messenger) (*Channel, error) { return c.Channel(ctx) })
	if err != nil || c == nil {
		return nil, err
	}
	return c.intercepted(p.hook, p.in.ID()), nil
}

func (p *machineProxy) Suspend(ctx context.Context) error {
	return with(ctx, p, OpSuspend, func(ctx context.Context, c Suspender) error { return c.Suspend(ctx) })
}

func (p *machineProxy) Resume(ctx context.Context) error {
	return with(ctx, p, OpResume, func(ctx context.Context, c Suspender) error { return c.Resume(ctx) })
}

func (p *machineProxy) Screenshot(ctx context.Context, w io.Writer) (string, error) {
	return ask(ctx, p, OpScreenshot, func(ctx context.Context, c Screenshotter) (string, error) { return c.Screenshot(ctx, w) })
}

// diskProxy is a job disk behind an interceptor.
type diskProxy struct {
	in   JobDisk
	id   ID
	hook Interceptor
}

func (p *diskProxy) Size() int64  { return p.in.Size() }
func (p *diskProxy) Close() error { return p.in.Close() }

func (p *diskProxy) ReadAt(b []byte, off int64) (int, error) {
	return intercept(context.Background(), p.hook, OpReadDisk, p.id, func(context.Context) (int, error) { return p.in.ReadAt(b, off) })
}

func (p *diskProxy) WriteAt(b []byte, off int64) (int, error) {
	return intercept(context.Background(), p.hook, OpWriteDisk, p.id, func(context.Context) (int, error) { return p.in.WriteAt(b, off) })
}

func (p *diskProxy) Sync(ctx context.Context) error {
	return p.hook.Call(ctx, OpSyncDisk, p.id, nil, p.in.Sync)
}
