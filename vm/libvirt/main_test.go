package libvirt

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// nested says that this process has a subreaper above it.
const nested = "BULLPEN_TEST_NESTED"

// TestMain runs the tests below a process that reaps their orphans at once:
// QEMU's processes are orphans of whoever started them, and where the
// computer's first process is slow to reap them, libvirt waits a second more for
// each.
func TestMain(m *testing.M) {
	roles()
	if !real || os.Getenv(nested) != "" {
		code := m.Run()
		if cleanup(); code == 0 {
			if err := goleak.Find(); err != nil {
				os.Stderr.WriteString("goroutines are left: " + err.Error() + "\n")
				code = 1
			}
		}
		os.Exit(code)
	}
	os.Exit(reap())
}

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2).
const prSetChildSubreaper = 36

// reap runs the same program again and is the subreaper of all below it.
func reap() int {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		os.Stderr.WriteString("subreaper: " + errno.Error() + "\n")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), nested+"=1", "LIBVIRT_LOG_OUTPUTS=4:file:/dev/null") // libvirt warns of each start as root
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	forward := make(chan os.Signal, 8)
	signal.Notify(forward, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range forward {
			_ = cmd.Process.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			os.Stderr.WriteString("wait: " + err.Error() + "\n")
			return 1
		case pid == cmd.Process.Pid:
			// What is left below belongs to nobody: its tests should have ended it.
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
}
