package libvirt

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FIELD (c) 30: libvirt cannot get a job on a domain whose QEMU does not answer.
func TestOnlyTheQEMUWithThatUUIDIsKilled(t *testing.T) {
	t.Parallel()
	ours, theirs := uuid.NewString(), uuid.NewString()
	var all []*exec.Cmd
	for _, id := range []string{ours, theirs} {
		c := exec.Command("sh", "-c", "read x", "sh", "-uuid", id, "-msg")
		_, err := c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		all = append(all, c)
	}
	n, err := killQEMU("/proc", ours)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	require.Error(t, all[0].Wait())
	assert.Equal(t, syscall.SIGKILL, all[0].ProcessState.Sys().(syscall.WaitStatus).Signal())
	require.NoError(t, all[1].Process.Signal(syscall.Signal(0)))
	require.NoError(t, all[1].Process.Kill())
	_ = all[1].Wait()
	n, err = killQEMU("/proc", uuid.NewString())
	require.NoError(t, err)
	assert.Zero(t, n)
}
