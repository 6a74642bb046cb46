package diskio

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// thinImage holds an image without its zeros, so that many can be in memory.
type thinImage struct {
	name   string
	size   int64
	blocks map[int64][]byte // of 1 KiB
	used   []int64          // their numbers in order
}

func thin(t testing.TB, name string, r io.Reader) *thinImage {
	t.Helper()
	image := &thinImage{name: name, blocks: map[int64][]byte{}}
	zero := make([]byte, 1024)
	for {
		b := make([]byte, 1024)
		n, err := io.ReadFull(r, b)
		if n > 0 && !bytes.Equal(b, zero) {
			image.blocks[image.size/1024] = b
		}
		image.size += int64(n)
		if err != nil {
			break
		}
	}
	image.used = slices.Sorted(maps.Keys(image.blocks))
	return image
}

// patch is a change to an image: some bytes at a place that is not zero.
type patch struct {
	at    int64
	bytes []byte
}

// patchedImage reads a thin image with patches, and ends what reads too much: a
// reader that hangs in a loop would.
type patchedImage struct {
	*thinImage
	patches []patch
	reads   int
}

var errEndless = errors.New("more reads than any sound reader needs")

const maxReads = 2_000_000

func (p *patchedImage) ReadAt(b []byte, off int64) (int, error) {
	if p.reads++; p.reads > maxReads {
		return 0, errEndless
	}
	if off < 0 || off >= p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-off))
	b = b[:n]
	for at := off; at < off+int64(n); {
		block := p.blocks[at/1024]
		k := min(1024-at%1024, off+int64(n)-at)
		dst := b[at-off:][:k]
		if block == nil {
			clear(dst)
		} else {
			copy(dst, block[at%1024:])
		}
		at += k
	}
	for _, c := range p.patches {
		for i, v := range c.bytes {
			if at := c.at + int64(i) - off; at >= 0 && at < int64(n) {
				b[at] = v
			}
		}
	}
	return n, nil
}

// decodePatches makes patches of random bytes: eight for each, of which four
// choose the place among what is not zero, one the width and the last the value.
func (i *thinImage) decodePatches(b []byte) []patch {
	var patches []patch
	for ; len(b) >= 8 && len(patches) < 8; b = b[8:] {
		where := int64(binary.LittleEndian.Uint32(b)) % (int64(len(i.used)) * 1024)
		width := []int{1, 2, 4, 1}[b[4]&3]
		patches = append(patches, patch{i.used[where/1024]*1024 + where%1024, []byte{b[5], b[6], b[7], b[7]}[:width]})
	}
	return patches
}

// unchecked clears the feature that says that there are checksums, as a forger
// would who does not want to compute them.
func unchecked() patch { return patch{1024 + 0x65, []byte{0}} }

// walkAll reads all that an image has, within bounds: names, attributes, links,
// the first bytes of files and what follows their holes.
func walkAll(p *patchedImage) (err error) {
	f, err := Open(p, p.size, &OpenOptions{DirEntries: 10_000, JournalBlocks: 10_000})
	if err != nil {
		return err
	}
	budget := 20_000
	buf := make([]byte, 16<<10)
	var errs []error
	walkErr := fs.WalkDir(f, ".", func(name string, e fs.DirEntry, err error) error {
		if budget--; budget < 0 {
			return fs.SkipAll
		}
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		if strings.Count(name, "/") > 5_000 {
			return fmt.Errorf("%d folders in each other", strings.Count(name, "/"))
		}
		if _, err := e.Info(); err != nil {
			errs = append(errs, err)
			return nil
		}
		switch e.Type() {
		case fs.ModeSymlink:
			_, err = f.ReadLink(name)
			_, statErr := f.Stat(name)
			errs = append(errs, err, statErr)
		case 0:
			opened, err := f.Open(name)
			if err != nil {
				errs = append(errs, err)
				return nil
			}
			file := opened.(*file)
			_, err = io.ReadFull(file, buf)
			errs = append(errs, err)
			for at, stretches := int64(0), 0; at < file.info.Size() && stretches < 50; stretches++ {
				start, end, err := file.nextData(at)
				if err != nil || start >= file.info.Size() {
					errs = append(errs, err)
					break
				}
				if end <= start || start < at {
					return fmt.Errorf("data from %d to %d after %d", start, end, at)
				}
				_, err = file.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
				errs = append(errs, err)
				at = end
			}
		}
		return nil
	})
	for _, err := range errs {
		if errors.Is(err, errEndless) {
			return err
		}
	}
	if p.reads > maxReads {
		return errEndless
	}
	return walkErr
}

