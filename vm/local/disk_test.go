package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAJobDiskIsOneFileForHostAndGuest(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := create(t, testDriver(t, Config{}))
	inode := func() uint64 {
		fi, err := os.Stat(m.path(jobDiskFile(1)))
		require.NoError(t, err)
		return fi.Sys().(*syscall.Stat_t).Ino
	}
	before := inode()
	d, err := m.JobDisk(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, int64(4096), d.Size())
	_, err = d.WriteAt([]byte("hello"), 4091)
	require.NoError(t, err)
	require.NoError(t, d.Sync(ctx))
	n, err := d.WriteAt([]byte("hello"), 4093)
	require.ErrorIs(t, err, io.ErrShortWrite)
	require.Zero(t, n)
	_, err = d.WriteAt([]byte("x"), 4096)
	require.ErrorIs(t, err, io.ErrShortWrite)
	_, err = d.WriteAt([]byte("x"), -1)
	require.Error(t, err)
	require.NoError(t, d.Sync(ctx))
	require.NoError(t, d.Close())
	guest, err := agentConfig{JobDisks: []int64{1 << 20, 4096}}.disk(m.dir(), 1)
	require.NoError(t, err)
	b := make([]byte, 5)
	_, err = guest.ReadAt(b, 4091)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
	require.NoError(t, guest.Sync())
	require.NoError(t, guest.Close())
	require.Equal(t, before, inode())
	for _, n := range []int{-1, 2} {
		_, err = m.JobDisk(ctx, n)
		require.ErrorIs(t, err, errNoPlace)
		_, err = agentConfig{JobDisks: []int64{1}}.disk(m.dir(), n)
		require.Error(t, err)
	}
}

func TestWhatAJobPutInADisksPlaceIsRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	for name, spoil := range map[string]func(string) error{
		"a link":       func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a pipe":       func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"a folder":     func(p string) error { return os.Mkdir(p, 0o700) },
		"a short file": func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
		"nothing":      func(string) error { return nil },
	} {
		m := create(t, testDriver(t, Config{}))
		require.NoError(t, os.Remove(m.path(jobDiskFile(0))))
		require.NoError(t, spoil(m.path(jobDiskFile(0))))
		_, err := m.JobDisk(ctx, 0)
		require.Error(t, err, name)
	}
}

// memory is an image without a file.
type memory struct{ *bytes.Reader }

func image(content string) memory { return memory{bytes.NewReader([]byte(content))} }

func (m memory) Digest() string {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(m, 0, m.Size())); err != nil {
		return ""
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// filed is an image with one.
type filed struct {
	memory
	path string
}

func (f filed) Path() string { return f.path }

func TestAnInputIsLinkedOrCopied(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := create(t, testDriver(t, Config{}))
	content := strings.Repeat("x", 3<<20) + strings.Repeat("\x00", 2<<20)
	place := m.path(inputFile(1))
	check := func(want string) {
		t.Helper()
		b, err := os.ReadFile(place)
		require.NoError(t, err)
		require.Equal(t, len(want), len(b))
		require.True(t, want == string(b))
	}
	require.NoError(t, m.Insert(ctx, 1, image(content)))
	check(content)
	was, err := os.Stat(place)
	require.NoError(t, err)
	require.NoError(t, m.Insert(ctx, 1, image(content)))
	is, err := os.Stat(place)
	require.NoError(t, err)
	require.True(t, os.SameFile(was, is), "what is there already is not put in again")

	path := filepath.Join(filepath.Dir(m.d.Root()), "image")
	require.NoError(t, os.WriteFile(path, []byte("abc"), 0o600))
	require.NoError(t, m.Insert(ctx, 1, filed{image("abc"), path}))
	check("abc")
	is, err = os.Stat(place)
	require.NoError(t, err)
	src, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(src, is))
	require.NoError(t, m.Insert(ctx, 1, filed{image("abcd"), path + "x"}), "a path that is gone: copied")
	check("abcd")

	require.NoError(t, m.Eject(ctx, 1))
	require.NoError(t, m.Eject(ctx, 1))
	require.NoFileExists(t, place)
	require.ErrorIs(t, m.Eject(ctx, 2), errNoPlace)
	require.ErrorIs(t, m.Insert(ctx, -1, image("")), errNoPlace)
	err = m.Insert(ctx, 0, broken{image("abc")})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoFileExists(t, m.path(inputFile(0)+".json"), "a place that was not filled is empty")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, m.Insert(ended, 0, image("abc")), context.Canceled)
}

