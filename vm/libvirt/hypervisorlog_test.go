package libvirt

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
)

// libvirt keeps a log for each name for ever, and each machine has a new name.
func TestAMachinesLogGoesWithIt(t *testing.T) {
	h, conf := newFake(t)
	root := t.TempDir()
	conf.URI = "qemu:///embed?root=" + root
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer d.Close()
	m, err := d.Create(t.Context(), guestSpec(initramfs.Guest{Kernel: "/boot/vmlinuz"}))
	require.NoError(t, err)
	dir := filepath.Join(root, "log", "qemu")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	own, older, other := filepath.Join(dir, string(m.ID())+".log"), filepath.Join(dir, string(m.ID())+".log.0"), filepath.Join(dir, "other.log")
	for _, name := range []string{own, older, other} {
		require.NoError(t, os.WriteFile(name, nil, 0o600))
	}
	require.NoError(t, m.Destroy(t.Context()))
	assert.NoFileExists(t, own)
	assert.NoFileExists(t, older)
	assert.FileExists(t, other)
}

func TestOnlyHypervisorsOfThisComputerHaveLogsHere(t *testing.T) {
	for uri, want := range map[string]string{
		"qemu:///system": "/var/log/libvirt/qemu", "qemu:///embed?root=/r": "/r/log/qemu", "qemu+ssh://far.example/system": "", "test:///default": "",
	} {
		got, err := parseURI(uri)
		require.NoError(t, err)
		assert.Equal(t, want, got.logFolder(), uri)
	}
	t.Setenv("XDG_CACHE_HOME", "/c")
	got, err := parseURI("qemu:///session")
	require.NoError(t, err)
	assert.Equal(t, "/c/libvirt/qemu/log", got.logFolder())
}
