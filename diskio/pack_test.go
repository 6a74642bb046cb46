package diskio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

func tryPack(t testing.TB, src Tree, o *PackOptions) error {
	t.Helper()
	dir := t.TempDir()
	image, err := Pack(context.Background(), filepath.Join(dir, "image"), src, o)
	if err == nil {
		image.Close()
		return nil
	}
	assert.Nil(t, image)
	left, readErr := os.ReadDir(dir)
	require.NoError(t, readErr)
	assert.Empty(t, left, "nothing half-done is left")
	return err
}

func TestWhatCannotBePackedIsRefusedByName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644))
	mapFS := fstest.MapFS{"f": {Data: []byte("x")}}
	for name, test := range map[string]struct {
		src     Tree
		options PackOptions
		want    string
	}{
		"no source":       {src: Tree{Roots: []Root{{}}}, want: "Tree.Roots[0] has neither Dir nor FS, want one"},
		"two sources":     {src: Tree{Roots: []Root{{Dir: dir, FS: mapFS}}}, want: "Tree.Roots[0] has both Dir"},
		"missing folder":  {src: Folder(filepath.Join(dir, "none")), want: "none: no such file or directory"},
		"file for folder": {src: Folder(filepath.Join(dir, "file")), want: "not a directory"},
		"escaping place":  {src: Tree{Roots: []Root{{FS: mapFS, At: "../x"}}}, want: `Tree.Roots[0].At is "../x": want a path without`},
		"bad pattern":     {src: Tree{Roots: []Root{{FS: mapFS, Only: []string{"[a"}}}}, want: `pattern "[a": syntax error`},
		"absolute pattern": {src: Tree{Roots: []Root{{FS: mapFS, Skip: []string{"/a"}}}},
			want: `pattern "/a": want a relative pattern`},
		"absolute path": {src: Tree{Files: []File{{Path: "/etc/passwd"}}}, want: `Tree.Files[0].Path is "/etc/passwd": want a relative path`},
		"no path":       {src: Tree{Files: []File{{}}}, want: `Tree.Files[0].Path is "": want a path, got none`},
		"top":           {src: Tree{Files: []File{{Path: "."}}}, want: `want the path of a file`},
		"long name":     {src: Tree{Files: []File{{Path: "a/" + strings.Repeat("x", 256)}}}, want: "element has 256 bytes, want at most 255"},
		"zero byte":     {src: Tree{Files: []File{{Path: "a\x00b"}}}, want: "has a zero byte"},
		"mode":          {src: Tree{Files: []File{{Path: "a", Mode: fs.ModeSetuid | 0o755}}}, want: "want permission bits only"},
		"missing file":  {src: Tree{Files: []File{{Path: "a", Source: filepath.Join(dir, "none")}}}, want: "none: no such file or directory"},
		"folder as file": {src: Tree{Files: []File{{Path: "a", Source: dir}}},
			want: "is a folder, want a file"},
		"twice":           {src: Tree{Files: []File{{Path: "a"}, {Path: "a"}}}, want: "a: name is there twice"},
		"file and folder": {src: Tree{Files: []File{{Path: "a"}, {Path: "a/b"}}}, want: "a: name is there twice"},
		"label":           {options: PackOptions{Label: strings.Repeat("l", 17)}, want: "PackOptions.Label has 17 bytes, want at most 16"},
		"room":            {options: PackOptions{Free: -1}, want: "PackOptions.Free is -1, want 0 to"},
		"room for files":  {options: PackOptions{FreeFiles: -1}, want: "PackOptions.FreeFiles is -1, want 0 to"},
		"renamed out": {src: Tree{Roots: []Root{{FS: mapFS, Rename: func(string) string { return "../../x" }}}},
			want: `f: renamed to "../../x": want a path without`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tryPack(t, test.src, &test.options)
			require.ErrorContains(t, err, test.want)
			var oe *OpError
			require.ErrorAs(t, err, &oe)
			assert.Equal(t, "pack", oe.Op)
		})
	}
}

