package libvirt

import (
	"context"
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

// guestSpec is of a small machine with a name of its own.
func guestSpec(g initramfs.Guest) vm.Spec {
	name := "t-" + strings.ToLower(rand.Text()[:10])
	return vm.Spec{
		Name: name, Template: "template of " + name, Memory: 160 << 20,
		Kernel: g.Kernel, Initrd: g.Initrd, Cmdline: g.Cmdline,
		JobDisks: []int64{1 << 20, 64 << 10}, Inputs: 2,
		Secret: vm.Secret("secret-of-" + name),
		Owner:  vm.Owner{Pool: "test", Incarnation: "incarnation-of-" + name, Token: 1},
	}
}

// jobs makes a harness a vmtest.Jobber and Forgetter: its guest's root is
// memory.
type jobs struct{}

func (jobs) Forgets() bool { return true }

func (jobs) Job(ctx context.Context, m vm.Machine, hang bool) ([]byte, error) {
	a, _ := vm.As[vm.Attacher](m)
	d, err := a.JobDisk(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	line := "echo done"
	if hang {
		line = "sleep 600"
	}
	ticket, err := diskio.WriteJob(ctx, d, d.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands(line)}}}, nil)
	if err != nil {
		return nil, err
	}
	return diskio.Go{Nonce: ticket.Nonce}.Encode(), d.Sync(ctx)
}

// faked is a vmtest.Harness over the fake.
type faked struct {
	jobs
	h    *fakeHost
	conf Config
}

func (f faked) Open(ctx context.Context) (vm.Driver, error) { return open(ctx, f.conf, f.h.dial) }

func (f faked) Spec() vm.Spec {
	return guestSpec(initramfs.Guest{Kernel: "/boot/vmlinuz"})
}

func (f faked) Without() vm.Set {
	t, _ := parseURI(f.conf.URI)
	return absentWith(f.conf, t)
}

// absentWith is absent of machines that may have more devices: see withDevices.
func absentWith(c Config, t target) vm.Set {
	set := absent(t)
	if c.Domain != nil {
		set = set&^(vm.CanAddress|vm.CanScreenshot) | vm.CanSave
	}
	return set
}

// withDevices gives domains a network and a screen.
func withDevices(d *libvirtxml.Domain) error {
	d.Devices.Interfaces = append(d.Devices.Interfaces, libvirtxml.DomainInterface{
		Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: "default"}},
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
	})
	return withScreen(d)
}

func withScreen(d *libvirtxml.Domain) error {
	d.Devices.Videos = append(d.Devices.Videos, libvirtxml.DomainVideo{Model: libvirtxml.DomainVideoModel{Type: "vga", VRam: 16384}})
	return nil
}

// absent is said here anew, so that the driver's own table is held against it.
func absent(t target) vm.Set {
	set := vm.CanAddress | vm.CanScreenshot | vm.CanStock
	if t.kind == kindTest || t.remote() {
		set |= vm.CanSave | vm.CanFork
	}
	if t.kind == kindTest {
		set |= vm.CanAttach | vm.CanMessage | vm.CanConsole
	}
	if t.remote() {
		set &^= vm.CanStock
	}
	return set
}

// newFake gives a host and a configuration to reach it.
func newFake(t testing.TB) (*fakeHost, Config) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bpf") // short: sockets are in it
	require.NoError(t, err)
	h := newFakeHost(dir)
	t.Cleanup(func() {
		h.guests.Wait()
		// A guest's folders may be read-only, which stops all but root.
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
		require.NoError(t, os.RemoveAll(dir))
	})
	return h, Config{URI: "qemu:///system", Root: dir + "/r"}
}

func TestConformanceOnAFakeHypervisor(t *testing.T) {
	h, conf := newFake(t)
	vmtest.Run(t, faked{h: h, conf: conf})
}

func TestConformanceOnAFakeHypervisorWithMoreDevices(t *testing.T) {
	h, conf := newFake(t)
	conf.Domain = withDevices
	vmtest.Run(t, faked{h: h, conf: conf})
}

func TestConformanceOnAFakeHypervisorWithoutGuests(t *testing.T) {
	h, conf := newFake(t)
	conf.URI = "test:///default"
	vmtest.Run(t, faked{h: h, conf: conf})
}

func TestConformanceOnAFakeHypervisorFarAway(t *testing.T) {
	h, conf := newFake(t)
	conf.URI = "qemu+ssh://far.example/system"
	vmtest.Run(t, faked{h: h, conf: conf})
}