var bases struct {
	once   sync.Once
	images []*thinImage
}

// hostileBases are sound images to be damaged: those of kernels, and ours.
func hostileBases(t testing.TB) []*thinImage {
	t.Helper()
	bases.once.Do(func() {
		for _, name := range kernelImages(t) {
			f, err := os.Open(filepath.Join("testdata", name+".img.gz"))
			require.NoError(t, err)
			r, err := gzip.NewReader(f)
			require.NoError(t, err)
			bases.images = append(bases.images, thin(t, name, r))
			f.Close()
		}
		dir, err := os.MkdirTemp("", "bullpen-test-")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		image, err := Pack(context.Background(), filepath.Join(dir, "image"), smallTree(), nil)
		require.NoError(t, err)
		defer image.Close()
		bases.images = append(bases.images, thin(t, "ours", io.NewSectionReader(image, 0, image.Size())))
	})
	require.NotEmpty(t, bases.images)
	return bases.images
}

// smallTree has a bit of everything in few blocks.
func smallTree() Tree {
	return Tree{Files: []File{
		{Path: "a", Data: []byte("a")}, {Path: "folder/b", Data: pattern(5000)}, {Path: "folder/deeper/c"},
	}, Roots: []Root{{FS: linksFS{}}}}
}

// linksFS has two links, one in the inode and one in a block.
type linksFS struct{}

func (linksFS) Open(name string) (fs.File, error) { return os.Open(".") }
func (linksFS) ReadLink(name string) (string, error) {
	return map[string]string{"short": "folder/b", "long": strings.Repeat("../", 30) + "a"}[name], nil
}
func (linksFS) Lstat(name string) (fs.FileInfo, error) { return linkInfo(name), nil }
func (linksFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return []fs.DirEntry{fs.FileInfoToDirEntry(linkInfo("long")), fs.FileInfoToDirEntry(linkInfo("short"))}, nil
}

type linkInfo string

func (l linkInfo) Name() string      { return string(l) }
func (l linkInfo) Size() int64       { return 0 }
func (l linkInfo) Mode() fs.FileMode { return fs.ModeSymlink | 0o777 }
func (l linkInfo) ModTime() time.Time {
	return DefaultTime
}
func (l linkInfo) IsDir() bool { return false }
func (l linkInfo) Sys() any    { return nil }

func TestDamagedImagesNeverCrashOrHoldUpTheReader(t *testing.T) {
	t.Parallel()
	rounds := need.Soak(t, 50, 5000)
	for _, base := range hostileBases(t) {
		t.Run(base.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, uint64(base.size)))
			for round := range rounds {
				seed := make([]byte, 8*(1+round%5))
				for i := range seed {
					seed[i] = byte(random.Uint32())
				}
				p := &patchedImage{thinImage: base, patches: base.decodePatches(seed)}
				if round%3 > 0 {
					p.patches = append(p.patches, unchecked())
				}
				if err := walkAll(p); err != nil && (errors.Is(err, errEndless) || !known(err)) {
					t.Fatalf("patches %v: %v", p.patches, err)
				}
			}
		})
	}
}

// known tells whether an error is one that damage may cause.
func known(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrLimit)
}