func TestDevicesPipesAndSocketsArePackedWithPreserveOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o640))
	err := tryPack(t, Folder(dir), nil)
	require.ErrorContains(t, err, "pipe: is a named pipe: only files, folders and symbolic links are packed without Preserve")

	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	defer listener.Close()
	when := time.Date(2031, 5, 6, 7, 8, 9, 123456789, time.UTC)
	far := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, at := range map[string]time.Time{"old": time.Date(1950, 1, 1, 0, 0, 0, 5, time.UTC), "now": when, "far": far} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "now"), 0o6750|fs.ModeSetuid))
	device := syscall.Mknod(filepath.Join(dir, "device"), syscall.S_IFCHR|0o600, 0x12345) == nil // root only
	require.NoError(t, os.Chmod(dir, 0o711))
	require.NoError(t, os.Chtimes(dir, when, when))

	_, f := pack(t, Folder(dir), &PackOptions{Preserve: true, Label: "kept"})
	assert.Equal(t, "kept", f.Label())
	info, err := f.Stat("now")
	require.NoError(t, err)
	assert.Equal(t, 0o750|fs.ModeSetuid, info.Mode())
	assert.True(t, when.Equal(info.ModTime()), "%v", info.ModTime())
	assert.EqualValues(t, os.Getuid(), info.Sys().(*FileStat).UID)
	for name, kind := range map[string]fs.FileMode{"pipe": fs.ModeNamedPipe, "socket": fs.ModeSocket} {
		info, err := f.Lstat(name)
		require.NoError(t, err)
		assert.Equal(t, kind, info.Mode().Type())
		_, err = f.Open(name)
		assert.ErrorIs(t, err, ErrUnsupported)
	}
	if device {
		info, err := f.Lstat("device")
		require.NoError(t, err)
		assert.Equal(t, fs.ModeDevice|fs.ModeCharDevice, info.Mode().Type())
		var st syscall.Stat_t
		require.NoError(t, syscall.Lstat(filepath.Join(dir, "device"), &st))
		assert.Equal(t, deviceNumber(uint64(st.Rdev)), info.Sys().(*FileStat).Rdev)
	}
	info, err = f.Stat("far")
	require.NoError(t, err)
	assert.True(t, far.Equal(info.ModTime()))
	info, err = f.Stat(".")
	require.NoError(t, err)
	assert.Equal(t, 0o711|fs.ModeDir, info.Mode())
	assert.True(t, when.Equal(info.ModTime()))

	preserved, f := pack(t, Tree{Roots: []Root{{FS: os.DirFS(dir), Skip: []string{"device"}}}}, &PackOptions{Preserve: true})
	require.NotNil(t, preserved)
	info, err = f.Stat("now")
	require.NoError(t, err)
	assert.Equal(t, 0o750|fs.ModeSetuid, info.Mode())
}

func TestAnUnreadableFileIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		// Root reads all; a file system that fails stands for it.
		broken := brokenFS{fstest.MapFS{"good": {Data: []byte("x")}, "bad": {Data: []byte("y")}}}
		err := tryPack(t, Tree{Roots: []Root{{FS: broken}}}, nil)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "pack bad")
		return
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad"), []byte("y"), 0))
	err := tryPack(t, Folder(dir), nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, filepath.Join(dir, "bad"))
}

type brokenFS struct{ fstest.MapFS }

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == "bad" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return b.MapFS.Open(name)
}

// changing makes what Pack reads change between its look and its reading: the
// change is made as soon as another root, which comes later, is listed.
func changing(dir string, change func()) Tree {
	return Tree{Roots: []Root{{Dir: dir}, {FS: listingFS{change}, At: "other"}}}
}

type listingFS struct{ do func() }

func (l listingFS) Open(string) (fs.File, error) { return nil, fs.ErrNotExist }
func (l listingFS) ReadDir(string) ([]fs.DirEntry, error) {
	l.do()
	return nil, nil
}

