//go:build linux && cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hugelgupf/vmtest/qemu"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
)

// world is what the bars of real machines are measured with: libvirt's embedded
// driver, emulated processors, which are everywhere, and one kernel.
type world struct {
	dir    string
	driver *libvirt.Driver
	conn   *lv.Connect
	spec   vm.Spec
	bares  []*bare
	peer   string // ramdisk of the peer's guest
}

const worldParent = "peerbench"

// newWorld takes some ten seconds.
func newWorld(ctx context.Context) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "bpp"); err != nil { // short: sockets are in it
		return nil, err
	}
	if os.Getenv("LIBVIRT_LOG_OUTPUTS") == "" { // libvirt warns of each start as root
		if err := os.Setenv("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null"); err != nil {
			return nil, err
		}
	}
	root := ""
	if kernel := os.Getenv("BULLPEN_KERNEL"); kernel != "" {
		root = filepath.Dir(filepath.Dir(kernel))
	}
	parts, err := initramfs.Find(root)
	if err != nil {
		return nil, err
	}
	build := func(of string, modules []string) (initramfs.Guest, error) {
		program := filepath.Join(w.dir, filepath.Base(of))
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s", "-o", program, of)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			return initramfs.Guest{}, fmt.Errorf("build %s: %w: %s", of, err, text)
		}
		return initramfs.Build(ctx, initramfs.Config{Parts: parts, Agent: program, Modules: modules, Dir: w.dir})
	}
	ours, err := build("github.com/bullpen-vm/bullpen/examples/agent", nil)
	if err != nil {
		return nil, err
	}
	parts.Busybox = "" // the peer's guest is its program alone
	theirs, err := build("./coldinit", []string{})
	if err != nil {
		return nil, err
	}
	w.peer = theirs.Initrd
	uri := "qemu:///embed?root=" + filepath.Join(w.dir, "e")
	var described *libvirtxml.Domain
	var once sync.Once
	if w.driver, err = libvirt.Open(ctx, libvirt.Config{URI: uri, ForceTCG: true, Domain: func(d *libvirtxml.Domain) error {
		once.Do(func() { described = d })
		return nil
	}}); err != nil {
		return nil, err
	}
	w.spec = vm.Spec{Kernel: ours.Kernel, Initrd: ours.Initrd, Cmdline: ours.Cmdline, Memory: 160 << 20, JobDisks: []int64{jobBytes}, Inputs: 1}
	if err := vm.MakeParent(ctx, w.driver, worldParent, w.named()); err != nil {
		return nil, err
	}
	if w.conn, err = lv.NewConnect(uri); err != nil {
		return nil, err
	}
	for i := range 2 {
		b, err := newBare(w.conn, described, w.dir, fmt.Sprintf("bare-%d", i))
		if err != nil {
			return nil, err
		}
		w.bares = append(w.bares, b)
	}
	if err := w.bares[0].boot(ctx); err != nil {
		return nil, err
	}
	return w, w.bares[0].save()
}

// named is the Spec of a new machine.
func (w *world) named() vm.Spec {
	s, id := w.spec, strings.ToLower(rand.Text()[:10])
	s.Name, s.Template, s.Secret, s.OnExit = "pb-"+id, "bench", vm.Secret(rand.Text()), vm.Die
	s.Owner = vm.Owner{Pool: "peerbench", Incarnation: uuid.NewString()}
	return s
}

func (w *world) close() error {
	var errs []error
	for _, b := range w.bares {
		errs = append(errs, b.destroy())
	}
	if w.conn != nil {
		_, err := w.conn.Close()
		errs = append(errs, err)
	}
	if w.driver != nil {
		errs = append(errs, w.driver.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// pool makes a pool of that many machines, and waits until all are ready.
func (w *world) pool(ctx context.Context, machines int) (*pool.Pool, error) {
	p, err := pool.New(pool.Config{
		Name:      "peerbench",
		Hosts:     []pool.Host{{Name: "here", Driver: w.driver, Slots: machines}},
		Templates: []pool.Template{{Name: "bench", Spec: w.spec, Ready: machines, Parent: worldParent}},
	})
	if err != nil {
		return nil, err
	}
	if err := allReady(ctx, p, machines); err != nil {
		return nil, errors.Join(err, p.Close(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func allReady(ctx context.Context, p *pool.Pool, machines int) error {
	for p.Stats().Ready < machines {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	if s := p.Stats(); s.Failures > 0 {
		return fmt.Errorf("machines failed: %+v", s)
	}
	return nil
}

// pooled runs a job on a machine of the pool, gives the machine back, and gives
// when its first line came.
func pooled(ctx context.Context, p *pool.Pool) (first time.Time, err error) {
	g, err := p.Acquire(ctx, pool.Want{})
	if err != nil {
		return first, err
	}
	say := rand.Text()
	var at atomic.Pointer[time.Time]
	r, err := runner.Run(ctx, g, sayJob(say), runner.Options{Progress: func(_ *pool.Guest, p diskio.Progress) {
		if now := time.Now(); p.What == "output" {
			at.CompareAndSwap(nil, &now)
		}
	}})
	err = errors.Join(err, r.Infra, g.Release(ctx, r.Release))
	if err != nil {
		return first, err
	}
	if at.Load() == nil {
		return first, fmt.Errorf("no line came: %s: %s", r.Status, r.Message)
	}
	return *at.Load(), said(r.Steps, say)
}

// restored makes a machine from the parent and has it run a job: until it is ready,
// and until its job is done.
func (w *world) restored(ctx context.Context) (ready, done time.Duration, err error) {
	began := time.Now()
	r, err := vm.Renew(ctx, nil, vm.Policy{Driver: w.driver, Spec: w.named(), Parent: worldParent, Rungs: []vm.Rung{vm.RungRestore}})
	if err != nil {
		return 0, 0, err
	}
	ready = time.Since(began)
	defer func() { err = keep(err, r.Machine.Destroy(context.WithoutCancel(ctx))) }()
	a, ok := vm.As[vm.Attacher](r.Machine)
	if !ok {
		return 0, 0, errors.New("the machine has no job disks")
	}
	disk, err := a.JobDisk(ctx, 0)
	if err != nil {
		return 0, 0, err
	}
	defer disk.Close()
	say := rand.Text()
	ticket, err := diskio.WriteJob(ctx, disk, disk.Size(), []diskio.Part{{ID: "t", Job: sayJob(say)}}, nil)
	if err != nil {
		return 0, 0, err
	}
	if _, err := vm.Run(ctx, r.Machine, vm.RunOptions{Go: diskio.Go{Nonce: ticket.Nonce}.Encode()}); err != nil {
		return 0, 0, err
	}
	results, err := diskio.ReadResults(ctx, disk, disk.Size(), ticket, nil)
	if err != nil {
		return 0, 0, err
	}
	return ready, time.Since(began), said(results.Parts[0].Steps, say)
}

// theirs boots a machine for one test with hugelgupf/vmtest, from the ask to the
// machine's end.
func (w *world) theirs(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	say := rand.Text()
	m, err := qemu.StartContext(ctx, qemu.ArchAMD64,
		qemu.WithQEMUCommand("qemu-system-x86_64 -m 160M -nodefaults -no-user-config -serial stdio"),
		qemu.WithKernel(w.spec.Kernel), qemu.WithInitramfs(w.peer), qemu.WithAppendKernel(w.spec.Cmdline+" say="+say))
	if err != nil {
		return 0, err
	}
	_, err = m.Console.ExpectString(say)
	if werr := m.Wait(); err == nil {
		err = werr
	}
	return time.Since(began), err
}
