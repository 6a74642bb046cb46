package diskio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mke2fs makes an image of a folder.
func mke2fs(t testing.TB, size, dir string, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	args := append([]string{"-q", "-F", "-d", dir}, options...)
	out, err := exec.Command(tool(t, "mke2fs"), append(args, image, size)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return image
}

func openFile(t testing.TB, image string) *FS {
	t.Helper()
	i, err := OpenImage(image)
	require.NoError(t, err)
	t.Cleanup(func() { i.Close() })
	f, err := Open(i, i.Size(), nil)
	require.NoError(t, err)
	return f
}

func TestImagesOfOtherProgramsAreRead(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "link-long"))) // mke2fs cannot
	require.NoError(t, os.Symlink("/"+strings.Repeat("long/", 150), filepath.Join(dir, "link-long")))
	for _, options := range []string{
		"-t ext4", "-t ext4 -b 1024 -O ^64bit", "-t ext4 -b 2048 -O inline_data -I 512", "-t ext3", "-t ext2 -b 1024",
		"-t ext4 -b 65536 -I 1024", "-t ext4 -O ^metadata_csum,uninit_bg", "-t ext4 -r 1 -O ^has_journal,^flex_bg",
		"-t ext4 -O encrypt,casefold,project,quota,mmp,verity", "-t ext4 -E orphan_file_size=8192 -O orphan_file,fast_commit",
	} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			image := mke2fs(t, "64M", dir, strings.Fields(options)...)
			got := listing(t, openFile(t, image))
			want := listing(t, hostFS(dir))
			want["lost+found"] = "folder"
			if strings.Contains(options, "inline_data") { // mke2fs 1.47.0 cuts the hole at the end off
				delete(want, "sparse")
				delete(got, "sparse")
			}
			assert.Equal(t, want, got)
		})
	}
}

func TestWhatDebugfsChangedIsRead(t *testing.T) {
	t.Parallel()
	dir := sampleTree(t)
	extra := filepath.Join(t.TempDir(), "extra")
	require.NoError(t, os.WriteFile(extra, pattern(100_000), 0o644))
	image, _ := pack(t, Folder(dir), &PackOptions{Free: 8 << 20, FreeFiles: 50})
	debugfs(t, image.Path(), "write "+extra+" extra", "mkdir made", "cd made", "symlink to ../extra", "mknod pipe p", "cd ..", "rm one", "ln large another", "rmdir empty-folder")
	f := openFile(t, image.Path())
	b, err := f.ReadFile("made/to")
	require.NoError(t, err)
	assert.True(t, bytes.Equal(pattern(100_000), b))
	_, err = f.Stat("one")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.Stat("empty-folder")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	info, err := f.Lstat("made/pipe")
	require.NoError(t, err)
	assert.Equal(t, fs.ModeNamedPipe, info.Mode().Type())
	b, err = f.ReadFile("another")
	require.NoError(t, err)
	assert.True(t, bytes.Equal(pattern(700_001), b))
}