func TestAChangeOfATreeWhileItIsPackedIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), 3*smallFile)
	for name, change := range map[string]func(t *testing.T, dir string){
		"small grows":   func(t *testing.T, dir string) { appendTo(t, filepath.Join(dir, "sub/small"), "more") },
		"small shrinks": func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "sub/small"), 2)) },
		"small same size": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "sub/small"), []byte("other"), 0o644))
		},
		"empty grows":   func(t *testing.T, dir string) { appendTo(t, filepath.Join(dir, "sub/empty"), "more") },
		"large grows":   func(t *testing.T, dir string) { appendTo(t, filepath.Join(dir, "sub/large"), "more") },
		"large shrinks": func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "sub/large"), 2)) },
		"hole filled":   func(t *testing.T, dir string) { appendTo(t, filepath.Join(dir, "sub/hole"), "more") },
		"goes":          func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "sub/small"))) },
		"becomes a link out": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "sub/small")))
			require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(dir, "sub/small")))
		},
		"becomes a pipe": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "sub/small")))
			require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "sub/small"), 0o644))
		},
		"comes": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "sub/new"), nil, 0o644))
		},
		"folder goes": func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "sub"))) },
		"folder becomes a link out": func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "moved")))
			require.NoError(t, os.Symlink("moved", filepath.Join(dir, "sub")))
			require.NoError(t, os.Remove(filepath.Join(dir, "moved/small")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
			for name, content := range map[string][]byte{"small": []byte("small"), "empty": nil, "large": large, "hole": nil} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", name), content, 0o644))
			}
			require.NoError(t, os.Truncate(filepath.Join(dir, "sub/hole"), 1<<20))
			// Time goes in steps: a change in the same one could not be seen.
			past := time.Now().Add(-time.Hour)
			require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Chtimes(name, past, past))
			}))
			err := tryPack(t, changing(dir, func() { change(t, dir) }), nil)
			require.ErrorIs(t, err, ErrChanged)
			assert.ErrorContains(t, err, dir)
		})
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, errors.Join(err, f.Close()))
}

// liarFS says another size than its file has.
type liarFS struct {
	size int64
	text string
}

func (l liarFS) Open(name string) (fs.File, error) {
	if name == "." {
		return nil, fs.ErrInvalid
	}
	f, err := (fstest.MapFS{"f": {Data: []byte(l.text)}}).Open("f")
	return liarFile{f, l.size}, err
}

func (l liarFS) ReadDir(string) ([]fs.DirEntry, error) {
	return []fs.DirEntry{fs.FileInfoToDirEntry(liarInfo{l.size})}, nil
}

type liarFile struct {
	fs.File
	size int64
}

func (l liarFile) Stat() (fs.FileInfo, error) { return liarInfo{l.size}, nil }

type liarInfo struct{ size int64 }

func (l liarInfo) Name() string       { return "f" }
func (l liarInfo) Size() int64        { return l.size }
func (l liarInfo) Mode() fs.FileMode  { return 0o644 }
func (l liarInfo) ModTime() time.Time { return DefaultTime }
func (l liarInfo) IsDir() bool        { return false }
func (l liarInfo) Sys() any           { return nil }

func TestAFileSystemThatLiesAboutSizesIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 2, 4, 1 << 20} {
		src := Tree{Roots: []Root{{FS: liarFS{size, "abc"}}}}
		require.ErrorIs(t, tryPack(t, src, nil), ErrChanged, "%d", size)
		_, err := newCache(t, 0).Pack(context.Background(), src, nil)
		require.ErrorIs(t, err, ErrChanged, "%d", size)
	}
	require.ErrorContains(t, tryPack(t, Tree{Roots: []Root{{FS: liarFS{-1, "abc"}}}}, nil), "size is -1")
	require.NoError(t, tryPack(t, Tree{Roots: []Root{{FS: liarFS{3, "abc"}}}}, nil))
}

func TestPatternsAndRenamesChooseWhatIsPacked(t *testing.T) {
	t.Parallel()
	src := fstest.MapFS{}
	for _, name := range []string{"go.mod", "a.go", "a_test.go", "sub/b.go", "sub/b.txt", "sub/testdata/x/y", "vendor/v.go", "sub/vendor/w.go"} {
		src[name] = &fstest.MapFile{Data: []byte(name)}
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, src))
	for name, test := range map[string]struct {
		root Root
		want []string
	}{
		"all":            {Root{}, []string{"a.go", "a_test.go", "go.mod", "sub/b.go", "sub/b.txt", "sub/testdata/x/y", "sub/vendor/w.go", "vendor/v.go"}},
		"by name":        {Root{Only: []string{"*.go"}}, []string{"a.go", "a_test.go", "sub/b.go", "sub/vendor/w.go", "vendor/v.go"}},
		"skip wins":      {Root{Only: []string{"*.go"}, Skip: []string{"vendor", "*_test.go"}}, []string{"a.go", "sub/b.go"}},
		"by path":        {Root{Only: []string{"sub/*.go", "go.mod"}}, []string{"go.mod", "sub/b.go"}},
		"any depth":      {Root{Only: []string{"**/testdata/**"}}, []string{"sub/testdata/x/y"}},
		"with all below": {Root{Only: []string{"sub"}, Skip: []string{"sub/vendor"}}, []string{"sub/b.go", "sub/b.txt", "sub/testdata/x/y"}},
		"only the top's": {Root{Skip: []string{"vendor/*", "sub/*"}}, []string{"a.go", "a_test.go", "go.mod"}},
		"below a folder": {Root{Only: []string{"go.mod"}, At: "x/y"}, []string{"x/y/go.mod"}},
		"renamed": {Root{Only: []string{"*.go"}, Skip: []string{"vendor"}, Rename: func(name string) string {
			if strings.HasSuffix(name, "_test.go") {
				return ""
			}
			return "src/" + strings.ToUpper(name)
		}}, []string{"src/A.GO", "src/SUB/B.GO"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fromFS, fromDir := test.root, test.root
			fromFS.FS, fromDir.Dir = src, dir
			a, f := pack(t, Tree{Roots: []Root{fromFS}}, nil)
			b, _ := pack(t, Tree{Roots: []Root{fromDir}}, nil)
			var got []string
			require.NoError(t, fs.WalkDir(f, ".", func(name string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					got = append(got, name)
				}
				return err
			}))
			assert.Equal(t, test.want, got)
			assert.Equal(t, a.Digest(), b.Digest(), "from a folder and from an fs.FS")
		})
	}
}