type broken struct{ memory }

func (broken) Size() int64 { return 5 }

// testStore unpacks by writing the digest into a file.
func testStore(t *testing.T, most int64) (*inputStore, *int) {
	unpacked := new(int)
	return &inputStore{dir: filepath.Join(t.TempDir(), cacheFolder), most: most, unpack: func(ctx context.Context, image, digest, dir string) error {
		*unpacked++
		if image == "damaged" {
			return errors.New("damaged")
		}
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "sub", "file"), bytes.Repeat([]byte(digest), 1000), 0o644)
	}}, unpacked
}

func take(t *testing.T, s *inputStore, content string) (string, func() error) {
	t.Helper()
	dir, release, err := s.take(testContext(t), "image", image(content).Digest(), filepath.Join(t.TempDir(), "own"))
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "sub", "file"))
	require.NoError(t, err)
	require.Contains(t, string(b), image(content).Digest())
	return dir, release
}

func TestAnInputIsUnpackedOnceAndShared(t *testing.T) {
	t.Parallel()
	s, unpacked := testStore(t, 1<<30)
	first, release := take(t, s, "a")
	second, again := take(t, s, "a")
	require.Equal(t, first, second)
	require.Equal(t, 1, *unpacked)
	require.NoError(t, release())
	require.NoError(t, again())
	fi, err := os.Stat(filepath.Join(first, "sub", "file"))
	require.NoError(t, err)
	require.Zero(t, fi.Mode().Perm()&0o222, "%v", fi.Mode())
}

func TestAnInputThatAJobChangedIsUnpackedAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"a byte, and the times set back": func(dir string) error {
			file := filepath.Join(dir, "sub", "file")
			fi, err := os.Stat(file)
			if err != nil {
				return err
			}
			if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, bytes.Repeat([]byte{'x'}, int(fi.Size())), 0o600)); err != nil {
				return err
			}
			return errors.Join(os.Chmod(file, fi.Mode()), os.Chtimes(file, fi.ModTime(), fi.ModTime()))
		},
		"a file more": func(dir string) error {
			return errors.Join(os.Chmod(dir, 0o700), os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
		},
		"all removed": removeTree,
		"the seal":    func(dir string) error { return os.Truncate(filepath.Join(dir, "..", sealFile), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, unpacked := testStore(t, 1<<30)
			dir, release := take(t, s, "a")
			require.NoError(t, spoil(dir))
			apart, done := take(t, s, "a")
			require.NotEqual(t, dir, apart, "the damaged one is in use")
			require.NoError(t, done())
			require.NoDirExists(t, apart)
			require.NoError(t, release())
			_, release = take(t, s, "a")
			require.NoError(t, release())
			require.Equal(t, 3, *unpacked)
			_, release = take(t, s, "a")
			require.NoError(t, release())
			require.Equal(t, 3, *unpacked)
		})
	}
}

func TestInputsThatAreNotUsedGoWhenTheRoomIsShort(t *testing.T) {
	t.Parallel()
	s, unpacked := testStore(t, 100<<10) // one entry is 72 KiB
	used, release := take(t, s, "used")
	for _, content := range []string{"a", "b", "c"} {
		dir, release := take(t, s, content)
		require.NoError(t, release())
		require.DirExists(t, dir, "the newest stays")
	}
	require.DirExists(t, used, "one in use stays")
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Len(t, entries, 4, "two folders, two locks: %v", entries)
	require.NoError(t, os.MkdirAll(filepath.Join(s.dir, ".new-x", "y"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(s.dir, strings.Repeat("0", 64), "y"), 0o700))
	require.NoError(t, release())
	_, release = take(t, s, "d")
	require.NoError(t, release())
	require.NoDirExists(t, filepath.Join(s.dir, ".new-x"))
	require.NoDirExists(t, filepath.Join(s.dir, strings.Repeat("0", 64)))
	require.Equal(t, 5, *unpacked)
}

func TestAnInputThatCannotBeUnpackedLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := testStore(t, 1<<30)
	_, _, err := s.take(testContext(t), "damaged", image("x").Digest(), t.TempDir())
	require.ErrorContains(t, err, "damaged")
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "its lock")
	for _, digest := range []string{"", "sha256:", "sha256:../../x", "sha256:" + strings.Repeat("0", 62), "md5:" + strings.Repeat("0", 64)} {
		_, _, err := s.take(testContext(t), "image", digest, "")
		assert.ErrorContains(t, err, "want sha256:", digest)
	}
}
