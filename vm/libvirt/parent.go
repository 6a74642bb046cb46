package libvirt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// A parent is a folder with the saved state of a machine and what has to be the
// same in machines that are made from it. Its state is rewritten for each, under
// the parent's lock: only its head differs.
const (
	parentFile = "parent.json"
	stateFile  = "state"
)

// parentRecord is what is kept of the machine that was saved.
type parentRecord struct {
	Version int        `json:"version"`
	Name    string     `json:"name"` // of the parent
	Spec    specRecord `json:"spec"`
	Secret  string     `json:"secret"`
	Dir     string     `json:"dir"` // where the machine's files were
	XML     []byte     `json:"xml"` // of the running domain, as it was saved
	Saved   time.Time  `json:"saved"`
}

func (d *Driver) parentDir(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.base, parentFolder, hex.EncodeToString(sum[:16]))
}

// readParent answers vm.ErrNotFound for a parent that is not there.
func (d *Driver) readParent(name string) (parentRecord, error) {
	var p parentRecord
	path := filepath.Join(d.parentDir(name), parentFile)
	err := readRecord(path, &p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, fmt.Errorf("parent %q: %w", name, vm.ErrNotFound)
	case err == nil && (p.Version != specVersion || p.Name != name):
		err = fmt.Errorf("%s is of version %d and parent %q, want %d and %q", path, p.Version, p.Name, specVersion, name)
	}
	return p, err
}

// Save keeps the machine's state as a parent and ends the machine. A machine
// with a writable disk beside its job disks is refused: the disk would have to be
// frozen with the state. It is not there for one with a network: those made of
// it would all have its hardware address, which is part of the state.
func (m *machine) Save(ctx context.Context, parent string) error {
	_, err := do(ctx, m.d, vm.OpSave, m.id, nil, func(ctx context.Context) (_ struct{}, err error) {
		_, unlock, err := m.operate(ctx, vm.OpSave, true)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, errors.Join(m.save(ctx, parent), unlock())
	})
	return err
}

// quietTime is how long a guest may take to see that its host has left, and to
// open its channel for the next (diskio/guest pauses for 200 ms in between). One
// that was saved earlier does that in each machine that is made from it, which
// takes as long there.
const quietTime = 500 * time.Millisecond

func (m *machine) save(ctx context.Context, parent string) (err error) {
	if _, err := m.d.readParent(parent); err == nil {
		return fmt.Errorf("parent %q: %w", parent, vm.ErrExists)
	} else if !errors.Is(err, vm.ErrNotFound) {
		return err
	}
	info, err := m.look(ctx)
	if err != nil {
		return err
	}
	if info.State != vm.StateRunning {
		return fmt.Errorf("%w: it is %v, want running", vm.ErrState, info.State)
	}
	p := parentRecord{Version: specVersion, Name: parent, Dir: m.d.dir(m.id), Saved: time.Now().UTC()}
	if p.Spec, err = readSpec(p.Dir, string(m.id)); err != nil {
		return err
	}
	if p.Spec.Disks > 0 {
		return fmt.Errorf("it has %d disks beside its job disks and inputs, which would have to be frozen with its state: %w", p.Spec.Disks, errors.ErrUnsupported)
	}
	spec := p.Spec
	last, err := readRun(p.Dir)
	if err != nil || last == nil {
		return errors.Join(err, errors.New("it runs without a record of its start"))
	}
	if p.Spec.Incarnation, p.Secret, err = m.spoken(p.Spec, *last); err != nil {
		return err
	}
	dir, lock, err := hostdir.New(ctx, filepath.Join(m.d.base, parentFolder), folderMode)
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
	state := filepath.Join(dir, stateFile)
	if err := m.saveTo(ctx, state, spec, *last); err != nil {
		return err
	}
	if err := m.writeEnd(last.Boot, vm.End{Kind: vm.EndKilled, Detail: "it was saved as parent " + parent}); err != nil {
		return err
	}
	f, err := os.Open(state)
	if err != nil {
		return fmt.Errorf("the saved state cannot be read: %w: %w", errors.ErrUnsupported, err)
	}
	head, err := readSave(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	p.XML = head.xml
	if _, err := p.rewritten(vm.Spec{Name: p.Spec.Name}, p.Spec, p.Dir, ""); err != nil {
		return err
	}
	if err := full(writeRecord(filepath.Join(dir, parentFile), p)); err != nil {
		return err
	}
	if err := os.Rename(dir, m.d.parentDir(parent)); err != nil {
		if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("parent %q: %w", parent, vm.ErrExists)
		}
		return err
	}
	done = true
	return nil
}

