package diskio

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// Locks on files (flock) belong to an open file: they end with it, however its
// process ends, and count between goroutines of one process too.

// lockShared and lockExclusive do not wait; not ok: another one holds it.
func lockShared(f *os.File) (ok bool, err error)    { return flock(f, syscall.LOCK_SH) }
func lockExclusive(f *os.File) (ok bool, err error) { return flock(f, syscall.LOCK_EX) }

func flock(f *os.File, how int) (bool, error) {
	_, err := ignoringEINTR(func() (int, error) { return 0, syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB) })
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// closeLocked gives a lock back and closes the file. Closing alone would do it
// later, when a process that is being started at this moment has let go of its
// copy of the descriptor.
func closeLocked(f *os.File) error {
	return errors.Join(unlock(f), f.Close())
}

func unlock(f *os.File) error {
	_, err := ignoringEINTR(func() (int, error) { return 0, syscall.Flock(int(f.Fd()), syscall.LOCK_UN) })
	return err
}

// lockFile waits for an exclusive lock on a file, which is made and stays. It
// asks again and again, since a flock that waits cannot be cancelled. The
// caller gives it back with closeLocked.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		ok, err := lockExclusive(f)
		if ok {
			return f, nil
		}
		if err == nil {
			err = pause(ctx, wait)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
}

// pause waits for a time or for the end of the context, and gives its cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
