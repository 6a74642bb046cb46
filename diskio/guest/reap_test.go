package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// It is not parallel: it would reap the children of the others.
func TestOrphansAreReapedAndTheAgentsOwnChildrenAreNot(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	a, err := New(Config{Conn: theirs, Disks: func(int) (Disk, error) { return nil, errors.New("none") }, WorkDir: "/w"})
	require.NoError(t, err)
	a.context, a.stop = context.WithCancelCause(t.Context())
	a.reapEvery = time.Millisecond

	own, err := a.startProcess([]string{"sh", "-c", "exit 7"}, os.Environ(), "", nil, nil, nil)
	require.NoError(t, err)
	<-own.ended
	orphan := exec.Command("true") // nobody here will wait for it
	require.NoError(t, orphan.Start())
	pid := orphan.Process.Pid
	require.Eventually(t, func() bool { return slices.Contains(zombies(), pid) }, patience, time.Millisecond)

	done := make(chan struct{})
	go func() { defer close(done); a.reapOrphans() }()
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, patience, time.Millisecond)
	require.Contains(t, zombies(), own.cmd.Process.Pid)
	a.stop(nil)
	<-done
	exit, signal, err := a.finish(own)
	require.NoError(t, err)
	require.Equal(t, 7, exit)
	require.Empty(t, signal)
	require.Error(t, orphan.Wait(), "it was taken")
}
