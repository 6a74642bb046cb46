package vm

import (
	"context"
	"errors"
)

// Interceptor stands between a caller and a driver. Guard and fake.Wrap are
// made of it; others may count, time or trace with it.
type Interceptor struct {
	// Call is asked to do one operation. It calls do, at most once, or
	// answers an error without calling it; an error of do that it does not
	// return is swallowed, with the result as it stands then. op is one of the
	// names such as OpStart, id the machine's (empty for operations on the
	// driver, except OpCreate and OpFork: the name in the Spec, and OpOpen).
	// result points to what the caller will get, such as *Info, *[]Info, *End
	// or *Machine (not wrapped yet), is nil where there is nothing but an
	// error, and may be changed after do. Operations on job disks have no
	// context of their own and come with one that never ends.
	Call func(ctx context.Context, op string, id ID, result any, do func(context.Context) error) error
}

// Intercept wraps a driver, and with it all that comes back from it: machines,
// their job disks, channels and streams. The result has the capabilities of d
// that this package knows, and no other way to d. HostID, ID, Forker.Rung,
// JobDisk.Size and JobDisk.Close are not asked for, nor are a Channel's Done,
// Err, Stats and Incarnation: they act on nothing.
func Intercept(d Driver, i Interceptor) Driver { return &driverProxy{d, i} }

// InterceptMachine is Intercept for one machine.
func InterceptMachine(m Machine, i Interceptor) Machine { return &machineProxy{m, i} }

var (
	_ Driver  = (*driverProxy)(nil)
	_ Forker  = (*driverProxy)(nil)
	_ Stocker = (*driverProxy)(nil)
)

type driverProxy struct {
	in   Driver
	hook Interceptor
}

// As answers for the capabilities that the wrapped driver has, by the proxy's
// own methods.
func (p *driverProxy) As(target any) bool {
	switch t := target.(type) {
	case *Driver:
		*t = p
	case *Forker:
		if !has[Forker](p.in) {
			return false
		}
		*t = p
	case *Stocker:
		if !has[Stocker](p.in) {
			return false
		}
		*t = p
	default:
		return false
	}
	return true
}

func (p *driverProxy) HostID() string { return p.in.HostID() }

// machine does an operation that answers with a machine, and wraps it.
func (p *driverProxy) machine(ctx context.Context, op string, id ID, do func(context.Context) (Machine, error)) (Machine, error) {
	var m Machine
	err := p.hook.Call(ctx, op, id, &m, func(ctx context.Context) (err error) {
		m, err = do(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, &OpError{Op: op, Driver: p.in.HostID(), ID: id, Err: errors.New("the interceptor answered neither a machine nor an error")}
	}
	return InterceptMachine(m, p.hook), nil
}

func (p *driverProxy) Create(ctx context.Context, s Spec) (Machine, error) {
	return p.machine(ctx, OpCreate, ID(s.Name), func(ctx context.Context) (Machine, error) { return p.in.Create(ctx, s) })
}

func (p *driverProxy) Open(ctx context.Context, id ID) (Machine, error) {
	return p.machine(ctx, OpOpen, id, func(ctx context.Context) (Machine, error) { return p.in.Open(ctx, id) })
}

func (p *driverProxy) List(ctx context.Context) ([]Info, error) {
	return intercept(ctx, p.hook, OpList, "", p.in.List)
}

func (p *driverProxy) Close() error {
	return p.hook.Call(context.Background(), OpClose, "", nil, func(context.Context) error { return p.in.Close() })
}

func (p *driverProxy) Fork(ctx context.Context, parent string, s Spec) (Machine, error) {
	return p.machine(ctx, OpFork, ID(s.Name), func(ctx context.Context) (Machine, error) {
		f, err := need[Forker](p.in, OpFork, p.in.HostID(), ID(s.Name))
		if err != nil {
			return nil, err
		}
		return f.Fork(ctx, parent, s)
	})
}

func (p *driverProxy) Parents(ctx context.Context) ([]string, error) {
	return intercept(ctx, p.hook, OpParents, "", func(ctx context.Context) ([]string, error) {
		f, err := need[Forker](p.in, OpParents, p.in.HostID(), "")
		if err != nil {
			return nil, err
		}
		return f.Parents(ctx)
	})
}

func (p *driverProxy) DropParent(ctx context.Context, parent string) error {
	return p.hook.Call(ctx, OpDropParent, "", nil, func(ctx context.Context) error {
		f, err := need[Forker](p.in, OpDropParent, p.in.HostID(), "")
		if err != nil {
			return err
		}
		return f.DropParent(ctx, parent)
	})
}

func (p *driverProxy) Rung() Rung {
	if f, ok := As[Forker](p.in); ok {
		return f.Rung()
	}
	return RungNone
}

func (p *driverProxy) Stock(ctx context.Context) ([]string, error) {
	return intercept(ctx, p.hook, OpStock, "", func(ctx context.Context) ([]string, error) {
		s, err := need[Stocker](p.in, OpStock, p.in.HostID(), "")
		if err != nil {
			return nil, err
		}
		return s.Stock(ctx)
	})
}

// intercept does an operation with a result of any type.
func intercept[T any](ctx context.Context, hook Interceptor, op string, id ID, do func(context.Context) (T, error)) (T, error) {
	var got T
	err := hook.Call(ctx, op, id, &got, func(ctx context.Context) (err error) {
		got, err = do(ctx)
		return err
	})
	return got, err
}

// need finds a capability or says which operation is not supported.
func need[T any](v any, op, driver string, id ID) (T, error) {
	t, ok := As[T](v)
	if !ok {
		return t, &OpError{Op: op, Driver: driver, ID: id, Err: errors.ErrUnsupported}
	}
	return t, nil
}
