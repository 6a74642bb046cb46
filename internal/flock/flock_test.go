package flock

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestALockIsHeldByOneAndSaysWhatFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Try(path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	require.NoError(t, err)
	require.NoError(t, l.Note("start"))
	assert.Contains(t, ReadNote(path), "start by process ")
	_, err = Try(path, os.O_RDWR, syscall.LOCK_SH)
	require.ErrorIs(t, err, ErrLocked)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Wait(ctx, path, os.O_RDWR, syscall.LOCK_EX)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorIs(t, err, context.Canceled)

	got := make(chan error, 1)
	go func() {
		l, err := Wait(t.Context(), path, os.O_RDWR, syscall.LOCK_EX)
		if err == nil {
			err = l.Unlock()
		}
		got <- err
	}()
	require.NoError(t, l.Unlock())
	require.NoError(t, <-got)
	assert.Equal(t, "an operation", ReadNote(path+"x"))
}

func TestLinksAreNotFollowedAndFoldersCanBeLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	_, err := Try(filepath.Join(dir, "link"), os.O_RDONLY, syscall.LOCK_SH)
	require.Error(t, err)
	l, err := Try(dir, os.O_RDONLY|syscall.O_DIRECTORY, syscall.LOCK_EX)
	require.NoError(t, err)
	assert.Equal(t, dir, l.File().Name())
	require.NoError(t, l.Unlock())
}
