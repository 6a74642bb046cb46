package libvirt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// A kept snapshot is a folder in the machine's, with the state that libvirt saved
// of it and copies of the disks that the driver made; see Snapshots in the
// package documentation. libvirt knows nothing of it.
const (
	snapshotFolder = "snapshots"
	snapshotFile   = "snapshot.json"
)

// snapshotRecord is what is known of a kept snapshot.
type snapshotRecord struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Number  int       `json:"number"` // later ones have higher ones
	Made    time.Time `json:"made"`
	Disks   []string  `json:"disks,omitempty"` // the files' names
	// Running: there is a saved state, whose guest says these two in its hello.
	Running     bool   `json:"running,omitempty"`
	Incarnation string `json:"incarnation,omitempty"`
	Secret      string `json:"secret,omitempty"`
}

// keeps reports whether the driver itself keeps the machine's snapshots: those of
// a machine that it made, on a hypervisor with guests.
func (m *machine) keeps() bool { return m.d.target.guests() && !m.foreign() }

func (m *machine) snapshotDir(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(m.path(snapshotFolder), hex.EncodeToString(sum[:16]))
}

// kept lists the snapshots, oldest first.
func (m *machine) kept() ([]snapshotRecord, error) {
	entries, err := os.ReadDir(m.path(snapshotFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []snapshotRecord
	for _, e := range entries {
		if !isMachineName(e.Name()) {
			continue // half made, or half removed
		}
		var rec snapshotRecord
		path := filepath.Join(m.path(snapshotFolder), e.Name(), snapshotFile)
		if err := readRecord(path, &rec); errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		} else if err != nil {
			return nil, err
		}
		if rec.Version != specVersion {
			return nil, fmt.Errorf("%s is of version %d, want %d", path, rec.Version, specVersion)
		}
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b snapshotRecord) int { return a.Number - b.Number })
	return all, nil
}

// keep makes a snapshot. The guest of a machine that runs has to notice that its
// host has left, or it would not say hello to the next; so its channel ends, and
// there is another afterwards.
func (m *machine) keep(ctx context.Context, spec specRecord, name string) (err error) {
	have, err := m.kept()
	if err != nil {
		return err
	}
	rec := snapshotRecord{Version: specVersion, Name: name, Number: 1, Made: time.Now().UTC()}
	for _, h := range have {
		if h.Name == name {
			return fmt.Errorf("snapshot %q: %w", name, vm.ErrExists)
		}
		rec.Number = h.Number + 1
	}
	info, err := m.look(ctx)
	if err != nil {
		return err
	}
	switch info.State {
	case vm.StateRunning:
		rec.Running = true
	case vm.StateDefined, vm.StateStopped, vm.StateCrashed:
	default:
		return fmt.Errorf("%w: it is %v, want running or off", vm.ErrState, info.State)
	}
	if rec.Disks, err = m.diskFiles(ctx); err != nil {
		return err
	}
	parent := m.path(snapshotFolder)
	if err := hostdir.Mkdir(parent, folderMode); err != nil {
		return full(err)
	}
	if err := removeHalves(parent); err != nil {
		return err
	}
	dir, lock, err := hostdir.New(ctx, parent, folderMode)
	if err != nil {
		return full(err)
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		err = errors.Join(err, lock.Unlock())
	}()
	freeze := func(ctx context.Context) error { return m.copyDisks(ctx, dir, m.d.dir(m.id), rec.Disks) }
	if rec.Running {
		var state string
		if state, err = m.makeState(ctx, dir, name); err == nil {
			err = m.hold(ctx, spec, state, &rec, freeze)
		}
		defer func() {
			if !done {
				err = errors.Join(err, m.removeState(context.WithoutCancel(ctx), name))
			}
		}()
	} else {
		err = freeze(ctx)
	}
	if err == nil {
		err = context.Cause(ctx) // nobody waits for it any more
	}
	if err == nil {
		err = full(writeRecord(filepath.Join(dir, snapshotFile), rec))
	}
	if err == nil {
		err = os.Rename(dir, m.snapshotDir(name))
	}
	done = err == nil
	return err
}

// hold saves a machine that runs, calls freeze while it does not, and lets it go
// on. Others see it starting meanwhile, or, from other processes, off.
func (m *machine) hold(ctx context.Context, spec specRecord, state string, rec *snapshotRecord, freeze func(context.Context) error) error {
	last, err := readRun(m.d.dir(m.id))
	if err != nil || last == nil {
		return errors.Join(err, errors.New("it runs without a record of its start"))
	}
	if rec.Incarnation, rec.Secret, err = m.spoken(spec, *last); err != nil {
		return err
	}
	m.d.setStarting(m.id, true)
	defer m.d.setStarting(m.id, false)
	if err := m.saveTo(ctx, state, spec, *last); err != nil {
		return err
	}
	// From here on the machine is to run again, whatever becomes of the caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.d.conf.BootTimeout)
	defer cancel()
	err = freeze(ctx)
	return errors.Join(err, m.runKept(ctx, vm.OpSnapshot, spec, state, *rec))
}

