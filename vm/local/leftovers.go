package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// The folders that are no machines.
const (
	newPrefix  = hostdir.NewPrefix
	deadPrefix = hostdir.DeadPrefix // its processes are gone
)

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
			err = hostdir.RemoveUnlocked(path, nil, removeTree)
		default:
			continue
		}
		if err != nil {
			d.log.Warn("a leftover cannot be removed", "path", path, "err", err)
		}
	}
	return nil
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
