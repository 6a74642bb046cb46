package vm

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Fence answers nil while the right to a machine is held, and afterwards the
// error that says how it was lost. It does no I/O and may be called often and
// from any goroutine; lease.Lease.Check is one.
type Fence func() error

// Guard puts a fence in front of a driver. Every operation on it, and on
// whatever comes back from it (machines, forked ones too, job disks, channels,
// streams), asks the fence first and answers the fence's error without having
// touched anything once it is lost. As and Capabilities do not look behind a
// guard. Operations that wait ask again at their end, so that nothing is told
// to one who lost the right meanwhile; a machine made by a Create or Fork
// during which the right was lost is destroyed.
//
// Closing handles (JobDisk.Close, Stream.Close) stays possible: a stream that
// is closed with a lost fence is only forgotten here, and the guest is told
// nothing. Close of the driver asks the fence: whoever opened the driver closes
// it by its own handle.
func Guard(d Driver, f Fence) Driver { return Intercept(d, guardian(f, d.HostID())) }

// GuardMachine is Guard for one machine.
func GuardMachine(m Machine, f Fence) Machine { return InterceptMachine(m, guardian(f, "")) }

// lateDestroy bounds the removal of a machine that came into being when its
// maker had lost the right to it.
const lateDestroy = time.Minute

func guardian(f Fence, driver string) Interceptor {
	refuse := func(op string, id ID, err error) error {
		return &OpError{Op: op, Driver: driver, ID: id, Err: fmt.Errorf("refused by the fence: %w", err)}
	}
	return Interceptor{Call: func(ctx context.Context, op string, id ID, result any, do func(context.Context) error) error {
		if err := f(); err != nil {
			return refuse(op, id, err)
		}
		err := do(ctx)
		switch op {
		case OpCreate, OpFork:
			lost := f()
			if m, _ := result.(*Machine); err == nil && lost != nil && *m != nil {
				// It bears the name of the lost incarnation, so this cannot
				// hit a machine of the next holder.
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateDestroy)
				defer cancel()
				return refuse(op, id, errors.Join(lost, (*m).Destroy(ctx)))
			}
		case OpWait, OpRecv, OpReady, OpReadDisk:
			if lost := f(); lost != nil {
				return refuse(op, id, lost)
			}
		}
		return err
	}}
}
