package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWriteReplacesTheWholeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.xml")
	require.NoError(t, os.WriteFile(path, []byte("a much longer old content"), 0o600))
	require.NoError(t, atomicfile.Write(path, 0o644, text("new")))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "new", string(got))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())
	assert.Equal(t, []string{"a.xml"}, names(t, dir))
}

func TestAFailedWriteLeavesTheOldFileAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.xml")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	wrong := errors.New("encoder")
	err := atomicfile.Write(path, 0o644, func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<16))
		return wrong
	})
	require.ErrorIs(t, err, wrong)
	require.ErrorContains(t, err, path)
	got, _ := os.ReadFile(path)
	assert.Equal(t, "old", string(got))
	assert.Equal(t, []string{"a.xml"}, names(t, dir))

	require.Error(t, atomicfile.Write(filepath.Join(dir, "none", "a"), 0o644, text("x")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	require.Error(t, atomicfile.Write(filepath.Join(dir, "d"), 0o644, text("x")))
	assert.Equal(t, []string{"a.xml", "d"}, names(t, dir))
}

func TestWriteTakesANameWithoutAFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, atomicfile.Write("b", 0o600, text("x")))
	assert.Equal(t, []string{"b"}, names(t, "."))
}

// A writer's lock ends with it, so a file without one is a dead writer's.
func TestWhatDeadWritersLeftIsSweptAndLivingOnesAreNot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.xml")
	for _, n := range []string{".a.xml.123.tmp", ".a.xml.x.tmp", ".b.xml.123.tmp", "a.xml.123.tmp", ".a.xml.123.tmp2"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, n), nil, 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".a.xml.7.tmp"), 0o700))
	require.Error(t, atomicfile.Sweep(path), "no writer makes a folder")
	require.NoError(t, os.Remove(filepath.Join(dir, ".a.xml.7.tmp")))
	others := []string{".a.xml.123.tmp2", ".a.xml.x.tmp", ".b.xml.123.tmp", "a.xml.123.tmp"}
	assert.ElementsMatch(t, others, names(t, dir))

	inner := errors.New("inner")
	require.NoError(t, atomicfile.Write(path, 0o600, func(io.Writer) error {
		before := names(t, dir)
		require.NoError(t, atomicfile.Write(path, 0o600, text("from within")), "which sweeps")
		require.NoError(t, atomicfile.Sweep(path))
		assert.ElementsMatch(t, append(before, "a.xml"), names(t, dir))
		require.ErrorIs(t, atomicfile.Write(path, 0o600, func(io.Writer) error { return inner }), inner)
		return nil
	}))
	assert.ElementsMatch(t, append(others, "a.xml"), names(t, dir))
	require.ErrorIs(t, atomicfile.Sweep(filepath.Join(dir, "none", "a")), os.ErrNotExist)
}

func TestManyWritersOfOneFileLeaveOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				assert.NoError(t, atomicfile.Write(path, 0o600, text("whole")))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, []string{"a"}, names(t, dir))
}
