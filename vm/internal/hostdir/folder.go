package hostdir

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
)

// The names of folders that are no machines begin so.
const (
	NewPrefix  = ".new-"  // being made; flocked by who makes it
	DeadPrefix = ".dead-" // being removed
)

// New makes a folder of the kind .new-* and locks it; the caller unlocks it.
// Another process may take it for a leftover between the two: then it is gone,
// and made again.
func New(ctx context.Context, parent string, mode fs.FileMode) (string, *flock.Lock, error) {
	for {
		dir := filepath.Join(parent, NewPrefix+rand.Text())
		if err := os.Mkdir(dir, mode); err != nil {
			return "", nil, err
		}
		if err := os.Chmod(dir, mode); err != nil && !errors.Is(err, fs.ErrNotExist) { // see Mkdir
			return "", nil, err
		}
		lock, err := flock.Try(dir, os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
		if err == nil {
			if _, err = os.Lstat(dir); err == nil {
				return dir, lock, nil
			}
			err = errors.Join(err, lock.Unlock())
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, flock.ErrLocked) {
			return "", nil, err
		}
		if err := context.Cause(ctx); err != nil {
			return "", nil, err
		}
	}
}

// RemoveUnlocked removes a folder by the given function, unless somebody holds
// its lock or the check, made under the lock, says no. A nil check says yes. One
// that is gone is no error.
func RemoveUnlocked(path string, check func() (bool, error), remove func(string) error) error {
	lock, err := flock.Try(path, os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	yes := true
	if check != nil {
		yes, err = check()
	}
	if err == nil && yes {
		err = remove(path)
	}
	return errors.Join(err, lock.Unlock())
}

// Tail gives at most the last n bytes of a file; nothing when there is none, or
// no path.
func Tail(path string, n int) ([]byte, error) {
	if path == "" || n <= 0 {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(int64(n), size))
	m, err := f.ReadAt(b, size-int64(len(b)))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:m], err
}
