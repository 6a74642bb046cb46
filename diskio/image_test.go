package diskio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// tool gives the path of a program of e2fsprogs, which judges images, or skips
// the test.
func tool(t testing.TB, name string) string {
	t.Helper()
	path := need.Tool(t, "e2fsck")
	return filepath.Join(filepath.Dir(path), name)
}

// fsck wants e2fsck to find nothing at all.
func fsck(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command(tool(t, "e2fsck"), "-fn", image).CombinedOutput()
	require.NoError(t, err, "e2fsck -fn %s:\n%s", image, out)
}

// debugfs runs commands that read or change an image.
func debugfs(t testing.TB, image string, commands ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, "debugfs"), "-w", "-f", "-", image)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// sampleTree makes a folder with one of everything that is packed by default.
func sampleTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	write := func(name string, mode fs.FileMode, data []byte) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, mode))
	}
	write("empty", 0o644, nil)
	write("one", 0o600, []byte("1"))
	write("run.sh", 0o700, []byte("#!/bin/sh\n"))
	write("block", 0o644, pattern(4096))
	write("large", 0o644, pattern(700_001))
	write("deep/er/and/deeper/file", 0o644, pattern(5000))
	write("names/"+strings.Repeat("n", 255), 0o644, []byte("long"))
	write("names/grüße – 日本語", 0o644, []byte("utf-8"))
	write("names/latin-\xfc", 0o644, []byte("not utf-8"))
	write("names/.dot", 0o644, []byte("dot"))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty-folder"), 0o700))
	require.NoError(t, os.Symlink("one", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("../../large", filepath.Join(dir, "deep/er/up")))
	require.NoError(t, os.Symlink(strings.Repeat("x", 59), filepath.Join(dir, "link59")))
	require.NoError(t, os.Symlink(strings.Repeat("x", 60), filepath.Join(dir, "link60")))
	require.NoError(t, os.Symlink("/"+strings.Repeat("long/", 800), filepath.Join(dir, "link-long")))
	require.NoError(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "deep/hard")))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	require.NoError(t, err)
	_, err = sparse.WriteAt([]byte("in the middle"), 3<<20)
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(10<<20+5))
	require.NoError(t, sparse.Close())
	return dir
}

func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) | 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// pack packs a folder, checks it and opens it.
func pack(t testing.TB, src Tree, o *PackOptions) (*Image, *FS) {
	t.Helper()
	image, err := Pack(context.Background(), filepath.Join(t.TempDir(), "image"), src, o)
	require.NoError(t, err)
	t.Cleanup(func() { image.Close() })
	fsck(t, image.Path())
	f, err := Open(image, image.Size(), nil)
	require.NoError(t, err)
	return image, f
}

// listing describes all that a tree holds, for comparisons.
func listing(t testing.TB, fsys fs.FS) map[string]string {
	t.Helper()
	found := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := fs.ReadDir(fsys, dir)
		require.NoError(t, err)
		for _, e := range entries {
			name := dir + "/" + e.Name()
			if dir == "." {
				name = e.Name()
			}
			info, err := e.Info()
			require.NoError(t, err, name)
			require.Equal(t, e.Type(), info.Mode().Type())
			switch {
			case e.IsDir():
				found[name] = "folder"
				walk(name)
			case e.Type() == fs.ModeSymlink:
				target, err := fs.ReadLink(fsys, name)
				require.NoError(t, err, name)
				found[name] = "link " + target
			default:
				f, err := fsys.Open(name)
				require.NoError(t, err, name)
				b, err := io.ReadAll(f)
				require.NoError(t, err, name)
				require.NoError(t, f.Close())
				require.EqualValues(t, len(b), info.Size())
				found[name] = fmt.Sprintf("file %v %d %x", info.Mode()&0o111 != 0, len(b), sum(b))
			}
		}
	}
	walk(".")
	return found
}

// hostFS lists a host folder with any names, unlike os.DirFS.
type hostFS string

func (h hostFS) path(name string) string              { return filepath.Join(string(h), name) }
func (h hostFS) Open(name string) (fs.File, error)    { return os.Open(h.path(name)) }
func (h hostFS) ReadLink(name string) (string, error) { return os.Readlink(h.path(name)) }
func (h hostFS) Lstat(name string) (fs.FileInfo, error) {
	return os.Lstat(h.path(name))
}
func (h hostFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return os.ReadDir(h.path(name))
}

