//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

// bare is a vmtest.Harness for a hypervisor without guests.
type bare struct {
	t    *testing.T
	conf Config
}

func (h bare) Open(ctx context.Context) (vm.Driver, error) { return Open(ctx, h.conf) }

func (h bare) Spec() vm.Spec {
	s := guestSpec(initramfs.Guest{})
	s.Memory, s.Cmdline = 32<<20, ""
	return s
}

func (h bare) Without() vm.Set {
	t, err := parseURI(h.conf.URI)
	require.NoError(h.t, err)
	return absentWith(h.conf, t)
}

// full is one with guests, and a vmtest.Jobber.
type whole struct {
	bare
	jobs
	guest initramfs.Guest
}

func (h whole) Spec() vm.Spec { return guestSpec(h.guest) }

// testURI is libvirt's test driver, whose state lives as long as a connection.
func openTest(t *testing.T) Config {
	t.Helper()
	needClient(t)
	c := testConfig(t, "test:///default")
	c.Root = t.TempDir()
	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return c
}

func TestConformanceOfTheTestDriver(t *testing.T) {
	vmtest.Run(t, bare{t, openTest(t)})
}

func TestConformanceOfTheEmbeddedDriver(t *testing.T) {
	if !alone(t) {
		return
	}
	g := testGuest(t)
	vmtest.Run(t, whole{bare: bare{t, testConfig(t, embedURI())}, guest: g})
}

func TestConformanceOfTheSystemsDaemon(t *testing.T) {
	if !alone(t) {
		return
	}
	d, g := newDaemon(t)
	vmtest.Run(t, whole{bare: bare{t, d.conf()}, guest: g})
}

func TestConformanceOfTheTestDriverWithMoreDevices(t *testing.T) {
	c := openTest(t)
	c.Domain = withDevices
	vmtest.Run(t, bare{t, c})
}
