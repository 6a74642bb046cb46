package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrLocked: somebody else holds the lock.
var ErrLocked = errors.New("locked")

// Lock is a held lock on a file. Locks of the kernel end with the processes
// that hold them, so nothing has to be cleaned up after a crash, and they see
// through PID namespaces.
type Lock struct{ f *os.File }

// Try takes the lock or answers ErrLocked. Folders can be locked too. flag is for
// opening the file, how is LOCK_EX or LOCK_SH. Whoever takes a lock unlocks it.
func Try(path string, flag int, how int) (*Lock, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err {
		case nil:
			return &Lock{f}, nil
		case syscall.EINTR:
		case syscall.EWOULDBLOCK:
			return nil, errors.Join(ErrLocked, f.Close())
		default:
			return nil, errors.Join(fmt.Errorf("flock %s: %w", path, err), f.Close())
		}
	}
}

// Wait takes the lock as soon as it can, or answers ErrLocked and why it
// stopped waiting. The kernel cannot be waited for with a context: it is asked
// again and again.
func Wait(ctx context.Context, path string, flag int, how int) (*Lock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		l, err := Try(path, flag, how)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w: %w", ErrLocked, context.Cause(ctx))
		}
	}
}

// File is the locked file, open as it was asked for until Unlock.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the lock back. It is unlocked before it is closed: a child of
// this process that is between fork and exec still has the file, and closing
// alone would leave the lock with it.
func (l *Lock) Unlock() error {
	err := syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN)
	return errors.Join(err, l.f.Close())
}

// Note writes who holds the lock and what for; ReadNote is for the others.
func (l *Lock) Note(what string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt(fmt.Appendf(nil, "%s by process %d\n", what, os.Getpid()), 0)
	return err
}

// ReadNote gives the note, or "an operation" where there is none.
func ReadNote(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "an operation"
	}
	return strings.TrimSpace(string(b[:min(len(b), 200)]))
}
