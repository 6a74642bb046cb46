package sqlstore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAFileIsToldFromTheOneThatTookItsName(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	first, err := identityOf(f, path)
	require.NoError(t, err)
	require.NoError(t, os.Link(path, other))
	linked, err := identify(other)
	require.NoError(t, err)
	assert.Equal(t, first, linked)

	require.NoError(t, os.Remove(path))
	_, err = identify(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	second, err := identify(path)
	require.NoError(t, err)
	assert.NotEqual(t, first, second)
	_, err = identityOf(f, path)
	require.ErrorIs(t, err, ErrDamaged)
}
