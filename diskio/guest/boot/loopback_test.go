//go:build linux

package boot

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const inNamespace = "BULLPEN_TEST_LOOPBACK"

// A machine begins as a new network namespace does: with its loopback down.
func TestJobsCanTalkToThemselvesOverTheLoopback(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), inNamespace+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if id := os.Geteuid(); id != 0 {
			c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
		}
		out, err := c.CombinedOutput()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
			t.Skipf("no network namespace may be made here (%v): run as root", err)
		}
		require.NoError(t, err, "%s", out)
		return
	}
	_, err := net.Dial("tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, syscall.ENETUNREACH, "it is up already: the test shows nothing")
	require.NoError(t, raiseLoopback())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, raiseLoopback(), "it may be up already")
}
