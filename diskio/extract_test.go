package diskio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func extract(t testing.TB, fsys fs.FS, l Limits) (string, Report, error) {
	t.Helper()
	outer := t.TempDir()
	out := filepath.Join(outer, "out")
	report, err := Extract(context.Background(), fsys, out, l)
	entries, readErr := os.ReadDir(outer)
	require.NoError(t, readErr)
	assert.Len(t, entries, 1, "nothing is written outside")
	return out, report, err
}

// oddFS is an fs.FS whose names and kinds are what nobody should have.
type oddFS struct {
	entries []fs.DirEntry
	links   map[string]string
}

type oddEntry struct {
	name string
	mode fs.FileMode
}

func (e oddEntry) Name() string               { return e.name }
func (e oddEntry) Size() int64                { return 0 }
func (e oddEntry) Mode() fs.FileMode          { return e.mode }
func (e oddEntry) Type() fs.FileMode          { return e.mode.Type() }
func (e oddEntry) ModTime() time.Time         { return DefaultTime }
func (e oddEntry) IsDir() bool                { return e.mode.IsDir() }
func (e oddEntry) Sys() any                   { return nil }
func (e oddEntry) Info() (fs.FileInfo, error) { return e, nil }

func (o oddFS) Open(name string) (fs.File, error) {
	return (fstest.MapFS{"f": {Data: []byte("odd")}}).Open("f")
}
func (o oddFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "." {
		return o.entries, nil
	}
	return nil, nil
}
func (o oddFS) ReadLink(name string) (string, error)   { return o.links[name], nil }
func (o oddFS) Lstat(name string) (fs.FileInfo, error) { return nil, fs.ErrNotExist }

func TestNamesThatWouldLeaveTheFolderAreRefused(t *testing.T) {
	t.Parallel()
	odd := oddFS{}
	names := []string{"../escape", "/absolute", "..", ".", "", "a/b", "zero\x00"}
	for _, name := range names {
		odd.entries = append(odd.entries, oddEntry{name, 0}, oddEntry{name, fs.ModeDir})
	}
	odd.entries = append(odd.entries, oddEntry{"good", 0}, oddEntry{"dev", fs.ModeDevice}, oddEntry{"pipe", fs.ModeNamedPipe}, oddEntry{"socket", fs.ModeSocket})
	out, report, err := extract(t, odd, Limits{})
	require.NoError(t, err)
	assert.Equal(t, 1, report.Files)
	assert.Len(t, report.Refused, 2*len(names)+3)
	assert.Equal(t, map[string]string{"good": fmt.Sprintf("file false 3 %x", sum([]byte("odd")))}, listing(t, hostFS(out)))
	assert.Equal(t, "dev: a device", report.Refused[len(report.Refused)-3].String())
	assert.Equal(t, `./zero\x00: impossible name`, report.Refused[len(report.Refused)-4].String())

	for range maxRefusals {
		odd.entries = append(odd.entries, oddEntry{"..", 0})
	}
	_, report, err = extract(t, odd, Limits{})
	require.NoError(t, err)
	assert.Len(t, report.Refused, maxRefusals)
	assert.Equal(t, 2*len(names)+3, report.RefusedMore)
}

