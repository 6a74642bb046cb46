package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// errLocked: somebody else holds the lock.
var errLocked = errors.New("locked")

// flock is a held lock on a file. Locks of the kernel end with the processes
// that hold them, so nothing has to be cleaned up after a crash, and they see
// through PID namespaces.
type flock struct{ f *os.File }

// tryFlock takes the lock or answers errLocked. Folders can be locked too.
func tryFlock(path string, flag int, how int) (*flock, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err {
		case nil:
			return &flock{f}, nil
		case syscall.EINTR:
		case syscall.EWOULDBLOCK:
			return nil, errors.Join(errLocked, f.Close())
		default:
			return nil, errors.Join(fmt.Errorf("flock %s: %w", path, err), f.Close())
		}
	}
}

// waitFlock takes the lock as soon as it can, or answers errLocked and why it
// stopped waiting. The kernel cannot be waited for with a context: it is asked
// again and again.
func waitFlock(ctx context.Context, path string, flag int, how int) (*flock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		l, err := tryFlock(path, flag, how)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("%w: %w", errLocked, err)
		}
	}
}

// unlock gives the lock back. It is unlocked before it is closed: a child of
// this process that is between fork and exec still has the file, and closing
// alone would leave the lock with it.
func (l *flock) unlock() error {
	err := syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN)
	return errors.Join(err, l.f.Close())
}

// note writes who holds the lock and what for; readNote is for the others.
func (l *flock) note(what string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt(fmt.Appendf(nil, "%s by process %d\n", what, os.Getpid()), 0)
	return err
}

func readNote(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "an operation"
	}
	return strings.TrimSpace(string(b[:min(len(b), 200)]))
}

// sleep waits for d or until ctx ends, whose cause it answers.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