func TestTreesOfAllShapesArePacked(t *testing.T) {
	t.Parallel()
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		image, f := pack(t, Tree{}, nil)
		assert.LessOrEqual(t, image.Size(), int64(64<<10))
		assert.Empty(t, listing(t, f))
	})
	t.Run("joined", func(t *testing.T) {
		t.Parallel()
		exe, err := os.Executable()
		require.NoError(t, err)
		_, f := pack(t, Tree{
			Roots: []Root{{FS: fstest.MapFS{"d/a": {}}}, {FS: fstest.MapFS{"d/b": {}}, At: "."}, {FS: fstest.MapFS{}, At: "empty/folder"}},
			Files: []File{{Path: "d/c", Mode: 0o700}, {Path: "bin/test", Source: exe}, {Path: "plain", Source: exe, Mode: 0o600}},
		}, nil)
		got := listing(t, f)
		assert.Len(t, got, 9)
		info, err := f.Stat("bin/test")
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o755), info.Mode())
		info, err = f.Stat("plain")
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o644), info.Mode())
		want, err := os.ReadFile(exe)
		require.NoError(t, err)
		b, err := f.ReadFile("bin/test")
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, b))
	})
	t.Run("a folder with 20,000 files, and more inodes than one group has", func(t *testing.T) {
		t.Parallel()
		var src Tree
		for i := range 20_000 {
			src.Files = append(src.Files, File{Path: fmt.Sprintf("many/file-with-a-longer-name-%05d", i)})
		}
		for i := range 14_000 {
			src.Files = append(src.Files, File{Path: fmt.Sprintf("more/%d/f", i)})
		}
		image, f := pack(t, src, nil)
		entries, err := f.ReadDir("many")
		require.NoError(t, err)
		assert.Len(t, entries, 20_000)
		assert.Less(t, image.Size(), int64(80<<20), "groups are smaller, instead of empty")
		_, err = Open(image, image.Size(), &OpenOptions{DirEntries: 10})
		require.NoError(t, err)
		limited, err := Open(image, image.Size(), &OpenOptions{DirEntries: 19_999})
		require.NoError(t, err)
		_, err = limited.ReadDir("many")
		require.ErrorIs(t, err, ErrLimit)
	})
	t.Run("2,000 folders deep", func(t *testing.T) {
		t.Parallel()
		deep := strings.Repeat("d/", 2000)
		image, f := pack(t, Tree{Files: []File{{Path: deep + "f", Data: []byte("x")}}}, nil)
		b, err := f.ReadFile(deep + "f")
		require.NoError(t, err)
		assert.Equal(t, "x", string(b))
		_ = image
	})
	t.Run("a sparse file of 6 GiB with 3,000 pieces", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "huge"))
		require.NoError(t, err)
		for i := range int64(3000) {
			_, err := fmt.Fprintf(io.NewOffsetWriter(f, i<<21), "piece %d", i)
			require.NoError(t, err)
		}
		require.NoError(t, f.Truncate(6<<30))
		require.NoError(t, f.Close())
		var st syscall.Stat_t
		require.NoError(t, syscall.Stat(filepath.Join(dir, "huge"), &st))
		if st.Blocks*512 > 1<<30 {
			t.Skip("the file system of the test knows no holes")
		}
		image, packed := pack(t, Folder(dir), nil)
		assert.Less(t, image.Size(), int64(100<<20))
		opened, err := packed.Open("huge")
		require.NoError(t, err)
		assert.EqualValues(t, 6<<30, opened.(*file).info.Size())
		b := make([]byte, 20)
		for _, i := range []int64{0, 1, 339, 340, 341, 1500, 2999} {
			_, err := opened.(io.ReaderAt).ReadAt(b, i<<21)
			require.NoError(t, err)
			want := fmt.Sprintf("piece %d", i)
			assert.Equal(t, want, string(b[:len(want)]))
		}
		out := filepath.Join(t.TempDir(), "out")
		_, err = Extract(context.Background(), packed, out, Limits{})
		require.NoError(t, err)
		again, err := Pack(context.Background(), filepath.Join(t.TempDir(), "again"), Folder(out), nil)
		require.NoError(t, err)
		defer again.Close()
		assert.Equal(t, image.Digest(), again.Digest())
	})
	t.Run("a file of many groups", func(t *testing.T) {
		t.Parallel()
		image, f := pack(t, Tree{Roots: []Root{{FS: zeroFS(700 << 20)}}}, nil)
		assert.Greater(t, image.Size(), int64(700<<20))
		info, err := f.Stat("zeros")
		require.NoError(t, err)
		assert.EqualValues(t, 700<<20, info.Size())
		opened, err := f.Open("zeros")
		require.NoError(t, err)
		_, end, err := opened.(holed).nextData(600 << 20)
		require.NoError(t, err)
		assert.EqualValues(t, 640<<20, end, "an extent has 128 MiB")
	})
}

