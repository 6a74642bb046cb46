package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/calls"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// Driver makes machines that are process groups. It is a vm.Driver; Open makes
// it and Close ends it. It is safe for concurrent use, and any number of
// drivers, in any number of processes of one user, may share a root.
type Driver struct {
	conf   Config
	root   string
	hostID string
	log    *slog.Logger
	calls  *calls.Gate
	launch *launcher

	mu     sync.Mutex
	runs   map[vm.ID]*run // started by this driver and not over
	starts map[vm.ID]bool // being started by this driver
}

// Open checks the configuration, the root and /proc, removes what dead
// harnesses left half made, and starts nothing but one thread, from which
// machines are started. The caller closes the driver.
func Open(c Config) (*Driver, error) {
	conf, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkProc(); err != nil {
		return nil, err
	}
	root, err := hostdir.MakeRoot(conf.Root, 0o700)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	id, err := hostID(root)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		conf: conf, root: root, hostID: id, log: conf.Logger.With("driver", "local"),
		launch: newLauncher(), calls: calls.New(),
		runs: make(map[vm.ID]*run), starts: make(map[vm.ID]bool),
	}
	err = d.removeLeftovers()
	if err == nil {
		err = removeStaleAddresses(root)
	}
	if err != nil {
		d.launch.close()
		return nil, fmt.Errorf("local: root %s: %w", root, err)
	}
	return d, nil
}

// HostID is the same for all who use this root on this computer.
func (d *Driver) HostID() string { return d.hostID }

// Root is the folder of the machines.
func (d *Driver) Root() string { return d.root }

// begin enters a call: the context it gives ends with Close too. Each call has
// to leave by the function it was given.
func (d *Driver) begin(ctx context.Context) (context.Context, func(), error) {
	return d.calls.Enter(ctx)
}

// fail makes the error of an operation.
func (d *Driver) fail(op string, id vm.ID, err error) error {
	if err == nil {
		return nil
	}
	return &vm.OpError{Op: op, Driver: d.hostID, ID: id, Err: err}
}

// Create makes the machine's folder. Of the Spec, CPUs and Memory are wishes
// that are not enforced; firmware, kernel, disks, network and OnExit Survive
// are refused with errors.ErrUnsupported, for they would be silently missing.
func (d *Driver) Create(ctx context.Context, s vm.Spec) (vm.Machine, error) {
	id := vm.ID(s.Name)
	if err := s.Validate(); err != nil {
		return nil, d.fail("create", id, err)
	}
	if err := supported(s); err != nil {
		return nil, d.fail("create", id, err)
	}
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return nil, d.fail("create", id, err)
	}
	defer end()
	if err := d.create(ctx, s); err != nil {
		return nil, d.fail("create", id, err)
	}
	return &machine{d, id, s.Owner.Incarnation}, nil
}

// supported reports the first field that asks for what a process group is not.
func supported(s vm.Spec) error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Firmware", s.Firmware != ""}, {"Kernel", s.Kernel != ""}, {"Initrd", s.Initrd != ""}, {"Cmdline", s.Cmdline != ""},
		{"Disks", len(s.Disks) > 0}, {"Network", s.Network != ""},
	} {
		if f.set {
			return fmt.Errorf("spec: %s is set, but a local machine is a process group: %w", f.name, errors.ErrUnsupported)
		}
	}
	if s.OnExit != vm.Die {
		return fmt.Errorf("spec: OnExit is %v, but a local machine always ends with its harness, want die: %w", s.OnExit, errors.ErrUnsupported)
	}
	if strings.IndexByte(s.Owner.Incarnation, 0) >= 0 {
		return fmt.Errorf("spec: Owner.Incarnation is %q, want no zero byte", s.Owner.Incarnation)
	}
	return nil
}

// create builds the folder beside its place and moves it there whole.
func (d *Driver) create(ctx context.Context, s vm.Spec) (err error) {
	place := filepath.Join(d.root, s.Name)
	if _, err := os.Lstat(place); err == nil {
		return vm.ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, lock, err := hostdir.New(ctx, d.root, 0o700)
	if err != nil {
		return err
	}
	moved := false
	defer func() {
		if !moved {
			err = errors.Join(err, removeTree(dir))
		}
		err = errors.Join(err, lock.Unlock())
	}()
	if err := fill(dir, place, s); err != nil {
		return err
	}
	addresses, err := lockAddresses(ctx, d.root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, addresses.Unlock()) }()
	link, err := takeAddress(d.root, dir, s.Name, s.Owner.Incarnation)
	if err != nil {
		return err
	}
	if err = context.Cause(ctx); err == nil {
		err = os.Rename(dir, place)
	}
	if err != nil {
		// A folder is never moved onto one that is not empty.
		if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			err = vm.ErrExists
		}
		return errors.Join(err, os.Remove(link))
	}
	moved = true
	return nil
}