func sum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func TestAPackedFolderIsReadBackAsItIs(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	_, f := pack(t, Folder(dir), nil)
	assert.Equal(t, listing(t, hostFS(dir)), listing(t, f))

	a, err := f.Stat("large")
	require.NoError(t, err)
	b, err := f.Stat("deep/hard")
	require.NoError(t, err)
	assert.Equal(t, a.Sys(), b.Sys(), "hard links stay hard links")
	assert.EqualValues(t, 2, a.Sys().(*FileStat).Links)
	assert.True(t, a.ModTime().Equal(DefaultTime))

	sparse, err := f.Open("sparse")
	require.NoError(t, err)
	start, end, err := sparse.(holed).nextData(0)
	require.NoError(t, err)
	assert.Equal(t, [2]int64{3 << 20, 3<<20 + 4096}, [2]int64{start, end}, "holes stay holes")
}

func TestAnImagePassesTheStandardTestOfFileSystems(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "names/latin-\xfc"))) // fs.ValidPath wants UTF-8
	for _, name := range []string{"link59", "link60", "link-long", "deep/er/up"} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	for _, large := range []string{"sparse", "large", "deep/hard"} { // it reads by single bytes
		require.NoError(t, os.Truncate(filepath.Join(dir, large), 10_000))
	}
	_, f := pack(t, Folder(dir), nil)
	require.NoError(t, fstest.TestFS(f, "empty", "deep/er/and/deeper/file", "link", "sparse"))
}

func TestTheSameTreeGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	first, _ := pack(t, Folder(dir), nil)
	require.NoError(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if e.Type() == fs.ModeSymlink {
			return err
		}
		return errors.Join(err, os.Chtimes(name, time.Now(), time.Now()))
	}))
	require.NoError(t, os.Chmod(filepath.Join(dir, "one"), 0o444))
	second, _ := pack(t, Folder(dir), nil)
	assert.Equal(t, first.Digest(), second.Digest(), "times and modes are normalised")
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", first.Digest())

	require.NoError(t, os.Chmod(filepath.Join(dir, "one"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "one"), []byte("2"), 0o644))
	third, _ := pack(t, Folder(dir), nil)
	assert.NotEqual(t, first.Digest(), third.Digest())
}

func TestAKernelMountsAnImage(t *testing.T) {
	dir := sampleTree(t)
	image, _ := pack(t, Folder(dir), &PackOptions{Free: 4 << 20, FreeFiles: 100})
	at := t.TempDir()
	need.Thing(t, "mount", func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "mount", "-o", "loop,ro", image.Path(), at).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	mounted := true
	unmount := func() {
		if mounted {
			out, err := exec.Command("umount", at).CombinedOutput()
			require.NoError(t, err, "%s", out)
			mounted = false
		}
	}
	defer unmount()
	assert.Equal(t, listing(t, hostFS(dir)), listing(t, hostFS(at)))
	unmount()

	out, err := exec.Command("mount", "-o", "loop", image.Path(), at).CombinedOutput()
	require.NoError(t, err, "%s", out)
	mounted = true
	for i := range 90 {
		require.NoError(t, os.WriteFile(filepath.Join(at, "names", fmt.Sprintf("new-%d-%s", i, strings.Repeat("x", 200))), pattern(10000), 0o644))
	}
	require.NoError(t, os.Remove(filepath.Join(at, "sparse")))
	require.NoError(t, os.WriteFile(filepath.Join(at, "one"), pattern(3), 0o644))
	want := listing(t, hostFS(at))
	unmount()
	fsck(t, image.Path())
	f, err := Open(image, image.Size(), nil)
	require.NoError(t, err)
	assert.Equal(t, want, listing(t, f), "what a kernel made of the image")
}

func TestExtractGivesBackWhatWasPacked(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "link-long")))
	_, f := pack(t, Folder(dir), nil)
	out := filepath.Join(t.TempDir(), "out")
	report, err := Extract(context.Background(), f, out, Limits{Symlinks: true})
	require.NoError(t, err)
	assert.Empty(t, report.Refused)
	want := listing(t, hostFS(dir))
	assert.Equal(t, want, listing(t, hostFS(out)))
	assert.Equal(t, len(want), report.Files+report.Folders+report.Links)

	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(filepath.Join(out, "sparse"), &st))
	assert.Less(t, st.Blocks*512, int64(1<<20), "holes are kept")
}