func TestHolesAreFoundInWholeBlocks(t *testing.T) {
	t.Parallel()
	type run = ext4.Segment
	for name, test := range map[string]struct {
		size int64
		data []run // as a file system says it
		want []run
	}{
		"nothing":           {10_000, nil, []run{}},
		"all":               {10_000, []run{{Offset: 0, Length: 10_000}}, nil},
		"all, to its block": {10_000, []run{{Offset: 0, Length: 12_288}}, nil},
		"odd":               {100_000, []run{{Offset: 5_000, Length: 100}, {Offset: 9_000, Length: 1}, {Offset: 50_000, Length: 10_000}}, []run{{Offset: 4096, Length: 8192}, {Offset: 49_152, Length: 12_288}}},
		"to the odd end":    {9_001, []run{{Offset: 8_999, Length: 2}}, []run{{Offset: 8192, Length: 809}}},
		"one block":         {1 << 20, []run{{Offset: 4096, Length: 4096}}, []run{{Offset: 4096, Length: 4096}}},
	} {
		seek := func(at int64, whence int) (int64, error) {
			for _, r := range test.data {
				end := r.Offset + r.Length
				switch {
				case at >= end:
				case whence == 3:
					return max(at, r.Offset), nil
				case at >= r.Offset:
					return end, nil
				}
			}
			if whence == 3 {
				return 0, &fs.PathError{Op: "seek", Err: syscall.ENXIO}
			}
			return at, nil
		}
		assert.Equal(t, test.want, dataSegments(test.size, seek), name)
	}
	broken := func(int64, int) (int64, error) { return 0, syscall.EINVAL }
	assert.Nil(t, dataSegments(100, broken))
	assert.Nil(t, dataSegments(100, func(at int64, _ int) (int64, error) { return 0, nil }), "it would not end")
}

func TestLargeFilesAreCopiedInPieces(t *testing.T) {
	t.Parallel()
	data := make([]byte, piece+3<<20+77)
	for i := 0; i < len(data); i += 4096 {
		copy(data[i:], fmt.Sprint("block ", i))
	}
	dirs := []string{t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "bullpen-test-"); err == nil { // another file system
		defer os.RemoveAll(dir)
		dirs = append(dirs, dir)
	}
	var digests []string
	for _, dir := range dirs {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), data, 0o644))
		image, f := pack(t, Folder(dir), nil)
		got, err := f.ReadFile("large")
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		digests = append(digests, image.Digest())
	}
	image, _ := pack(t, Tree{Files: []File{{Path: "large", Data: data}}}, nil)
	for _, digest := range digests {
		assert.Equal(t, image.Digest(), digest, "wherever it comes from")
	}
}