func FuzzOpen(f *testing.F) {
	images := hostileBases(f)
	for i := range images {
		f.Add(byte(i), true, []byte("01234567"))
		f.Add(byte(i), false, []byte("0123456701234567"))
	}
	f.Fuzz(func(t *testing.T, which byte, check bool, seed []byte) {
		base := images[int(which)%len(images)]
		p := &patchedImage{thinImage: base, patches: base.decodePatches(seed)}
		if !check {
			p.patches = append(p.patches, unchecked())
		}
		if err := walkAll(p); err != nil && (errors.Is(err, errEndless) || !known(err)) {
			t.Fatalf("%s, patches %v: %v", base.name, p.patches, err)
		}
	})
}

func TestAnyByteOfTheStructuresMayBeWrongAndNothingWrongIsRead(t *testing.T) {
	t.Parallel()
	images := hostileBases(t)
	base := images[len(images)-1]
	sound, err := Open(&patchedImage{thinImage: base}, base.size, nil)
	require.NoError(t, err)
	want, err := kernelListing(sound)
	require.NoError(t, err)

	content := map[int64]bool{} // blocks of files and of long links, which have no checksums
	for _, number := range base.used {
		b := base.blocks[number]
		if bytes.Contains(b, []byte("../../../")) || bytes.Equal(b[:1], []byte("a")) && b[1] == 0 || bytes.Contains(pattern(5000), b[:100]) {
			content[number] = true
		}
	}
	step := max(1, 5-need.Soak(t, 1, 4)) // with full counts every byte
	wrong, refused := 0, 0
	for _, number := range base.used {
		if content[number] {
			continue
		}
		for k := 0; k < 1024; k += step {
			p := &patchedImage{thinImage: base, patches: []patch{{number*1024 + int64(k), []byte{base.blocks[number][k] ^ 0x41}}}}
			f, err := Open(p, p.size, nil)
			var got []string
			if err == nil {
				got, err = kernelListing(f)
			}
			switch {
			case err != nil && known(err):
				refused++
			case err != nil:
				t.Fatalf("byte %d: %v", p.patches[0].at, err)
			case !slices.Equal(want, got):
				wrong++
				t.Errorf("byte %d: reads %v", p.patches[0].at, got)
			}
		}
		require.Less(t, wrong, 5)
	}
	assert.Greater(t, refused, 1000/step)
}

func TestATruncatedImageIsRefused(t *testing.T) {
	t.Parallel()
	images := hostileBases(t)
	base := images[len(images)-1]
	for size := int64(0); size < base.size; size += 1000 {
		_, err := Open(&patchedImage{thinImage: base}, size, nil)
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes", size)
	}
	// And one whose reader ends early although its size is right.
	short := *base
	short.size = base.size / 2
	_, err := Open(&patchedImage{thinImage: &short}, base.size, nil)
	if err == nil {
		err = walkAll(&patchedImage{thinImage: &short})
	}
	require.Error(t, err)
}

func TestAnEntryThatIsNotWhatItSaysIsRefused(t *testing.T) {
	t.Parallel()
	images := hostileBases(t)
	base := images[len(images)-1]
	at := int64(0)
	for _, number := range base.used {
		if i := bytes.Index(base.blocks[number], []byte{1, 1, 'a'}); i >= 0 { // length, kind, name
			at = number*1024 + int64(i) + 1
		}
	}
	require.Positive(t, at)
	for kind := byte(2); kind < 8; kind++ {
		f, err := Open(&patchedImage{thinImage: base, patches: []patch{{at, []byte{kind}}, unchecked()}}, base.size, nil)
		require.NoError(t, err)
		_, err = f.Stat("a")
		assert.ErrorIs(t, err, ErrCorrupt, "%d", kind)
		_, err = f.Open("a")
		assert.ErrorIs(t, err, ErrCorrupt, "%d", kind)
		entries, err := f.ReadDir(".")
		require.NoError(t, err)
		_, err = entries[0].Info()
		assert.ErrorIs(t, err, ErrCorrupt, "%d", kind)
	}
}
