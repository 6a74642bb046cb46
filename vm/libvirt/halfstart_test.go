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

// As libvirt 9.0 writes it.
func status(pid, id string) string {
	return `<domstatus state='paused' reason='starting up' pid='` + pid + `'>
  <monitor path='/m' type='unix'/>
  <job type='none' async='start' flags='0x0' asyncStarted='1795227238879'/>
  <domain type='qemu' id='3'><name>m</name><uuid>` + id + `</uuid></domain>
</domstatus>`
}

func TestADomainWhoseStartWasCutShortIsFreed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	names, err := freeEmbedded(root)
	require.NoError(t, err)
	require.Empty(t, names, "it was never opened")
	dir := filepath.Join(root, "run", "qemu")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	id := uuid.NewString()
	for name, text := range map[string]string{
		"driver.pid": "", "half.xml": status("0", id), "runs.xml": status("812", uuid.NewString()),
		"other.xml": "<domain><uuid>" + uuid.NewString() + "</uuid></domain>", "broken.xml": "<domstatus pid='0'", "none.xml": "<domstatus pid='0'/>",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	c := exec.Command("sh", "-c", "read x", "sh", "-uuid", id, "-msg")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, c.Start())
	names, err = freeEmbedded(root)
	require.NoError(t, err)
	assert.Equal(t, []string{"half.xml"}, names)
	require.Error(t, c.Wait())
	assert.Equal(t, syscall.SIGKILL, c.ProcessState.Sys().(syscall.WaitStatus).Signal())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 5)
}

// lockedFile has the next test, in a process of its own, hold the lock on a file.
const lockedFile = "BULLPEN_TEST_LOCKED_FILE"

func TestARootThatAnotherProcessHasOpenIsLeftAlone(t *testing.T) {
	if name := os.Getenv(lockedFile); name != "" {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		lock := syscall.Flock_t{Type: syscall.F_WRLCK, Len: 1}
		require.NoError(t, syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock))
		_, _ = os.Stderr.Write([]byte("has it\n"))
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	root := t.TempDir()
	dir := filepath.Join(root, "run", "qemu")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "half.xml"), []byte(status("0", uuid.NewString())), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "driver.pid"), nil, 0o600))
	c := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	c.Env = append(os.Environ(), lockedFile+"="+filepath.Join(dir, "driver.pid"))
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	names, err := freeEmbedded(root)
	require.NoError(t, err)
	assert.Empty(t, names)
	require.NoError(t, in.Close())
	require.NoError(t, c.Wait())
	names, err = freeEmbedded(root)
	require.NoError(t, err)
	assert.Equal(t, []string{"half.xml"}, names)
}
