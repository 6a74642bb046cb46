package hostdir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheUmaskHasNoSay(t *testing.T) {
	dir := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o077))
	root, err := MakeRoot(filepath.Join(dir, "root"), 0o711)
	require.NoError(t, err)
	fresh, lock, err := New(t.Context(), root, 0o711)
	require.NoError(t, err)
	defer lock.Unlock()
	for _, path := range []string{root, fresh} {
		fi, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o711), fi.Mode().Perm(), path)
	}
	require.NoError(t, Mkdir(root, 0o700))
	fi, err := os.Stat(root)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o711), fi.Mode().Perm(), "one that is there is left as it is")
	_, _, err = New(t.Context(), filepath.Join(dir, "none"), 0o700)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, Mkdir(filepath.Join(dir, "a", "b"), 0o700), os.ErrNotExist)
}

func TestARootIsMadeOrMadeSafeAndLinksAreRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o700, 0o711} {
		dir := t.TempDir()
		root, err := MakeRoot(filepath.Join(dir, "a", "b"), mode)
		require.NoError(t, err)
		perm := func() os.FileMode {
			fi, err := os.Stat(root)
			require.NoError(t, err)
			return fi.Mode().Perm()
		}
		assert.Equal(t, mode, perm())
		for _, odd := range []os.FileMode{0o777, 0o755, 0o500} {
			require.NoError(t, os.Chmod(root, odd))
			again, err := MakeRoot(root, mode)
			require.NoError(t, err)
			assert.Equal(t, root, again)
			assert.Zero(t, perm()&^mode, "%v", odd)
			assert.Equal(t, os.FileMode(0o700), perm()&0o700)
		}
		require.NoError(t, os.Symlink(root, filepath.Join(dir, "link")))
		_, err = MakeRoot(filepath.Join(dir, "link"), mode)
		require.ErrorContains(t, err, "symbolic links are refused")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		_, err = MakeRoot(filepath.Join(dir, "file"), mode)
		require.ErrorContains(t, err, "want a folder")
	}
	if os.Geteuid() == 0 {
		dir := t.TempDir()
		require.NoError(t, os.Chown(dir, 65534, 65534))
		_, err := MakeRoot(dir, 0o700)
		require.ErrorContains(t, err, "belongs to user 65534, want 0")
	}
}

func TestAFolderThatIsBeingMadeIsNoLeftover(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir, lock, err := New(t.Context(), parent, 0o700)
	require.NoError(t, err)
	require.NoError(t, RemoveUnlocked(dir, nil, os.RemoveAll))
	require.DirExists(t, dir)
	require.NoError(t, lock.Unlock())
	refusal := errors.New("not sure")
	require.ErrorIs(t, RemoveUnlocked(dir, func() (bool, error) { return true, refusal }, os.RemoveAll), refusal)
	require.NoError(t, RemoveUnlocked(dir, func() (bool, error) { return false, nil }, os.RemoveAll))
	require.DirExists(t, dir)
	require.NoError(t, RemoveUnlocked(dir, nil, os.RemoveAll))
	require.NoDirExists(t, dir)
	require.NoError(t, RemoveUnlocked(dir, nil, os.RemoveAll))
	_, _, err = New(context.Background(), filepath.Join(parent, "none"), 0o700)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestRecordsAndTailsOfFilesThatAreNotThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	var v struct{ A int }
	require.ErrorIs(t, ReadRecord(path, &v), os.ErrNotExist)
	b, err := Tail(path, 5)
	require.NoError(t, err)
	assert.Empty(t, b)
	require.NoError(t, os.WriteFile(path, []byte(`{"A":7}`), 0o600))
	require.NoError(t, ReadRecord(path, &v))
	assert.Equal(t, 7, v.A)
	for n, want := range map[int]string{-1: "", 0: "", 2: "7}", 100: `{"A":7}`} {
		b, err := Tail(path, n)
		require.NoError(t, err)
		assert.Equal(t, want, string(b))
	}
	require.NoError(t, os.WriteFile(path, []byte(`{"A":`), 0o600))
	require.ErrorContains(t, ReadRecord(path, &v), "is damaged")
}

func TestARecordIsReplacedWholeAndNoTemporaryFileStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for n, sync := range []bool{true, false} {
		require.NoError(t, WriteRecord(path, map[string]int{"A": n}, sync))
		var v struct{ A int }
		require.NoError(t, ReadRecord(path, &v))
		assert.Equal(t, n, v.A)
		fi, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	}
	require.Error(t, WriteRecord(path, make(chan int), true))
	require.ErrorIs(t, WriteRecord(filepath.Join(dir, "none", "f"), 1, true), os.ErrNotExist)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o700))
	require.Error(t, WriteRecord(filepath.Join(dir, "folder"), 1, true), "a folder is not replaced")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 2, "%v", left)
	// A power failure may leave nothing of what was not synced.
	for _, nothing := range []string{"", "\x00\x00"} {
		require.NoError(t, os.WriteFile(path, []byte(nothing), 0o600))
		var v struct{ A int }
		require.ErrorIs(t, ReadRecord(path, &v), os.ErrNotExist)
	}
}
