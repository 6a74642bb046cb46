package libvirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// accelerator chooses how machines' processors are made, once for the driver:
// KVM only after a tiny guest passed under it, for the device may be there and
// hang.
func (d *Driver) accelerator(ctx context.Context) (accelerator, error) {
	d.probe.Lock()
	defer d.probe.Unlock()
	if d.accel != nil {
		return *d.accel, nil
	}
	a, err := d.chooseAccelerator(ctx)
	if err == nil {
		d.accel = &a
		d.log.Info("accelerator", "kind", a.String(), "why", a.why)
	}
	return a, err
}

func (d *Driver) chooseAccelerator(ctx context.Context) (accelerator, error) {
	switch {
	case d.target.kind == kindTest:
		return accelerator{"test", "the test driver runs no guests"}, nil
	case d.conf.ForceTCG:
		return accelerator{"qemu", "Config.ForceTCG is set"}, nil
	case !d.host.types["kvm"]:
		return accelerator{"qemu", "the hypervisor offers no KVM"}, nil
	case d.target.remote():
		// The tiny guest's disk is a file of this computer.
		return accelerator{"kvm", "the hypervisor, which is another computer, offers it; it was not tried"}, nil
	}
	key, err := d.verdictKey()
	if err != nil {
		return accelerator{}, err
	}
	if a := d.recall(key); a != nil {
		return *a, nil
	}
	took, err := d.tryKVM(ctx)
	switch {
	case context.Cause(ctx) != nil:
		return accelerator{}, context.Cause(ctx)
	case isLost(err):
		return accelerator{}, err
	}
	a := accelerator{"kvm", fmt.Sprintf("a tiny guest passed under it in %v", took.Round(time.Millisecond))}
	if err != nil {
		a = accelerator{"qemu", fmt.Sprintf("KVM was tried and did not work: %v", err)}
	}
	d.remember(key, a)
	return a, nil
}

// bootSector is a guest that restarts its machine at once, by the keyboard
// controller: mov al, 0xfe; out 0x64, al; hlt; jmp to the hlt.
func bootSector() []byte {
	b := make([]byte, 512)
	copy(b, []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd})
	b[510], b[511] = 0x55, 0xaa
	return b
}

// tryKVM runs the tiny guest.
func (d *Driver) tryKVM(ctx context.Context) (took time.Duration, err error) {
	if d.host.arch != "x86_64" {
		return 0, fmt.Errorf("there is no tiny guest for %s to try it with", d.host.arch)
	}
	name := "bullpen-probe-" + rand.Text()
	defer d.removeLog(name)
	dir, lock, err := hostdir.New(ctx, d.base, folderMode)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir), lock.Unlock()) }()
	disk := filepath.Join(dir, "boot")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		return 0, err
	}
	dom := &libvirtxml.Domain{
		Type: "kvm", Name: name, UUID: uuid.NewString(),
		Memory: &libvirtxml.DomainMemory{Value: 16, Unit: "MiB"}, VCPU: &libvirtxml.DomainVCPU{Value: 1},
		OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: d.host.arch, Machine: "pc", Type: "hvm"},
			BootDevices: []libvirtxml.DomainBootDevice{{Dev: "hd"}}},
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Emulator:    d.conf.Emulator,
			Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
			MemBalloon:  &libvirtxml.DomainMemBalloon{Model: "none"},
		},
	}
	addDisk(dom.Devices, disk, "raw", "writeback", "", true, &libvirtxml.DomainDiskBackingStore{})
	text, err := dom.Marshal()
	if err != nil {
		return 0, err
	}
	limit := d.conf.ProbeTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the tiny guest did not end within %v", limit))
	defer cancel()
	// A start may hang with the device. It is left behind then; when it comes
	// back, the guest is removed.
	type started struct{ err error }
	out := make(chan started, 1)
	began := time.Now()
	d.calls.Keep() // inside Create's own, so Close is not past its wait
	go func() {
		defer d.calls.Done()
		err := d.line.use(context.WithoutCancel(ctx), false, func(c conn) error { return c.Run(text, d.target.autoDestroy()) })
		out <- started{err}
		if err == nil && ctx.Err() != nil {
			d.removeProbe(name)
		}
	}()
	select {
	case s := <-out:
		if s.err != nil {
			return 0, s.err
		}
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer d.removeProbe(name)
	for {
		next := d.hub.next(name)
		got, err := d.lookDomain(ctx, name)
		if err != nil || !active(got.state) {
			if hasCode(err, codeNoDomain) || err == nil {
				return time.Since(began), nil
			}
			return 0, err
		}
		t := time.NewTimer(d.conf.Poll / 10)
		select {
		case <-next:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
	}
}

// removeProbe ends the tiny guest where it is still there.
func (d *Driver) removeProbe(name string) {
	d.hub.forget(name)
	err := d.line.use(context.Background(), true, func(c conn) error { return c.Kill(name) })
	if err != nil && !hasCode(err, codeNoDomain) && !hasCode(err, codeInvalid) {
		d.log.Warn("the tiny guest that tried KVM could not be removed", "domain", name, "err", err)
	}
}

// autoDestroy reports whether a domain can be made to end with its connection.
func (t target) autoDestroy() bool { return t.kind == kindSession || t.kind == kindSystem }
