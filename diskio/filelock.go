package diskio

import (
	"context"
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
	if err == syscall.EWOULDBLOCK {
		return false, nil
	}
	return err == nil, err
}

func unlock(f *os.File) error {
	_, err := ignoringEINTR(func() (int, error) { return 0, syscall.Flock(int(f.Fd()), syscall.LOCK_UN) })
	return err
}

// lockFile waits for an exclusive lock on a file, which is made and stays. It
// asks again and again, since a flock that waits cannot be cancelled. Closing
// the file gives the lock back.
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
