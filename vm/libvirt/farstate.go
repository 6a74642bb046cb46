package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/bullpen-vm/bullpen/vm"
)

// The saved state of a snapshot of a machine on another computer is a volume there;
// what is known of it is in the machine's folder here.

const statePrefix = "snapshot-"

func (m *machine) stateVolume(name string) string {
	return volumeName(string(m.id), statePrefix+filepath.Base(m.snapshotDir(name)))
}

// statePath is where the saved state of a snapshot in that folder is.
func (m *machine) statePath(ctx context.Context, dir, name string) (path string, err error) {
	if !m.d.target.remote() {
		return filepath.Join(dir, stateFile), nil
	}
	err = m.d.line.use(ctx, true, func(c conn) (err error) {
		path, err = c.PoolPath(m.d.conf.Pool)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("storage pool %q (Config.Pool): %w", m.d.conf.Pool, err)
	}
	return filepath.Join(path, m.stateVolume(name)), nil
}

// makeState makes room for a state: libvirt knows a volume only that it made.
func (m *machine) makeState(ctx context.Context, dir, name string) (string, error) {
	path, err := m.statePath(ctx, dir, name)
	if err != nil || !m.d.target.remote() {
		return path, err
	}
	if err := m.removeState(ctx, name); err != nil { // of a process that was killed
		return "", err
	}
	return path, m.d.makeVolume(ctx, m.stateVolume(name), 0)
}

func (m *machine) removeState(ctx context.Context, name string) error {
	if !m.d.target.remote() {
		return nil
	}
	err := m.d.line.use(ctx, true, func(c conn) error { return c.RemoveVolume(m.d.conf.Pool, m.stateVolume(name)) })
	if err != nil && !errors.Is(err, vm.ErrNotFound) {
		return err
	}
	return nil
}

// stateVolumes gives the states of a machine, of snapshots that are whole and of
// others.
func (d *Driver) stateVolumes(ctx context.Context, rec record) (names []string, err error) {
	var all []volume
	prefix := volumePrefix(rec.Spec.Name) + statePrefix
	err = d.line.use(ctx, true, func(c conn) (err error) {
		all, err = c.Volumes(rec.Pool, prefix)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("storage pool %q: %w", rec.Pool, err)
	}
	for _, v := range all {
		// Another machine's name may begin with this one's.
		hash := strings.TrimSuffix(strings.TrimPrefix(v.name, prefix), ".raw")
		if len(hash) == 32 && strings.Trim(hash, "0123456789abcdef") == "" {
			names = append(names, v.name)
		}
	}
	return names, nil
}