func TestOnlyLinksThatStayInsideAreMadeAndOnlyOnRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		target string
		depth  int
		ok     bool
	}{
		"beside":                {"f", 0, true},
		"below":                 {"a/b/./c", 0, true},
		"up and down":           {"../x/y", 1, true},
		"up too far":            {"../../x", 1, false},
		"up at the top":         {"..", 0, false},
		"absolute":              {"/etc/passwd", 3, false},
		"empty":                 {"", 0, false},
		"back behind a name":    {"a/../b", 5, false},
		"far back behind names": {"a/b/../../../../b", 9, false},
		"zero byte":             {"a\x00", 0, false},
		"deep":                  {"../../..", 3, true},
	} {
		assert.Equal(t, test.ok, escapes(test.target, test.depth) == "", name)
	}
	src := fstest.MapFS{
		"f":      {Data: []byte("f")},
		"d/in":   {Data: []byte("../f"), Mode: fs.ModeSymlink},
		"d/out":  {Data: []byte("../../f"), Mode: fs.ModeSymlink},
		"z-link": {Data: []byte("d"), Mode: fs.ModeSymlink},
	}
	out, report, err := extract(t, src, Limits{Symlinks: true})
	require.NoError(t, err)
	assert.Equal(t, 2, report.Links)
	require.Len(t, report.Refused, 1)
	assert.Equal(t, "d/out: symbolic link to ../../f, which is outside", report.Refused[0].String())
	b, err := os.ReadFile(filepath.Join(out, "z-link/in"))
	require.NoError(t, err)
	assert.Equal(t, "f", string(b))

	_, report, err = extract(t, src, Limits{})
	require.NoError(t, err)
	assert.Zero(t, report.Links)
	assert.Len(t, report.Refused, 3)
}

func TestLimitsOfAnExtraction(t *testing.T) {
	t.Parallel()
	src := fstest.MapFS{
		"a":                               {Data: []byte("0123456789")},
		"b/c/d/e":                         {Data: []byte("deep")},
		"long-" + strings.Repeat("x", 50): {Data: []byte("name")},
		"z":                               {Data: []byte("0123456789")},
	}
	for name, test := range map[string]struct {
		limits Limits
		want   string
		files  int
	}{
		"none":      {Limits{Bytes: -1, FileBytes: -1, Files: -1, Depth: -1, Name: -1, Time: -1}, "", 4},
		"defaults":  {Limits{}, "", 4},
		"exact":     {Limits{Bytes: 28, FileBytes: 10, Files: 7, Depth: 4, Name: 55}, "", 4},
		"bytes":     {Limits{Bytes: 27}, "extract z: over the limit: files have more than 27 bytes", 3},
		"one file":  {Limits{FileBytes: 9}, "extract a: over the limit: it has 10 bytes, 9 are allowed (and 1 more are missing)", 2},
		"files":     {Limits{Files: 6}, "extract z: over the limit: more than 6 files", 3},
		"depth":     {Limits{Depth: 3}, "extract b/c/d/e: over the limit: it is 4 folders deep, 3 are allowed", 3},
		"name":      {Limits{Name: 54}, "over the limit: name has 55 bytes, 54 are allowed", 3},
		"no time":   {Limits{Time: 1}, "over the limit: it took longer than 1ns", 0},
		"first one": {Limits{Bytes: 9}, "extract a: over the limit: files have more than 9 bytes", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, report, err := extract(t, src, test.limits)
			if test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
				require.ErrorIs(t, err, ErrLimit)
			}
			assert.Equal(t, test.files, report.Files)
			files := 0
			for name, what := range listing(t, hostFS(out)) {
				if strings.HasPrefix(what, "file") {
					files++
					assert.Contains(t, what, fmt.Sprintf("%x", sum(src[name].Data)), "files that are there are whole")
				}
			}
			assert.Equal(t, test.files, files)
		})
	}
	assert.Equal(t, int64(math.MaxInt64), Limits{Bytes: -1}.orDefault().Bytes)
}

