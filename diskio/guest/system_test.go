package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAFileIsADiskAsADeviceIs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(path, make([]byte, 8192), 0o600))
	d, err := OpenDisk(path)
	require.NoError(t, err)
	require.Equal(t, int64(8192), d.Size())
	_, err = d.WriteAt([]byte("x"), 4096)
	require.NoError(t, err)
	require.NoError(t, d.Sync())
	require.NoError(t, d.Close())
	_, err = OpenDisk(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheMachineIDIsWrittenToItsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "machine-id")
	require.NoError(t, MachineIDFile(path)("0123"))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "0123\n", string(b))
}