// fill makes what a new machine consists of.
func fill(dir, place string, s vm.Spec) error {
	r := specRecord{
		Version: specVersion, Name: s.Name, Template: s.Template, Incarnation: s.Owner.Incarnation, Mark: rand.Text(),
		Created: time.Now().UTC(), JobDisks: s.JobDisks, Inputs: s.Inputs, Console: s.Console, Properties: s.Properties,
	}
	if r.Console == "" {
		r.Console = filepath.Join(place, consoleFile)
	} else if abs, err := filepath.Abs(r.Console); err == nil {
		r.Console = abs
	} else {
		return err
	}
	for _, sub := range []string{guestRoot, guestWork, guestHome, guestTmp} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	for i, size := range s.JobDisks {
		f, err := os.OpenFile(filepath.Join(dir, jobDiskFile(i)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			if errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EINVAL) {
				err = fmt.Errorf("spec: JobDisks[%d] is %d bytes: %w: %w", i, size, vm.ErrTooLarge, err)
			}
			return err
		}
	}
	if s.Secret != "" {
		if err := os.WriteFile(filepath.Join(dir, secretFile), []byte(s.Secret.Reveal()), 0o600); err != nil {
			return err
		}
	}
	if err := writeRecord(filepath.Join(dir, ownerFile), s.Owner, true); err != nil {
		return err
	}
	return writeRecord(filepath.Join(dir, specFile), r, true)
}

// Open finds a machine.
func (d *Driver) Open(ctx context.Context, id vm.ID) (vm.Machine, error) {
	_, end, err := d.begin(ctx)
	if err != nil {
		return nil, d.fail("open", id, err)
	}
	defer end()
	if !isMachineName(string(id)) {
		return nil, d.fail("open", id, vm.ErrNotFound)
	}
	spec, err := d.readSpec(id)
	if err != nil {
		return nil, d.fail("open", id, err)
	}
	return &machine{d, id, spec.Incarnation}, nil
}

// readSpec answers vm.ErrNotFound when there is no such folder, and another
// error when there is one that is not a whole machine.
func (d *Driver) readSpec(id vm.ID) (specRecord, error) {
	var s specRecord
	dir := filepath.Join(d.root, string(id))
	err := readRecord(filepath.Join(dir, specFile), &s)
	if err == nil && (s.Version != specVersion || s.Name != string(id)) {
		err = fmt.Errorf("%s is of version %d and machine %q, want %d and %q", filepath.Join(dir, specFile), s.Version, s.Name, specVersion, id)
	}
	if err == nil {
		return s, nil
	}
	if _, lerr := os.Lstat(dir); errors.Is(lerr, fs.ErrNotExist) {
		return s, vm.ErrNotFound
	}
	return s, fmt.Errorf("%w: the folder is no whole machine; when nothing in it is needed, remove %s", err, dir)
}

func isMachineName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsRune(name, '/')
}

// List looks at every machine in the root. What of the root cannot be read is
// an error that names it and what to do.
func (d *Driver) List(ctx context.Context) ([]vm.Info, error) {
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return nil, d.fail("list", "", err)
	}
	defer end()
	if err := d.removeLeftovers(); err != nil {
		return nil, d.fail("list", "", err)
	}
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return nil, d.fail("list", "", err)
	}
	infos := make([]vm.Info, 0, len(entries))
	for _, e := range entries {
		if !isMachineName(e.Name()) {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, d.fail("list", "", err)
		}
		info, err := (&machine{d: d, id: vm.ID(e.Name())}).look()
		if errors.Is(err, vm.ErrNotFound) {
			continue // removed since the folder was read
		}
		if err != nil {
			return nil, d.fail("list", vm.ID(e.Name()), err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Close kills the machines that this driver has started, waits for all its
// goroutines and for calls in progress, whose contexts it ends. Folders stay:
// they are for Destroy. It is idempotent.
func (d *Driver) Close() error {
	// A start in progress sees its context end and takes back what it began.
	return d.calls.Close(d.killAll, func() error {
		d.launch.close()
		return nil
	})
}

// killAll ends what this driver has started.
func (d *Driver) killAll() error {
	var errs []error
	for _, r := range d.running() {
		ctx, cancel := context.WithTimeout(context.Background(), d.conf.KillTimeout)
		if err := r.kill(ctx, "the driver was closed"); err != nil {
			errs = append(errs, d.fail("close", r.id, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

func (d *Driver) running() []*run {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*run, 0, len(d.runs))
	for _, r := range d.runs {
		all = append(all, r)
	}
	return all
}
