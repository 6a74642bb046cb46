package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const tmp = ".tmp"

// create makes the file that is to be renamed. Its writer has a lock on it, which
// ends with the writer, whatever happens to that; where files cannot be locked
// nothing is swept.
func create(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	for try := 0; ; try++ {
		f, err := os.CreateTemp(dir, "."+name+".*"+tmp)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if now, there := os.Lstat(f.Name()); !errors.Is(err, syscall.EWOULDBLOCK) && there == nil && now.Mode().IsRegular() {
			return f, nil
		}
		// A sweep came between making and locking.
		if err := f.Close(); err != nil || try == 100 {
			return nil, errors.Join(err, errors.New("others sweep all the time"))
		}
	}
}

// Sweep removes what writers of that path that were killed have left beside it.
// Write does it for its own path.
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
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
