//go:build cgo && (libvirt || libvirt_dlopen)

package poolproof

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
)

// driveReal takes the URI, the driver's root, and the guest's kernel, initrd and
// command line.
func driveReal(ctx context.Context, args []string) (vm.Driver, vm.Spec, error) {
	d, err := libvirt.Open(ctx, libvirt.Config{URI: args[2], Root: args[3], ForceTCG: true})
	if err != nil {
		return nil, vm.Spec{}, err
	}
	return d, vm.Spec{Kernel: args[4], Initrd: args[5], Cmdline: args[6], Memory: 160 << 20, JobDisks: []int64{1 << 20}}, nil
}

// guest makes the test guest: a kernel and the agent.
func guest(t *testing.T, dir string) initramfs.Guest {
	t.Helper()
	root := ""
	if kernel := os.Getenv("BULLPEN_KERNEL"); kernel != "" {
		root = filepath.Dir(filepath.Dir(kernel))
	}
	parts, err := initramfs.Find(root)
	require.NoError(t, err)
	agent := filepath.Join(dir, "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s", "-o", agent, "github.com/bullpen-vm/bullpen/examples/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)
	g, err := initramfs.Build(t.Context(), initramfs.Config{Parts: parts, Agent: agent, Dir: dir})
	require.NoError(t, err)
	return g
}

// libvirtd starts one of the system's kind, whose folders are mounted over the
// system's in a mount namespace, and gives its URI.
func libvirtd(t *testing.T, dir string) string {
	t.Helper()
	for _, sub := range []string{"etc/qemu", "run", "lib", "log", "cache", "sock"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("etc/qemu.conf", `user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
stdio_handler = "file"
namespaces = []
`)
	write("etc/libvirtd.conf", fmt.Sprintf(`auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
unix_sock_dir = %q
host_uuid = %q
log_outputs = "3:file:%s/log/libvirtd.log"
`, filepath.Join(dir, "sock"), hostUUID(dir), dir))
	script := "mount --make-rprivate / &&"
	for _, b := range [][2]string{{"etc", "/etc/libvirt"}, {"run", "/run/libvirt"}, {"lib", "/var/lib/libvirt"}, {"log", "/var/log/libvirt"}, {"cache", "/var/cache/libvirt"}} {
		script += fmt.Sprintf(" mkdir -p %s && mount --bind %s/%s %s &&", b[1], dir, b[0], b[1])
	}
	script += fmt.Sprintf(" exec libvirtd -f %s/etc/libvirtd.conf -p %s/libvirtd.pid", dir, dir)
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "LIBVIRT_LOG_OUTPUTS=", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	out, err := os.Create(filepath.Join(dir, "out"))
	require.NoError(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, pid := range emulators(t, dir) { // what a test that failed has left
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	uri := "qemu+unix:///system?socket=" + filepath.Join(dir, "sock", "libvirt-sock")
	require.Eventually(t, func() bool {
		d, err := libvirt.Open(t.Context(), libvirt.Config{URI: uri, Root: filepath.Join(dir, "r"), ForceTCG: true})
		return err == nil && d.Close() == nil
	}, time.Minute, 100*time.Millisecond, "libvirtd does not answer")
	return uri
}

// hostUUID is libvirt's name of a computer, by which drivers tell hosts apart.
func hostUUID(dir string) string {
	b := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// emulators gives the processes of QEMU whose arguments name a folder.
func emulators(t *testing.T, dir string) (found []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range files {
		b, _ := os.ReadFile(f)
		var pid int
		if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err == nil && pid != os.Getpid() &&
			strings.Contains(string(b), "qemu-system") && strings.Contains(string(b), dir) {
			found = append(found, pid)
		}
	}
	return found
}

// realArgs makes a libvirtd and a guest, or skips.
func realArgs(t *testing.T) []string {
	t.Helper()
	for _, thing := range []string{"libvirt", "qemu", "kernel", "root"} {
		need.Thing(t, thing)
	}
	need.Tool(t, "libvirtd")
	dir, err := os.MkdirTemp("", "pp") // sockets' paths are short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	g := guest(t, dir)
	return []string{"libvirt", dir, libvirtd(t, dir), filepath.Join(dir, "r"), g.Kernel, g.Initrd, g.Cmdline}
}

// What the first run had ready the next one takes over, over the guest's own line.
func TestOnRealMachinesWhatWasReadySurvivesAKillAndIsAdopted(t *testing.T) {
	args := realArgs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), victimVariable+"=idle|"+strings.Join(args, "|"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := bufio.NewScanner(out)
	said := line.Scan()
	name := line.Text()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	require.True(t, said, "it had no machine")

	h, err := open(ctx, args, 1)
	require.NoError(t, err)
	g, err := h.Acquire(ctx, pool.Want{Job: "next"})
	require.NoError(t, err)
	require.Equal(t, name, g.Name())
	require.EqualValues(t, 1, h.Stats().Adopted)
	require.Zero(t, h.Stats().Boots)
	var said2 strings.Builder
	_, err = g.Exec(ctx, vm.Command{Argv: []string{"/bin/echo", "still here"}, Stdout: &said2})
	require.NoError(t, err)
	require.Equal(t, "still here\n", said2.String())
	info, err := g.Machine().Info(ctx)
	require.NoError(t, err)
	require.Equal(t, h.leases.LockPath(), info.Owner.Lock, "it is this run's now")
	require.NoError(t, g.Release(ctx, nil))
	require.NoError(t, h.Close(ctx))
	left, err := h.driver.List(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
	h.Pool = nil
	require.NoError(t, h.close(ctx))
}

// Two harnesses share one libvirtd; what is killed leaves machines that survive.
func TestSoakOnRealMachinesAKilledHarnessDelaysTheOtherNoMoreThanItsLeasesLast(t *testing.T) {
	args := realArgs(t)
	dir, root := args[1], args[3]
	soak(t, time.Duration(need.Soak(t, 30, 600))*time.Second, args...)
	require.Empty(t, emulators(t, dir), "a process of QEMU is left")
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	for _, e := range entries {
		require.NotContains(t, e.Name(), "shared-", "a machine's folder is left")
	}
}
