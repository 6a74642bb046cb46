package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// Create makes the machine's folder and disks and defines its domain. What it
// cannot do for this kind of hypervisor is refused with errors.ErrUnsupported.
func (d *Driver) Create(ctx context.Context, s vm.Spec) (vm.Machine, error) {
	id := vm.ID(s.Name)
	if err := s.Validate(); err != nil {
		return nil, d.fail(vm.OpCreate, id, err)
	}
	if err := d.supported(s); err != nil {
		return nil, d.fail(vm.OpCreate, id, err)
	}
	late := func(m *machine) { d.takeBack(m) }
	m, err := do(ctx, d, vm.OpCreate, id, late, func(ctx context.Context) (*machine, error) {
		return d.create(ctx, s)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// takeBack destroys a machine that nobody has a handle of.
func (d *Driver) takeBack(m *machine) {
	ctx, cancel := context.WithTimeout(context.Background(), d.conf.KillTimeout)
	defer cancel()
	if err := m.destroy(ctx); err != nil {
		d.log.Warn("a machine that was made too late could not be destroyed", "machine", m.id, "err", err)
	}
}

// supported reports the first field that asks for what cannot be had.
func (d *Driver) supported(s vm.Spec) error {
	if d.target.remote() && s.Console != "" {
		return fmt.Errorf("spec: Console is a file of this computer, and %s is another: %w", d.target.host, errors.ErrUnsupported)
	}
	for i, disk := range s.Disks {
		if d.target.remote() && disk.Path == "" {
			return fmt.Errorf("spec: Disks[%d].Path is empty, but the driver makes no disks on another computer: %w", i, errors.ErrUnsupported)
		}
		if disk.Path == "" && disk.Backing == "" && disk.Size <= 0 {
			return fmt.Errorf("spec: Disks[%d] has neither Path nor Backing, and Size is %d bytes, want more than 0", i, disk.Size)
		}
		if disk.Path == "" && disk.Backing != "" && disk.Format != "qcow2" {
			return fmt.Errorf("spec: Disks[%d].Format is %q, want qcow2 for an overlay", i, disk.Format)
		}
	}
	if s.Kernel == "" && (s.Initrd != "" || s.Cmdline != "") {
		return fmt.Errorf("spec: Kernel is empty, but Initrd is %q and Cmdline %q", s.Initrd, s.Cmdline)
	}
	return nil
}

// create builds the folder beside its place, moves it there whole, and defines
// the domain. A process that dies in between leaves a folder without a domain,
// which is a leftover.
func (d *Driver) create(ctx context.Context, s vm.Spec) (m *machine, err error) {
	_, err = d.lookDomain(ctx, s.Name)
	if err == nil {
		return nil, vm.ErrExists
	}
	if !errors.Is(err, vm.ErrNotFound) {
		return nil, err
	}
	accel, err := d.accelerator(ctx)
	if err != nil {
		return nil, err
	}
	place := d.dir(vm.ID(s.Name))
	if err := hostdir.RemoveUnlocked(place, func() (bool, error) { return d.orphaned(ctx, s.Name) }, os.RemoveAll); err != nil {
		return nil, err
	}
	dir, lock, err := hostdir.New(ctx, d.base, folderMode)
	if err != nil {
		return nil, full(err)
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		err = errors.Join(err, lock.Unlock())
	}()
	desc, err := d.fill(ctx, dir, place, s, accel)
	if err != nil {
		return nil, err
	}
	dom, err := describe(desc)
	if err != nil {
		return nil, err
	}
	text, err := dom.Marshal()
	if err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	// A folder is never moved onto one that is not empty.
	if err := os.Rename(dir, place); err != nil {
		if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			return nil, vm.ErrExists
		}
		return nil, err
	}
	dir = place
	m = &machine{d, vm.ID(s.Name), s.Owner.Incarnation, extras(dom)}
	err = d.line.use(ctx, false, func(c conn) error { return c.Define(text) })
	if err == nil && d.target.remote() {
		if err = d.makeVolumes(ctx, desc.rec); err != nil {
			return nil, errors.Join(err, d.undefineOurs(ctx, desc))
		}
	}
	switch {
	case isLost(err):
		// Whether it was defined will be seen, under another connection.
		err = errors.Join(err, d.undefineOurs(ctx, desc))
	case hasCode(err, codeFailed), hasCode(err, codeInvalid):
		if _, lerr := d.lookDomain(ctx, s.Name); lerr == nil {
			err = fmt.Errorf("%w: %w", vm.ErrExists, err)
		}
	case err == nil:
		if err = context.Cause(ctx); err != nil {
			err = errors.Join(err, d.undefineOurs(ctx, desc))
		}
	}
	if err != nil {
		return nil, err
	}
	done = true
	return m, nil
}

// undefineOurs removes a domain that was defined in vain.
func (d *Driver) undefineOurs(ctx context.Context, desc described) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.conf.KillTimeout)
	defer cancel()
	if err := d.removeVolumes(ctx, desc.meta); err != nil {
		return err
	}
	err := d.line.use(ctx, true, func(c conn) error { return c.Undefine(desc.rec.Name) })
	if hasCode(err, codeNoDomain) {
		return nil
	}
	return err
}