func TestNothingThatIsThereIsOverwrittenOrFollowed(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for name, prepare := range map[string]func(out string) error{
		"a file": func(out string) error { return os.WriteFile(filepath.Join(out, "d"), []byte("mine"), 0o644) },
		"a link out for a folder": func(out string) error {
			return os.Symlink(outside, filepath.Join(out, "d"))
		},
		"a link out for a file": func(out string) error {
			return errors.Join(os.Mkdir(filepath.Join(out, "d"), 0o755), os.Symlink(filepath.Join(outside, "new"), filepath.Join(out, "d/f")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			require.NoError(t, prepare(out))
			before := listing(t, hostFS(out))
			_, err := Extract(context.Background(), fstest.MapFS{"d/f": {Data: []byte("theirs")}}, out, Limits{})
			require.ErrorIs(t, err, fs.ErrExist)
			assert.Equal(t, before, listing(t, hostFS(out)))
			assert.Empty(t, listing(t, hostFS(outside)))
		})
	}
	out := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(out, "d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(out, "d/mine"), nil, 0o644))
	report, err := Extract(context.Background(), fstest.MapFS{"d/f": {Data: []byte("theirs")}}, out, Limits{})
	require.NoError(t, err, "folders are joined")
	assert.Equal(t, 1, report.Files)
	_, err = Extract(context.Background(), fstest.MapFS{}, filepath.Join(out, "d/mine"), Limits{})
	require.Error(t, err)
}

// failingFS fails in different ways.
type failingFS struct {
	fstest.MapFS
	fail map[string]error
}

func (f failingFS) Open(name string) (fs.File, error) {
	file, err := f.MapFS.Open(name)
	if f.fail[name] != nil {
		return failingFile{file, f.fail[name]}, err
	}
	return file, err
}

type failingFile struct {
	fs.File
	err error
}

func (f failingFile) Read(p []byte) (int, error) {
	if n, err := f.File.Read(p[:min(2, len(p))]); err != io.EOF {
		return n, err
	}
	return 0, f.err
}

func TestWhatCannotBeReadIsLeftOutWholeAndTheRestIsExtracted(t *testing.T) {
	t.Parallel()
	src := failingFS{fstest.MapFS{"a": {Data: []byte("aaaa")}, "b": {Data: []byte("bbbb")}, "c/d": {Data: []byte("dddd")}},
		map[string]error{"b": errors.New("bad sector")}}
	out, report, err := extract(t, src, Limits{})
	require.ErrorContains(t, err, "extract b: bad sector")
	assert.Equal(t, 2, report.Files)
	assert.NoFileExists(t, filepath.Join(out, "b"))
	assert.FileExists(t, filepath.Join(out, "c/d"))

	for _, size := range []int64{2, 4, 1 << 20} {
		out, _, err := extract(t, liarFS{size, "abc"}, Limits{})
		require.ErrorIs(t, err, ErrCorrupt, "%d", size)
		assert.NoFileExists(t, filepath.Join(out, "f"))
	}

	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	out = t.TempDir()
	report, err = Extract(ctx, tickingFS{zeroFS(8 << 20), func() { cancel(enough) }}, out, Limits{})
	require.ErrorIs(t, err, enough)
	assert.Zero(t, report.Files)
	assert.Empty(t, listing(t, hostFS(out)))
}

func TestDamageInOneFileOfAnImageLeavesTheOthers(t *testing.T) {
	t.Parallel()
	image, f := pack(t, Tree{Files: []File{{Path: "a", Data: pattern(9)}, {Path: "b", Data: pattern(8)}, {Path: "c", Data: pattern(7)}}}, nil)
	info, err := f.Stat("b")
	require.NoError(t, err)
	// The inode tables begin behind superblock, descriptors and two bitmaps.
	at := 4*4096 + int64(info.Sys().(*FileStat).Inode-1)*256
	broken := brokenImage{image, at}
	f, err = Open(broken, image.Size(), nil)
	require.NoError(t, err)
	out, report, err := extract(t, f, Limits{})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "extract b: open b: diskio: read: inode 12: damaged: checksum is")
	assert.Equal(t, 2, report.Files)
	assert.FileExists(t, filepath.Join(out, "c"))
}

type brokenImage struct {
	io.ReaderAt
	at int64
}

func (b brokenImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.ReaderAt.ReadAt(p, off)
	if off <= b.at && b.at < off+int64(n) {
		p[b.at-off] ^= 1
	}
	return n, err
}
