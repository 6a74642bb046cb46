package libvirt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/calls"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
	"github.com/bullpen-vm/bullpen/vm/libvirt/internal/tsc"
)

// Driver makes virtual machines through libvirt. It is a vm.Driver; Open makes
// it and Close ends it. It is safe for concurrent use, and any number of
// drivers, in any number of processes, may share a hypervisor and a root; but an
// embedded one belongs to one process at a time.
type Driver struct {
	conf   Config
	target target
	host   host
	hostID string
	base   string // the folder of this hypervisor's machines
	log    *slog.Logger
	line   *line
	hub    *hub
	calls  *calls.Gate

	probe sync.Mutex // held while KVM is tried
	accel *accelerator

	counter func() int // kHz of this computer's time stamp counter; zero: unknown

	mu     sync.Mutex
	runs   map[vm.ID]*run // started by this driver and not over
	starts map[vm.ID]bool // being started by this driver
}

// open is Open with the way to connect.
func open(ctx context.Context, c Config, dial dial) (*Driver, error) {
	conf, t, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	fail := func(err error) error { return &vm.OpError{Op: vm.OpOpen, Driver: conf.URI, Err: err} }
	if t.kind == kindEmbed {
		if err := prepareEmbed(t.root, os.Geteuid() == 0); err != nil {
			return nil, fail(err)
		}
	}
	d := &Driver{calls: calls.New(), conf: conf, target: t, hub: newHub(), runs: map[vm.ID]*run{}, starts: map[vm.ID]bool{}}
	d.line = newLine(conf.URI, dial, d.hub, conf.Reconnect, conf.Logger)
	if err := d.line.open(ctx); err != nil {
		return nil, fail(err)
	}
	if err := d.prepare(ctx); err != nil {
		return nil, fail(errors.Join(err, d.line.close()))
	}
	d.log = conf.Logger.With("driver", d.hostID)
	d.counter = sync.OnceValue(func() int { return tsc.Rate(d.calls.Context()) })
	if err := d.removeLeftovers(ctx); err != nil {
		return nil, fail(errors.Join(err, d.line.close()))
	}
	return d, nil
}

// prepare finds out who the hypervisor is and makes the folder.
func (d *Driver) prepare(ctx context.Context) error {
	err := d.line.use(ctx, true, func(c conn) error {
		text, err := c.Capabilities()
		if err == nil {
			d.host, err = parseHost(text)
		}
		return err
	})
	if err != nil {
		return err
	}
	if d.hostID, err = hostID(d.target, d.host); err != nil {
		return err
	}
	key := sha256.Sum256([]byte(d.hostID))
	root, err := hostdir.MakeRoot(d.conf.Root, folderMode)
	if err != nil {
		return err
	}
	d.base = filepath.Join(root, hex.EncodeToString(key[:6]))
	d.log = d.conf.Logger
	for _, sub := range []string{"", socketFolder, parentFolder} {
		if err := hostdir.Mkdir(filepath.Join(d.base, sub), folderMode); err != nil {
			return err
		}
	}
	return nil
}

// prepareEmbed makes the root of an embedded driver, with a configuration that
// works without any daemon, unless there is one.
func prepareEmbed(root string, isRoot bool) error {
	etc := filepath.Join(root, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	text := "# Written by bullpen because there was none. There is no virtlogd:\nstdio_handler = \"file\"\n"
	if isRoot {
		text += "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ndynamic_ownership = 0\nremember_owner = 0\ncgroup_controllers = []\nnamespaces = []\n"
	}
	f, err := os.OpenFile(filepath.Join(etc, "qemu.conf"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// hostID is the same for all who reach this hypervisor. libvirt's UUID of the
// host is random where neither its firmware nor its configuration has one: an
// embedded driver and a session are therefore known by this computer and their
// folder or user.
func hostID(t target, h host) (string, error) {
	var parts []string
	switch t.kind {
	case kindTest:
		// It is in this process and ends with it.
		start, err := os.ReadFile("/proc/self/stat")
		if err != nil {
			return "", err
		}
		fields := strings.Fields(string(start[strings.LastIndexByte(string(start), ')')+1:]))
		if len(fields) < 20 {
			return "", errors.New("/proc/self/stat has no start time")
		}
		parts = []string{thisComputer(), fmt.Sprint(os.Getpid()), fields[19]}
	case kindEmbed:
		real, err := filepath.EvalSymlinks(t.root)
		if err != nil {
			return "", err
		}
		fi, err := os.Stat(real)
		if err != nil {
			return "", err
		}
		st := fi.Sys().(*syscall.Stat_t)
		parts = []string{thisComputer(), real, fmt.Sprint(st.Dev, st.Ino)}
	case kindSession:
		parts = []string{thisComputer(), fmt.Sprint(os.Getuid()), t.socket}
	case kindSystem:
		if h.uuid == "" {
			return "", errors.New("the hypervisor has no host UUID: set host_uuid in its libvirtd.conf")
		}
		parts = []string{h.uuid, t.socket}
	}
	sum := sha256.Sum256([]byte("bullpen libvirt host\n" + strings.Join(parts, "\n")))
	return "libvirt-" + t.kind.String() + "-" + hex.EncodeToString(sum[:10]), nil
}

// thisComputer is its machine id, or where it has none that of its last start.
func thisComputer() string {
	for _, path := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id"} {
		if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return strings.TrimSpace(string(b))
		}
	}
	return "unknown"
}

// HostID is the same for all who reach this hypervisor.
func (d *Driver) HostID() string { return d.hostID }

// Root is the folder of this hypervisor's machines, below Config.Root.
func (d *Driver) Root() string { return d.base }

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
	var oe *vm.OpError
	if errors.As(err, &oe) && oe.Op == op && oe.ID == id {
		return err
	}
	return &vm.OpError{Op: op, Driver: d.hostID, ID: id, Err: err}
}

// do runs an operation in a goroutine of its own, since libvirt's calls cannot be
// stopped, and answers when it has ended or the context has, whichever is first.
// A body looks at its context after each call and takes back what it did in
// vain; late takes back a success that came too late for that, and may be nil.
func do[T any](ctx context.Context, d *Driver, op string, id vm.ID, late func(T), body func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	ctx, end, err := d.begin(ctx)
	if err != nil {
		return none, d.fail(op, id, err)
	}
	out := make(chan outcome, 1)
	var settled atomic.Bool // by whoever was first: the body with its result, or the caller who left
	go func() {
		defer end()
		v, err := body(ctx)
		if settled.CompareAndSwap(false, true) {
			out <- outcome{v, err}
		} else if err == nil && late != nil {
			late(v)
		}
	}()
	select {
	case o := <-out:
		return o.value, d.fail(op, id, o.err)
	case <-ctx.Done():
	}
	if cause := context.Cause(ctx); settled.CompareAndSwap(false, true) {
		return none, d.fail(op, id, cause)
	}
	o := <-out
	return o.value, d.fail(op, id, o.err)
}

// Close ends the machines that this driver has started with OnExit Die, waits
// for all its goroutines and for calls in progress, whose contexts it ends, and
// releases the connection. Definitions and folders stay: they are for Destroy. It
// is idempotent. A call that libvirt does not answer is waited for.
func (d *Driver) Close() error {
	return d.calls.Close(d.killAll, func() error { return d.line.close() })
}

// killAll ends what this driver has started and leaves what is to survive.
func (d *Driver) killAll() error {
	var errs []error
	for _, r := range d.running() {
		errs = append(errs, r.part())
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

// own gives the run of a machine that this driver started; nil when it did not.
func (d *Driver) own(id vm.ID) *run {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs[id]
}
