//go:build cgo && (libvirt || libvirt_dlopen)

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
)

// The hypervisor is one of its own, embedded in whoever uses it.
func TestOnRealMachinesThoseOfAKilledHarnessAreDestroyed(t *testing.T) {
	need.Thing(t, "libvirt")
	need.Thing(t, "qemu")
	need.Thing(t, "kernel")
	tmp, err := os.MkdirTemp("", "rp") // sockets' paths are short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(tmp)) })
	t.Setenv("TMPDIR", tmp)
	uri := "qemu:///embed?root=" + filepath.Join(tmp, "lv")
	kill := killed(t, "reaped", "BULLPEN_TEST_DRIVER=libvirt", "BULLPEN_TEST_URI="+uri, "BULLPEN_TEST_DIR="+tmp)
	kill()
	args := []string{"-driver", "libvirt", "-uri", uri, "-name", "reaped", "-between", "1ms"}
	code, out := reap(t, args...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "2 machines, 2 would be destroyed")
	code, out = reap(t, append(args, "-dry-run=false")...)
	require.Equal(t, 0, code, out)
	require.Contains(t, out, "2 machines, 2 destroyed")
	d, err := libvirt.Open(t.Context(), libvirt.Config{URI: uri})
	require.NoError(t, err)
	require.Empty(t, names(t, d))
	require.NoError(t, d.Close())
}
