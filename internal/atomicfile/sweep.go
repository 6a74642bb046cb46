package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
)

const (
	tmp       = ".tmp"
	mostTries = 100
)

// create makes the file that is to be renamed. Its writer has a lock on it, which
// ends with the writer, whatever happens to that; where files cannot be locked
// nothing is swept.
func create(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	for try := 1; ; try++ {
		f, err := os.CreateTemp(dir, "."+name+".*"+tmp)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if now, there := os.Lstat(f.Name()); !errors.Is(err, syscall.EWOULDBLOCK) && there == nil && now.Mode().IsRegular() {
			return f, nil
		}
		// A sweep came between making and locking.
		if err := f.Close(); err != nil {
			return nil, err
		}
		if try == mostTries {
			return nil, fmt.Errorf("a sweep took each of %d new files before it could be locked", mostTries)
		}
	}
}

// Sweep removes what writers of that path that were killed have left beside it: the
// files that nobody has a lock on. Write does it for its own path; Sweep is for paths
// that nobody will write again. It may run beside writers and other sweeps. It goes on
// after an error, and gives all of them; nothing to remove is none.
func Sweep(path string) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sweep beside %s: %w", path, err)
	}
	names, err := d.Readdirnames(-1)
	errs := []error{err, d.Close()}
	for _, n := range names {
		rest, is := strings.CutPrefix(n, "."+name+".")
		number, ends := strings.CutSuffix(rest, tmp)
		if _, err := strconv.ParseUint(number, 10, 64); !is || !ends || err != nil {
			continue
		}
		errs = append(errs, sweep(filepath.Join(dir, n)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep beside %s: %w", path, err)
	}
	return nil
}

func sweep(path string) error {
	lock, err := flock.Try(path, os.O_RDWR|syscall.O_NONBLOCK, syscall.LOCK_EX)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, flock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
		err = nil // it has just got its name, or another sweep was faster
	}
	return errors.Join(err, lock.Unlock())
}
