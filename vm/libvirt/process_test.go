package libvirt

import (
	"os"
	"os/exec"
	"path/filepath"
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

// libvirt must find nothing left.
func TestAQEMUThatIsKilledAtOnceIsGoneWhenThatReturns(t *testing.T) {
	t.Parallel()
	h, conf := newFake(t)
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer d.Close()
	ours := uuid.NewString()
	c := exec.Command("sh", "-c", "read x", "sh", "-uuid", ours, "-msg")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, c.Start())
	d.killNow(t.Context(), uuid.NewString())
	files, err := findQEMU("/proc", ours)
	require.NoError(t, err)
	require.Len(t, files, 1, "another's is left alone")
	reaped := make(chan error, 1)
	go func() { reaped <- c.Wait() }()
	d.killNow(t.Context(), ours)
	assert.False(t, remains(files[0]))
	require.Error(t, <-reaped)
}

// A file that was renamed into its place and not synced may be empty, or zeros,
// after a power failure; its machine's run has ended by that too.
func TestARecordThatAPowerFailureEmptiedIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, writeBrief(filepath.Join(dir, runFile), runRecord{Boot: "b"}))
	r, err := readRun(dir)
	require.NoError(t, err)
	require.Equal(t, "b", r.Boot)
	for _, left := range []string{"", "\x00\x00\x00\x00"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, runFile), []byte(left), 0o600))
		r, err = readRun(dir)
		require.NoError(t, err)
		assert.Nil(t, r)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, runFile), []byte("{"), 0o600))
	_, err = readRun(dir)
	require.ErrorContains(t, err, "damaged")
	require.Error(t, writeBrief(filepath.Join(dir, "none", runFile), runRecord{}))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1, "no temporary file stays")
}
