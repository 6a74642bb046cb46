package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
)

// The folders that are no machines.
const (
	newPrefix  = ".new-"  // being made; flocked by who makes it
	deadPrefix = ".dead-" // being removed; its processes are gone
)

// newFolder makes a folder of the kind .new-* and locks it. Another process may
// take it for a leftover between the two: then it is gone, and made again.
func newFolder(ctx context.Context, parent string) (string, *flock.Lock, error) {
	for {
		dir := filepath.Join(parent, newPrefix+rand.Text())
		if err := os.Mkdir(dir, 0o700); err != nil {
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

// removeLeftovers removes what was half made by a process that is dead, and
// what was half removed by anyone. A folder that cannot be removed is no
// reason not to list the machines: it is logged, and tried again next time.
func (d *Driver) removeLeftovers() error {
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(d.root, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), deadPrefix):
			err = removeTree(path)
		case strings.HasPrefix(e.Name(), newPrefix):
			err = removeUnlocked(path)
		default:
			continue
		}
		if err != nil {
			d.log.Warn("a leftover cannot be removed", "path", path, "err", err)
		}
	}
	return nil
}

// removeUnlocked removes a folder unless somebody holds its lock.
func removeUnlocked(path string) error {
	lock, err := flock.Try(path, os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(removeTree(path), lock.Unlock())
}

// removeTree removes a folder whatever modes a job gave to those below it.
// It follows no links.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, rerr := os.OpenRoot(path)
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	defer root.Close()
	// The walk reads a folder after it was given to this function, so opening
	// it up here is in time.
	werr := fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, werr error) error {
		if werr != nil && e == nil {
			return werr
		}
		if e.IsDir() {
			return root.Chmod(p, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, errors.Join(err, werr))
	}
	return nil
}
