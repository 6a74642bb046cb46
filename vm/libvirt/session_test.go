//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

// guestVariable has the guest that a process with other rights than this one's
// is to boot: kernel, ramdisk and command line.
const guestVariable = "BULLPEN_TEST_GUEST"

// nobody is the user of that name.
const nobody = 65534

// asNobody runs the test in a process of an unprivileged user, which may read
// neither this one's caches nor its folders, and reports whether this is it. Who
// is unprivileged stays what he is.
func asNobody(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return alone(t)
	}
	t.Parallel()
	g := testGuest(t)
	need.Tool(t, "libvirtd")
	dir, err := os.MkdirTemp("", "bps")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	kernel, initrd, program, tmp := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd"), filepath.Join(dir, "test"), filepath.Join(dir, "t")
	for to, from := range map[string]string{kernel: g.Kernel, initrd: g.Initrd, program: "/proc/self/exe"} {
		copyWhole(t, to, from)
	}
	require.NoError(t, os.Mkdir(tmp, 0o700))
	require.NoError(t, os.Chown(tmp, nobody, nobody))
	cmd := exec.Command(program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), aloneVariable+"="+t.Name(), guestVariable+"="+strings.Join([]string{kernel, initrd, g.Cmdline}, "\n"),
		"BULLPEN_KERNEL="+kernel, "TMPDIR="+tmp, "HOME="+tmp)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	finishAlone(t, cmd)
	return false
}

func copyWhole(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
}

// handedGuest is the guest of guestVariable, if there is one.
func handedGuest() (initramfs.Guest, bool) {
	part := strings.SplitN(os.Getenv(guestVariable), "\n", 3)
	if len(part) != 3 {
		return initramfs.Guest{}, false
	}
	return initramfs.Guest{Kernel: part[0], Initrd: part[1], Cmdline: part[2]}, true
}

// The user's own daemon is spawned by libvirt's library. The whole suite is for
// soaks; a job is run in any case.
func TestSoakConformanceOfAnUnprivilegedSession(t *testing.T) {
	if !asNobody(t) {
		return
	}
	require.NotZero(t, os.Geteuid())
	g := testGuest(t)
	need.Tool(t, "libvirtd")
	dir, err := os.MkdirTemp("", "x") // short: sockets are in it
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
		_ = os.RemoveAll(dir) // libvirtd may still write to it; the folder above goes too
	})
	c := testConfig(t, "qemu:///session")
	c.Root = filepath.Join(dir, "r")
	if need.Soak(t, 0, 1) > 0 {
		vmtest.Run(t, whole{bare: bare{t, c}, guest: g})
	}

	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	m := boot(t, d, guestSpec(g))
	results := runJob(t, m, nil, "echo from a session")
	assert.Equal(t, "from a session\n", string(results.Parts[0].Steps[0].Stdout))
	require.NoError(t, m.Destroy(context.Background()))
	assert.Empty(t, processesWith(t, c.Root))
	t.Log("ran as user", os.Geteuid())
}
