package libvirt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// The folders in a driver's that are no machines.
const (
	newPrefix    = hostdir.NewPrefix
	deadPrefix   = hostdir.DeadPrefix // its domain is gone
	socketFolder = ".sockets"
	parentFolder = ".parents"
)

// socketPath is where QEMU listens for the host's end of a machine's channel. It
// is not in the machine's folder, for socket addresses are short.
func (d *Driver) socketPath(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.base, socketFolder, hex.EncodeToString(sum[:8]))
}

func (d *Driver) dir(id vm.ID) string { return filepath.Join(d.base, string(id)) }

func isMachineName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsRune(name, '/')
}

// folderMode lets QEMU, which may run as another user, through to what it is told.
const folderMode = 0o711

// removeLeftovers removes what dead processes left half made or half removed:
// folders that have no domain, and sockets that have no folder. One that cannot
// be removed is logged, and tried again next time.
func (d *Driver) removeLeftovers(ctx context.Context) error {
	sockets, err := os.ReadDir(filepath.Join(d.base, socketFolder))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.base)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(d.base, e.Name())
		var err error
		switch {
		case strings.HasPrefix(e.Name(), deadPrefix):
			err = os.RemoveAll(path)
		case strings.HasPrefix(e.Name(), newPrefix):
			err = hostdir.RemoveUnlocked(path, nil, os.RemoveAll)
		case isMachineName(e.Name()):
			wanted[filepath.Base(d.socketPath(e.Name()))] = true
			err = hostdir.RemoveUnlocked(path, func() (bool, error) { return d.orphaned(ctx, e.Name()) }, os.RemoveAll)
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if errors.Is(err, vm.ErrHostLost) || errors.Is(err, vm.ErrClosed) {
				return err
			}
			d.log.Warn("a leftover cannot be removed", "path", path, "err", err)
		}
	}
	if err := removeHalves(filepath.Join(d.base, parentFolder)); err != nil {
		d.log.Warn("a leftover parent cannot be removed", "err", err)
	}
	for _, e := range sockets {
		if !wanted[e.Name()] {
			if err := removeAll(filepath.Join(d.base, socketFolder, e.Name())); err != nil {
				d.log.Warn("a leftover cannot be removed", "path", e.Name(), "err", err)
			}
		}
	}
	return nil
}

// removeHalves removes what is half made or half removed in a folder.
func removeHalves(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), deadPrefix):
			errs = append(errs, os.RemoveAll(path))
		case strings.HasPrefix(e.Name(), newPrefix):
			errs = append(errs, hostdir.RemoveUnlocked(path, nil, os.RemoveAll))
		}
	}
	return errors.Join(errs...)
}

// orphaned reports whether a machine's folder has no domain. A domain of that
// name that is another's is no reason to keep it either, but a good one to ask
// a person.
func (d *Driver) orphaned(ctx context.Context, name string) (bool, error) {
	_, err := d.lookDomain(ctx, name)
	if errors.Is(err, vm.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// bury removes a machine's folder and socket, the name first: from then on a
// removal that is cut short is a leftover.
func (d *Driver) bury(id vm.ID, dir string) error {
	dead := filepath.Join(filepath.Dir(dir), deadPrefix+rand.Text())
	err := os.Rename(dir, dead)
	if err == nil {
		err = removeBuried(dead, os.RemoveAll)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, removeAll(filepath.Join(filepath.Dir(dir), socketFolder, filepath.Base(d.socketPath(string(id))))))
}

// removeBuried removes a folder that has lost its name. Who had a file of it open
// by a folder's handle, or was just writing one (a lost Start, another driver
// that records an end), may still add one: then it is tried again, and nobody
// finds the folder anew.
func removeBuried(dead string, remove func(string) error) error {
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if err = remove(dead); !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
		time.Sleep(wait)
	}
	return err
}

// makeDisk makes a sparse raw file.
func makeDisk(path string, size int64, what string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return full(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		if errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("%s is %d bytes: %w: %w", what, size, vm.ErrTooLarge, err)
		}
		return full(err)
	}
	return nil
}