// What is in the journal must be seen as e2fsck would bring it back: newer
// states of blocks, escaped ones, and none that was revoked.
func TestAJournalIsReplayedAsE2fsckDoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte("old."), 4096), 0o644))
	tmp := t.TempDir()
	blocks := func(name string, n int, text string) string {
		b := make([]byte, 0, n*1024)
		for i := range n {
			b = append(b, fmt.Sprintf("%s %d", text, i)...)
			b = append(b, bytes.Repeat([]byte("."), (i+1)*1024-len(b))...)
		}
		require.NoError(t, os.WriteFile(filepath.Join(tmp, name), b, 0o644))
		return filepath.Join(tmp, name)
	}
	first, second, escaped := blocks("first", 4, "first"), blocks("second", 2, "second"), blocks("escaped", 2, "\xC0\x3B\x39\x98")
	for _, version := range []string{"", "-c -v 2", "-c -v 3"} {
		for _, options := range []string{"-t ext4", "-t ext4 -O ^64bit,^metadata_csum", "-t ext3"} {
			t.Run(version+options, func(t *testing.T) {
				t.Parallel()
				image := mke2fs(t, "16M", dir, append(strings.Fields(options), "-b", "1024")...)
				numbers := regexp.MustCompile(`(?m)^[0-9 ]+$`).FindString(debugfs(t, image, "blocks f"))
				at := strings.Fields(numbers)
				require.GreaterOrEqual(t, len(at), 16)
				// Without metadata_csum debugfs makes checksums of the first
				// version, wrong ones where something is revoked.
				revoke := func(from, n int) string {
					if version != "" && options != "-t ext4" {
						return ""
					}
					return "jw -r " + strings.Join(at[from:from+n], ",")
				}
				list := func(from, n int) string { return strings.Join(at[from:from+n], ",") }
				debugfs(t, image, "jo "+version,
					"jw -b "+list(0, 4)+" "+first,
					"jw -b "+list(2, 2)+" "+second,
					revoke(1, 1),
					"jw -b "+list(6, 2)+" "+escaped,
					revoke(8, 2),
					"jw -b "+list(8, 2)+" "+second,    // after it was revoked: counts
					"jw -c -b "+list(10, 2)+" "+first, // not committed
					"jc")
				got, err := openFile(t, image).ReadFile("f")
				require.NoError(t, err)
				untouched, err := os.ReadFile(image)
				require.NoError(t, err)

				out, err := exec.Command(tool(t, "e2fsck"), "-fy", image).CombinedOutput()
				require.Contains(t, string(out), "recovering journal", "%v", err)
				want, err := openFile(t, image).ReadFile("f")
				require.NoError(t, err)
				assert.True(t, bytes.Equal(want, got))
				assert.Contains(t, string(want), "first 0")
				assert.Equal(t, revoke(1, 1) == "", strings.Contains(string(want), "first 1"), "it was revoked")
				assert.Contains(t, string(want), "\xC0\x3B\x39\x98 1")

				assert.Equal(t, "old.", string(want[10*1024:][:4]), "it was not committed")

				if version == "" {
					return
				}
				// A wrong byte of the log must not be believed: in its data, in
				// the lists of blocks and in the commits.
				log := bytes.Index(untouched, []byte("first 0")) - 1024
				require.Positive(t, log)
				for _, at := range []int{1024 + 500, 500, 12, 5*1024 + 0x12} {
					untouched[log+at] ^= 1
					_, err = Open(bytes.NewReader(untouched), int64(len(untouched)), nil)
					require.ErrorIs(t, err, ErrCorrupt, "%d", at)
					assert.ErrorContains(t, err, "journal, block")
					untouched[log+at] ^= 1
				}
			})
		}
	}
}

func TestAJournalThatCannotBeReplayedIsRefused(t *testing.T) {
	t.Parallel()
	dirty := gunzip(t, "dirty-csum3.img.gz")
	journal := bytes.Index(dirty, []byte{0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 4})
	require.Positive(t, journal)
	broken := func(at int, b ...byte) error {
		image := bytes.Clone(dirty)
		copy(image[at:], b)
		_, err := Open(bytes.NewReader(image), int64(len(image)), nil)
		return err
	}
	require.NoError(t, broken(0))
	for name, err := range map[string]error{
		"mark":     broken(journal, 0),
		"length":   broken(journal+0x10, 0xFF, 0xFF),
		"start":    broken(journal+0x1C, 0xFF, 0xFF),
		"checksum": broken(journal+0xFC, 1, 2, 3, 4),
		"block":    broken(journal+0x0C, 0, 0, 8, 0),
	} {
		assert.ErrorIs(t, err, ErrCorrupt, name)
	}
	assert.ErrorIs(t, broken(journal+0x28, 0x80), ErrUnsupported, "a feature of tomorrow")
	_, err := Open(bytes.NewReader(dirty), int64(len(dirty)), &OpenOptions{JournalBlocks: 3})
	require.ErrorIs(t, err, ErrLimit)

	external := gunzip(t, "dirty-csum1.img.gz")
	clear(external[1024+0xE0 : 1024+0xE4])
	_, err = Open(bytes.NewReader(external), int64(len(external)), nil)
	require.ErrorIs(t, err, ErrUnsupported)
	assert.ErrorContains(t, err, "on another device")
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestWhatIsNoExt4IsRefused(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2047, 2048, 1 << 20} {
		_, err := Open(bytes.NewReader(make([]byte, size)), int64(size), nil)
		require.ErrorIs(t, err, ErrCorrupt, "%d", size)
		var oe *OpError
		require.ErrorAs(t, err, &oe)
		assert.Equal(t, "superblock", oe.Place)
	}
}

func TestLinksAreFollowedWithinTheImageOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, target := range map[string]string{
		"up": "../../../../../a", "absolute": "/d/b", "loop": "loop2", "loop2": "loop", "dir": "d", "through": "dir/../d/b", "self": ".", "dangling": "none/x", "file-as-folder": "a/b", "trailing": "d/",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d/b"), []byte("b"), 0o644))
	_, f := pack(t, Folder(dir), nil)
	for name, want := range map[string]string{"up": "a", "absolute": "b", "dir/b": "b", "through": "b", "self/self/self/a": "a", "trailing/b": "b"} {
		b, err := f.ReadFile(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, string(b), name)
	}
	for name, want := range map[string]error{
		"loop": errLoop, "loop/x": errLoop, "dangling": fs.ErrNotExist, "file-as-folder": errNotDir, "a/b": errNotDir, "none": fs.ErrNotExist,
		"../a": fs.ErrInvalid, "/a": fs.ErrInvalid, "": fs.ErrInvalid, "d//b": fs.ErrInvalid,
	} {
		_, err := f.Stat(name)
		assert.ErrorIs(t, err, want, name)
		_, err = f.Open(name)
		assert.ErrorIs(t, err, want, name)
	}
	_, err := f.ReadLink("a")
	assert.ErrorIs(t, err, fs.ErrInvalid)
	_, err = f.ReadDir("a")
	assert.ErrorIs(t, err, errNotDir)
	_, err = f.ReadFile("d")
	assert.Error(t, err)
	info, err := f.Lstat("dir")
	require.NoError(t, err)
	assert.Equal(t, "Lrwxrwxrwx 1 2000-01-01 00:00:00 dir", strings.ReplaceAll(fmt.Sprint(infoUTC{info}), "  ", " "))
	entries, err := f.ReadDir("d")
	require.NoError(t, err)
	assert.Equal(t, "- b", fmt.Sprint(entries[0]))
}

type infoUTC struct{ fs.FileInfo }

func (i infoUTC) String() string {
	return fmt.Sprint(i.Mode(), i.Size(), i.ModTime().UTC().Format(" 2006-01-02 15:04:05 "), i.Name())
}

func TestOpenFilesReadSeekAndEnd(t *testing.T) {
	t.Parallel()
	_, f := pack(t, Tree{Files: []File{{Path: "d/f", Data: pattern(10_000)}}}, nil)
	opened, err := f.Open("d/f")
	require.NoError(t, err)
	file := opened.(interface {
		fs.File
		io.ReaderAt
		io.Seeker
	})
	at, err := file.Seek(-100, io.SeekEnd)
	require.NoError(t, err)
	assert.EqualValues(t, 9900, at)
	b, err := io.ReadAll(file)
	require.NoError(t, err)
	assert.Equal(t, pattern(10_000)[9900:], b)
	_, err = file.Seek(-1, io.SeekStart)
	assert.ErrorIs(t, err, fs.ErrInvalid)
	_, err = file.Seek(0, 9)
	assert.ErrorIs(t, err, fs.ErrInvalid)
	_, err = file.ReadAt(b, -1)
	assert.ErrorIs(t, err, fs.ErrInvalid)
	n, err := file.ReadAt(make([]byte, 200), 9900)
	assert.Equal(t, 100, n)
	assert.Equal(t, io.EOF, err)
	require.NoError(t, file.Close())
	for _, err := range []error{file.Close(), func() error { _, err := file.Read(b); return err }(), func() error { _, err := file.Stat(); return err }()} {
		assert.ErrorIs(t, err, fs.ErrClosed)
	}
	opened, err = f.Open("d")
	require.NoError(t, err)
	_, err = opened.Read(b)
	assert.ErrorContains(t, err, "is a folder")
	require.NoError(t, opened.Close())
	_, err = opened.(fs.ReadDirFile).ReadDir(1)
	assert.ErrorIs(t, err, fs.ErrClosed)
	_, err = opened.Stat()
	assert.ErrorIs(t, err, fs.ErrClosed)
	assert.ErrorIs(t, opened.Close(), fs.ErrClosed)
}

func TestFoldersAreDroppedFromMemoryAndReadAgain(t *testing.T) {
	t.Parallel()
	var src Tree
	for i := range 20_000 {
		src.Files = append(src.Files, File{Path: fmt.Sprintf("%d/%d/f", i%100, i)})
	}
	_, f := pack(t, src, nil)
	for range 2 {
		for i := range 20_000 {
			_, err := f.Stat(fmt.Sprintf("%d/%d/f", i%100, i))
			require.NoError(t, err)
		}
	}
	assert.LessOrEqual(t, f.dirs.entries, cachedEntries)
	assert.Less(t, f.dirs.recent.Len(), 20_000)
}