// runKept restores the saved state. What the machine's description says in the
// state is as old as that, so the ownership in it is exchanged for the present one.
func (m *machine) runKept(ctx context.Context, op string, spec specRecord, state string, rec snapshotRecord) error {
	p := &parentRecord{Spec: specRecord{Incarnation: rec.Incarnation}, Secret: rec.Secret}
	return m.startLocked(ctx, op, spec, p, func(c conn, _ bool) error {
		text, err := c.SavedXML(state)
		if err != nil {
			return err
		}
		got, err := c.Look(string(m.id))
		if err != nil {
			return err
		}
		now, err := decodeRecord(got.record)
		if err != nil || now == nil {
			return errors.Join(err, errors.New("its metadata are gone"))
		}
		meta, err := now.embedded()
		if err != nil {
			return err
		}
		if !ownElement.MatchString(text) {
			return fmt.Errorf("%w: its description has no metadata", errSaveFormat)
		}
		return c.Restore(state, ownElement.ReplaceAllLiteralString(text, meta))
	})
}

// goBack reverts to a snapshot.
func (m *machine) goBack(ctx context.Context, spec specRecord, name string) error {
	rec, err := m.findKept(name)
	if err != nil {
		return err
	}
	if err := m.killLocked(ctx, "killed to revert to snapshot "+name); err != nil {
		return err
	}
	dir := m.snapshotDir(name)
	if err := m.copyDisks(ctx, m.d.dir(m.id), dir, rec.Disks); err != nil {
		return err
	}
	if m.d.target.remote() {
		for place := range spec.Inputs { // its run had none
			if err := m.plugOne(ctx, place, "", false); err != nil {
				return err
			}
		}
	}
	if !rec.Running {
		return nil
	}
	state, err := m.statePath(ctx, dir, name)
	if err != nil {
		return err
	}
	err = m.runKept(ctx, vm.OpRevert, spec, state, rec)
	if hasCode(err, codeFailed) && context.Cause(ctx) == nil {
		// That QEMU's end may have been heard so late all the same.
		m.d.log.Debug("a revert is tried again", "machine", m.id, "snapshot", name, "err", err)
		err = m.runKept(ctx, vm.OpRevert, spec, state, rec)
	}
	return err
}

func (m *machine) findKept(name string) (snapshotRecord, error) {
	have, err := m.kept()
	if err != nil {
		return snapshotRecord{}, err
	}
	for _, h := range have {
		if h.Name == name {
			return h, nil
		}
	}
	return snapshotRecord{}, fmt.Errorf("snapshot %q: %w", name, vm.ErrNotFound)
}

// forget removes a snapshot, its name first.
func (m *machine) forget(ctx context.Context, name string) error {
	if _, err := m.findKept(name); err != nil {
		return err
	}
	dir := m.snapshotDir(name)
	dead := filepath.Join(filepath.Dir(dir), deadPrefix+filepath.Base(dir))
	if err := os.Rename(dir, dead); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dead), m.removeState(ctx, name))
}

// diskFiles gives the names of the disks' files that belong to a snapshot. The
// contents of job disks do not. A machine that keeps anything elsewhere is refused.
func (m *machine) diskFiles(ctx context.Context) ([]string, error) {
	dom, err := m.d.describe(ctx, string(m.id), false)
	if err != nil {
		return nil, err
	}
	refuse := func(what string) ([]string, error) {
		return nil, fmt.Errorf("it has %s, which the driver did not make and cannot bring back: %w", what, errors.ErrUnsupported)
	}
	if dom.OS != nil && dom.OS.NVRam != nil {
		return refuse("an nvram file")
	}
	if len(dom.Devices.TPMs) > 0 {
		return refuse("a TPM")
	}
	var files []string
	for _, disk := range dom.Devices.Disks {
		if m.d.target.remote() && strings.HasPrefix(disk.Serial, inputSerialPrefix) {
			return nil, fmt.Errorf("%w: it has an input (%s), which would be part of the snapshot: Eject it first", vm.ErrState, disk.Serial)
		}
		if disk.ReadOnly != nil || disk.Source == nil {
			continue
		}
		target, path := "?", "no file"
		if disk.Target != nil {
			target = disk.Target.Dev
		}
		if disk.Source.File != nil {
			path = disk.Source.File.File
		}
		name, ours := strings.CutPrefix(path, m.d.dir(m.id)+"/")
		switch {
		case ours && strings.HasPrefix(name, "job-"), m.d.target.remote() && strings.HasPrefix(filepath.Base(path), volumePrefix(string(m.id))+"job-"):
		case ours && strings.HasPrefix(name, "disk-"):
			files = append(files, name)
		default:
			return refuse(fmt.Sprintf("the writable disk %s (%s)", target, path))
		}
	}
	return files, nil
}
