//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
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
)

// daemon is a libvirtd of the system's kind of its own: its folders are mounted
// over the system's in a mount namespace.
type daemon struct {
	t   testing.TB
	dir string
	cmd *exec.Cmd
	net bool // in a network namespace of its own
}

// ownNetwork keeps bridges of a daemon's networks to itself.
func ownNetwork(d *daemon) { d.net = true }

// aloneVariable names the test that a process was started for.
const aloneVariable = "BULLPEN_TEST_ALONE"

// alone runs the test in a process of its own and reports whether this is it: a
// process with the embedded driver reaches no daemon. The test is parallel to
// others.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneVariable) == t.Name() {
		return true
	}
	t.Parallel()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), aloneVariable+"="+t.Name())
	finishAlone(t, cmd)
	return false
}

// finishAlone runs the process of a test and gives its verdict.
func finishAlone(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	// A file: a pipe would stay open as long as a daemon that it left.
	file, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	err = cmd.Run()
	out, rerr := os.ReadFile(file.Name())
	require.NoError(t, rerr)
	switch {
	case err != nil:
		t.Errorf("in a process of its own: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
}

// newDaemon starts one, or skips. It shares the computer's network, or has one
// of its own.
func newDaemon(t testing.TB, options ...func(*daemon)) (*daemon, initramfs.Guest) {
	t.Helper()
	g := testGuest(t)
	need.Thing(t, "root")
	need.Tool(t, "libvirtd")
	dir, err := os.MkdirTemp("", "bpd")
	require.NoError(t, err)
	d := &daemon{t: t, dir: dir}
	for _, o := range options {
		o(d)
	}
	t.Cleanup(func() {
		d.kill()
		d.killGuests()
		require.NoError(t, os.RemoveAll(dir))
	})
	for _, sub := range []string{"etc/qemu", "run", "lib", "log", "cache", "sock"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	d.write("etc/qemu.conf", `user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
stdio_handler = "file"
namespaces = []
`)
	d.write("etc/libvirtd.conf", fmt.Sprintf(`auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
unix_sock_dir = %q
host_uuid = "8f2d3c52-90f9-4b1c-9d7c-0a1b2c3d4e5f"
log_outputs = "3:file:%s/log/libvirtd.log"
`, filepath.Join(dir, "sock"), dir))
	d.start()
	return d, g
}

func (d *daemon) write(name, text string) {
	require.NoError(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644))
}

func (d *daemon) uri() string {
	return "qemu+unix:///system?socket=" + filepath.Join(d.dir, "sock", "libvirt-sock")
}

func (d *daemon) conf() Config {
	c := testConfig(d.t, d.uri())
	c.Root = filepath.Join(d.dir, "r")
	return c
}

// start starts libvirtd and waits until it answers a call: that its process runs
// says nothing.
func (d *daemon) start() {
	d.t.Helper()
	half, err := freeHalfStarted(filepath.Join(d.dir, "run", "qemu")) // the administrator's part, see the package documentation
	require.NoError(d.t, err)
	if len(half) > 0 {
		d.t.Logf("the start of %v was cut short", half)
	}
	script := "mount --make-rprivate / &&"
	for _, b := range [][2]string{{"etc", "/etc/libvirt"}, {"run", "/run/libvirt"}, {"lib", "/var/lib/libvirt"}, {"log", "/var/log/libvirt"}, {"cache", "/var/cache/libvirt"}} {
		script += fmt.Sprintf(" mkdir -p %s && mount --bind %s/%s %s &&", b[1], d.dir, b[0], b[1])
	}
	flags := uintptr(syscall.CLONE_NEWNS)
	if d.net {
		flags |= syscall.CLONE_NEWNET
		script += " mount -t sysfs sysfs /sys &&"
	}
	script += fmt.Sprintf(" exec libvirtd -f %s/etc/libvirtd.conf -p %s/libvirtd.pid", d.dir, d.dir)
	d.cmd = exec.Command("/bin/sh", "-c", script)
	d.cmd.Env = append(os.Environ(), "LIBVIRT_LOG_OUTPUTS=", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags, Setpgid: true}
	out, err := os.OpenFile(filepath.Join(d.dir, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(d.t, err)
	defer out.Close()
	d.cmd.Stdout, d.cmd.Stderr = out, out
	require.NoError(d.t, d.cmd.Start())
	require.Eventually(d.t, func() bool {
		c, err := newBareConnection(d.uri())
		if err != nil {
			return false
		}
		_, err = c.List()
		return c.Close() == nil && err == nil
	}, 30*time.Second, 50*time.Millisecond, "libvirtd does not answer; %s", d.log())
}

func (d *daemon) log() string {
	var all string
	for _, name := range []string{"out", "log/libvirtd.log"} {
		b, _ := os.ReadFile(filepath.Join(d.dir, name))
		all += string(b[max(0, len(b)-2000):])
	}
	return all
}

// kill ends libvirtd without a word; machines live on.
func (d *daemon) kill() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

// guests gives the processes of QEMU that work for this daemon.
func (d *daemon) guests() []int { return processesWith(d.t, filepath.Join(d.dir, "r")) }

// killGuests ends what a failed test has left.
func (d *daemon) killGuests() {
	for _, pid := range d.guests() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processesWith gives the processes of QEMU whose arguments name a text.
func processesWith(t testing.TB, text string) []int {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []int
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), "qemu-system") && strings.Contains(string(b), text) {
			var pid int
			if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err == nil && pid != os.Getpid() {
				found = append(found, pid)
			}
		}
	}
	return found
}