// spoken is what the guest of a run says in its hello.
func (m *machine) spoken(spec specRecord, last runRecord) (incarnation, secret string, err error) {
	if last.Saved != "" {
		return last.Saved, last.Secret, nil
	}
	b, err := os.ReadFile(m.path(secretFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return spec.Incarnation, string(b), err
}

// ownElement is the driver's metadata in a domain's description.
var ownElement = regexp.MustCompile(`(?s)<` + metadataKey + `:machine xmlns:` + metadataKey + `=.*?</` + metadataKey + `:machine>`)

// rewritten is the saved description as that of another machine: its names,
// paths and metadata are exchanged, and nothing else is touched.
func (p parentRecord) rewritten(s vm.Spec, rec specRecord, dir, meta string) ([]byte, error) {
	text := p.XML
	for _, x := range []struct{ what, from, to string }{
		{"name", "<name>" + p.Spec.Name + "</name>", "<name>" + s.Name + "</name>"},
		{"uuid", "<uuid>" + p.Spec.UUID + "</uuid>", "<uuid>" + rec.UUID + "</uuid>"},
		{"socket", escaped(p.Spec.Socket), escaped(rec.Socket)},
		{"console", escaped(p.Spec.Console), escaped(rec.Console)},
		{"folder", escaped(p.Dir) + "/", escaped(dir) + "/"},
	} {
		if !bytes.Contains(text, []byte(x.from)) && (x.what != "folder" || len(p.Spec.JobDisks)+p.Spec.Inputs > 0) {
			return nil, fmt.Errorf("%w: its description has no %s %q", errSaveFormat, x.what, x.from)
		}
		text = bytes.ReplaceAll(text, []byte(x.from), []byte(x.to))
	}
	if !ownElement.Match(text) {
		return nil, fmt.Errorf("%w: its description has no metadata", errSaveFormat)
	}
	if meta != "" {
		text = ownElement.ReplaceAllLiteral(text, []byte(meta))
	}
	return text, nil
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes all
	return strings.ReplaceAll(b.String(), "&#39;", "&apos;")
}

// Fork makes a machine from the parent and lets it run. Its Spec must be as the
// parent's was, but for what tells machines apart.
func (d *Driver) Fork(ctx context.Context, parent string, s vm.Spec) (vm.Machine, error) {
	id := vm.ID(s.Name)
	err := s.Validate()
	if err == nil {
		err = d.supported(s)
	}
	if err != nil {
		return nil, d.fail(vm.OpFork, id, err)
	}
	late := func(m *machine) { d.takeBack(m) }
	m, err := do(ctx, d, vm.OpFork, id, late, func(ctx context.Context) (*machine, error) { return d.fork(ctx, parent, s) })
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *Driver) fork(ctx context.Context, parent string, s vm.Spec) (_ *machine, err error) {
	p, err := d.readParent(parent)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(s.JobDisks, p.Spec.JobDisks) || s.Inputs != p.Spec.Inputs || d.conf.InputSize != p.Spec.InputSize || len(s.Disks) > 0 {
		return nil, fmt.Errorf("spec: JobDisks %v, Inputs %d of %d bytes and %d Disks are not those of parent %q: %v, %d of %d and none",
			s.JobDisks, s.Inputs, d.conf.InputSize, len(s.Disks), parent, p.Spec.JobDisks, p.Spec.Inputs, p.Spec.InputSize)
	}
	m, err := d.create(ctx, s)
	if err != nil {
		return nil, err
	}
	spec, err := readSpec(d.dir(m.id), s.Name)
	if err == nil {
		err = m.start(ctx, vm.OpFork, &p, func(c conn, _ bool) error { return d.restore(ctx, c, p, s, spec) })
	}
	if err != nil {
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.conf.KillTimeout)
		defer cancel()
		return nil, errors.Join(err, m.destroy(kctx))
	}
	return m, nil
}

// restore runs the parent's state as the machine, under the parent's lock.
func (d *Driver) restore(ctx context.Context, c conn, p parentRecord, s vm.Spec, spec specRecord) (err error) {
	path := filepath.Join(d.parentDir(p.Name), stateFile)
	lock, err := flock.Wait(ctx, path, os.O_RDWR, syscall.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("parent %q: %w", p.Name, vm.ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	head, err := readSave(lock.File())
	if err != nil {
		return err
	}
	got, err := c.Look(s.Name)
	if err != nil {
		return err
	}
	rec, err := decodeRecord(got.record)
	if err != nil || rec == nil {
		return errors.Join(err, errors.New("its metadata are gone"))
	}
	meta, err := rec.embedded()
	if err != nil {
		return err
	}
	if head.xml, err = p.rewritten(s, spec, d.dir(vm.ID(s.Name)), meta); err != nil {
		return err
	}
	if err := writeSave(lock.File(), head); err != nil {
		return full(err)
	}
	return c.Restore(path, "")
}

// Parents lists the parents that are whole.
func (d *Driver) Parents(ctx context.Context) ([]string, error) {
	_, end, err := d.begin(ctx)
	if err != nil {
		return nil, d.fail(vm.OpParents, "", err)
	}
	defer end()
	entries, err := os.ReadDir(filepath.Join(d.base, parentFolder))
	if err != nil {
		return nil, d.fail(vm.OpParents, "", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !isMachineName(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(d.base, parentFolder, e.Name(), parentFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped since
		}
		var p parentRecord
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		if err != nil {
			return nil, d.fail(vm.OpParents, "", fmt.Errorf("%s: %w", e.Name(), err))
		}
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names, nil
}

// DropParent removes a parent. A machine that is being made from it at this
// moment goes on: the file is open.
func (d *Driver) DropParent(ctx context.Context, parent string) error {
	_, end, err := d.begin(ctx)
	if err != nil {
		return d.fail(vm.OpDropParent, "", err)
	}
	defer end()
	dir := d.parentDir(parent)
	dead := filepath.Join(filepath.Dir(dir), deadPrefix+filepath.Base(dir)+"-"+time.Now().Format("150405.000000000"))
	if err = os.Rename(dir, dead); err == nil {
		err = os.RemoveAll(dead)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return d.fail(vm.OpDropParent, "", err)
}

// Rung is RungRestore: each machine reads the parent's memory for itself.
func (d *Driver) Rung() vm.Rung { return vm.RungRestore }

// As answers for vm.As: what is declared depends on the hypervisor.
func (d *Driver) As(target any) bool {
	switch t := target.(type) {
	case *vm.Forker:
		return give(d.target.can(), vm.CanFork, t, d)
	case *vm.Stocker:
		return give(d.target.can(), vm.CanStock, t, d)
	case *vm.Driver:
		*t = d
		return true
	}
	return false
}
