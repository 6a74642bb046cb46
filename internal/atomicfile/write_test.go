package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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
