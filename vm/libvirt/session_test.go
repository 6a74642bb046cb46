//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// The user's own daemon is spawned by libvirt's library.
func TestAMachineOfASessionRunsAJob(t *testing.T) {
	if !alone(t) {
		return
	}
	g := testGuest(t)
	need.Tool(t, "libvirtd")
	need.Thing(t, "unprivileged user", func(context.Context) error {
		if os.Geteuid() == 0 {
			return errors.New("root's session is the system; run this test as another user, with BULLPEN_AGENT")
		}
		return nil
	})
	dir, err := os.MkdirTemp("", "bps")
	require.NoError(t, err)
	for _, v := range []string{"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"} {
		t.Setenv(v, filepath.Join(dir, v))
		require.NoError(t, os.MkdirAll(filepath.Join(dir, v, "libvirt"), 0o700))
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	conf := filepath.Join(dir, "XDG_CONFIG_HOME", "libvirt", "qemu.conf")
	require.NoError(t, os.WriteFile(conf, []byte("stdio_handler = \"file\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n"), 0o600))
	t.Cleanup(func() {
		pid, _ := os.ReadFile(filepath.Join(dir, "XDG_RUNTIME_DIR", "libvirt", "libvirtd.pid"))
		if n, err := strconv.Atoi(strings.TrimSpace(string(pid))); err == nil && n > 1 {
			_ = syscall.Kill(n, syscall.SIGTERM)
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	c := testConfig(t, "qemu:///session")
	c.Root = filepath.Join(dir, "r")
	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	m := boot(t, d, guestSpec(g))
	results := runJob(t, m, nil, "echo from a session")
	assert.Equal(t, "from a session\n", string(results.Parts[0].Steps[0].Stdout))
}
