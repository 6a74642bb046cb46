package libvirt

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Somebody who had the folder open puts one more file into it between the removal
// of its files and its own: that is what ENOTEMPTY comes from.
func TestAFolderThatGetsAFileWhileItIsRemovedIsRemovedAgain(t *testing.T) {
	t.Parallel()
	dead := filepath.Join(t.TempDir(), deadPrefix+"x")
	require.NoError(t, os.Mkdir(dead, 0o700))
	handle, err := os.OpenRoot(dead)
	require.NoError(t, err)
	defer handle.Close()
	tries := 0
	remove := func(path string) error {
		if tries++; tries > 3 {
			return os.RemoveAll(path)
		}
		require.NoError(t, os.WriteFile(filepath.Join(path, "old"), nil, 0o600))
		require.NoError(t, os.Remove(filepath.Join(path, "old")))
		f, err := handle.OpenFile(string(rune('a'+tries)), os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		err = syscall.Rmdir(path)
		require.ErrorIs(t, err, syscall.ENOTEMPTY)
		return &os.PathError{Op: "unlinkat", Path: path, Err: err}
	}
	require.NoError(t, removeBuried(dead, remove))
	assert.Equal(t, 4, tries)
	assert.NoDirExists(t, dead)

	// One that nobody can remove is told, after a bounded time.
	tries = 0
	err = removeBuried(dead, func(string) error { tries++; return syscall.ENOTEMPTY })
	require.ErrorIs(t, err, syscall.ENOTEMPTY)
	assert.Less(t, tries, 20)
	require.ErrorIs(t, removeBuried(dead, func(string) error { return syscall.EACCES }), syscall.EACCES)
}