func TestTheOrderOfSourcesDoesNotMatter(t *testing.T) {
	t.Parallel()
	files := []File{{Path: "b", Data: []byte("b")}, {Path: "d/z", Data: []byte("z")}, {Path: "a", Data: []byte("a")}, {Path: "d/y"}, {Path: "c/x", Data: []byte("x")}}
	first, _ := pack(t, Tree{Files: files}, nil)
	slices.Reverse(files)
	second, _ := pack(t, Tree{Files: files}, nil)
	assert.Equal(t, first.Digest(), second.Digest())
}

// zeroFS has one file of zeros, which costs nothing to read or to write: see
// its Read.
type zeroFS int64

func (z zeroFS) Open(string) (fs.File, error) {
	return &zeroFile{size: int64(z), left: int64(z)}, nil
}

func (z zeroFS) ReadDir(string) ([]fs.DirEntry, error) {
	return []fs.DirEntry{fs.FileInfoToDirEntry(zeroInfo(z))}, nil
}

type zeroFile struct{ size, left int64 }

func (z *zeroFile) Stat() (fs.FileInfo, error) { return zeroInfo(z.size), nil }
func (z *zeroFile) Close() error               { return nil }
func (z *zeroFile) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	z.left -= n
	clear(p[:n])
	return int(n), nil
}

type zeroInfo int64

func (z zeroInfo) Name() string       { return "zeros" }
func (z zeroInfo) Size() int64        { return int64(z) }
func (z zeroInfo) Mode() fs.FileMode  { return 0o644 }
func (z zeroInfo) ModTime() time.Time { return DefaultTime }
func (z zeroInfo) IsDir() bool        { return false }
func (z zeroInfo) Sys() any           { return nil }

func TestACancelledPackLeavesNothingAndTheOldImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dst := filepath.Join(dir, "image")
	require.NoError(t, os.WriteFile(dst, []byte("old"), 0o644))
	enough := errors.New("enough")
	for after := range 3 {
		ctx, cancel := context.WithCancelCause(context.Background())
		var reads atomic.Int32
		src := Tree{Roots: []Root{{FS: tickingFS{zeroFS(8 << 20), func() {
			if int(reads.Add(1)) > after {
				cancel(enough)
			}
		}}}}}
		_, err := Pack(ctx, dst, src, nil)
		require.ErrorIs(t, err, enough)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, left, 1)
		b, err := os.ReadFile(dst)
		require.NoError(t, err)
		require.Equal(t, "old", string(b))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(enough)
	_, err := Pack(ctx, dst, Folder(sampleTree(t)), nil)
	require.ErrorIs(t, err, enough)
}

// tickingFS calls tick at each listing and read.
type tickingFS struct {
	zeroFS
	tick func()
}

func (f tickingFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.tick()
	return f.zeroFS.ReadDir(name)
}

func (f tickingFS) Open(name string) (fs.File, error) {
	opened, err := f.zeroFS.Open(name)
	return tickingFile{opened, f.tick}, err
}

type tickingFile struct {
	fs.File
	tick func()
}

func (f tickingFile) Read(p []byte) (int, error) {
	f.tick()
	return f.File.Read(p)
}

func TestAnImageIsReplacedInOneStepAndNeverIntoItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dst := filepath.Join(dir, "image")
	first, err := Pack(context.Background(), dst, one("1"), nil)
	require.NoError(t, err)
	defer first.Close()
	digest := first.Digest()
	second, err := Pack(context.Background(), dst, one("2"), nil)
	require.NoError(t, err)
	defer second.Close()
	first.digest.Store(nil)
	assert.Equal(t, digest, first.Digest(), "who has the old one open keeps it")
	assert.Equal(t, dst, second.Path())

	reopened, err := OpenImage(dst)
	require.NoError(t, err)
	assert.Equal(t, second.Digest(), reopened.Digest())
	require.NoError(t, reopened.Close())
	assert.Empty(t, (&Image{f: reopened.f, busy: make(chan struct{}, 1), size: 1}).Digest(), "it is closed")
	_, err = reopened.Sum(context.Background())
	require.NoError(t, err, "it is known already")

	_, err = Pack(context.Background(), dst, Folder(dir), nil)
	require.ErrorContains(t, err, "is inside of "+dir)
	_, err = Pack(context.Background(), filepath.Join(dir, "none/image"), one("1"), nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenImage(dir)
	require.ErrorContains(t, err, "neither a regular file nor a block device")
	_, err = OpenImage(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