// fill makes what a new machine consists of.
func (d *Driver) fill(ctx context.Context, dir, place string, s vm.Spec, accel accelerator) (described, error) {
	now := time.Now().UTC()
	rec := specRecord{
		Version: specVersion, Name: s.Name, UUID: uuid.NewString(), Incarnation: s.Owner.Incarnation, Template: s.Template, Created: now,
		JobDisks: s.JobDisks, Inputs: s.Inputs, InputSize: d.conf.InputSize, Console: s.Console, Socket: d.socketPath(s.Name),
		Properties: s.Properties, OnExit: s.OnExit,
	}
	desc := described{spec: s, dir: place, host: d.host, accel: accel, target: d.target, memory: s.Memory,
		emu: d.conf.Emulator, machine: d.conf.MachineType, hook: d.conf.Domain}
	if desc.memory == 0 {
		desc.memory = d.conf.Memory
	}
	if accel.kind == "qemu" && d.host.arch == "x86_64" && !d.target.remote() {
		// QEMU gives an emulated guest this computer's own counter.
		desc.counter = d.counter()
	}
	desc.meta = record{Version: recordVersion, Template: s.Template, Created: now, Dir: place, Incarnation: s.Owner.Incarnation, Owner: s.Owner,
		OnExit: s.OnExit.String(), Accelerator: accel.String(), Why: accel.why}
	var err error
	if d.target.remote() {
		return d.fillFar(ctx, dir, desc, rec)
	}
	if rec.Console == "" {
		rec.Console = filepath.Join(place, consoleFile)
		// It is there before QEMU, so that whoever made the machine may read it.
		err = os.WriteFile(filepath.Join(dir, consoleFile), nil, 0o600)
	} else {
		rec.Console, err = filepath.Abs(rec.Console)
	}
	if err != nil {
		return desc, full(err)
	}
	for n, size := range s.JobDisks {
		if err := makeDisk(filepath.Join(dir, jobDiskFile(n)), size, fmt.Sprintf("spec: JobDisks[%d]", n)); err != nil {
			return desc, err
		}
	}
	for place := range s.Inputs {
		if err := makeDisk(filepath.Join(dir, inputFile(place)), d.conf.InputSize, "Config.InputSize"); err != nil {
			return desc, err
		}
	}
	for n, disk := range s.Disks {
		if err := context.Cause(ctx); err != nil {
			return desc, err
		}
		if disk.Path == "" {
			if err := makeOverlay(filepath.Join(dir, diskFile(n)), disk); err != nil {
				return desc, fmt.Errorf("spec: Disks[%d]: %w", n, full(err))
			}
			disk.Path = filepath.Join(place, diskFile(n))
		}
		desc.disks = append(desc.disks, disk)
		if !disk.ReadOnly {
			rec.Disks++
		}
	}
	return desc.kept(dir, rec)
}

// kept writes what is known of a new machine into its folder.
func (d described) kept(dir string, rec specRecord) (described, error) {
	if s := d.spec; s.Secret != "" {
		if err := os.WriteFile(filepath.Join(dir, secretFile), []byte(s.Secret.Reveal()), 0o600); err != nil {
			return d, full(err)
		}
	}
	d.rec = rec
	return d, full(writeRecord(filepath.Join(dir, specFile), rec))
}

// fillFar is fill for another computer, where disks are volumes. The folder here
// has the records.
func (d *Driver) fillFar(ctx context.Context, dir string, desc described, rec specRecord) (described, error) {
	for _, disk := range desc.spec.Disks {
		desc.disks = append(desc.disks, disk)
		if !disk.ReadOnly {
			rec.Disks++
		}
	}
	rec.Socket = "" // libvirt chooses
	rec.FarConsole = volumeName(rec.Name, "console")
	if len(volumes(rec)) > 0 {
		desc.meta.Pool, desc.meta.Spec = d.conf.Pool, &rec
		err := d.line.use(ctx, true, func(c conn) (err error) {
			desc.pool, err = c.PoolPath(d.conf.Pool)
			return err
		})
		if err != nil {
			return desc, fmt.Errorf("storage pool %q (Config.Pool): %w", d.conf.Pool, err)
		}
	}
	return desc.kept(dir, rec)
}
