package ext4

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// memory is an image in memory.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

// forge is a sound image that a test makes unsound, with all checksums right.
type forge struct {
	t     *testing.T
	image memory
	plan  *Plan
	nodes map[string]*Node
}

func file(size int64) *Node { return &Node{Mode: ModeRegular | 0o644, Size: size} }
func folder(entries ...Entry) *Node {
	return &Node{Mode: ModeDir | 0o755, Entries: entries}
}

// newForge makes an image with a/b/f, a/c/g, a file h with a deep extent tree
// and links to nowhere, in one block and in its inode.
func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{t: t, nodes: map[string]*Node{}}
	deep := file(4000 * BlockSize)
	for i := range int64(1500) {
		deep.Data = append(deep.Data, Segment{i * 2 * BlockSize, BlockSize})
	}
	add := func(name string, n *Node) Entry {
		f.nodes[name] = n
		return Entry{name, n}
	}
	root := folder(
		add("a", folder(add("b", folder(add("f", file(10)))), add("c", folder(add("g", file(5*BlockSize)))))),
		add("h", deep),
		add("long", &Node{Mode: ModeSymlink | 0o777, Target: strings.Repeat("l", 100)}),
		add("short", &Node{Mode: ModeSymlink | 0o777, Target: "s"}),
	)
	f.nodes["."] = root
	var err error
	f.plan, err = NewPlan(root, Options{Label: "forged", FreeBytes: 10 * BlockSize})
	require.NoError(t, err)
	f.image = make(memory, f.plan.Size())
	require.NoError(t, f.plan.WriteStructures(f.image))
	return f
}

// inode changes an inode and signs it.
func (f *forge) inode(name string, change func(raw []byte)) {
	n := f.nodes[name]
	at := (1 + ceil(f.plan.groups*descSize, BlockSize) + 2*f.plan.groups) * BlockSize
	raw := f.image[at+uint64(n.ino-1)*inodeSize:][:inodeSize]
	change(raw)
	crc := inodeChecksum(inodeSeed(f.plan.seed, n.ino, 0), raw, true)
	le.PutUint16(raw[inChecksumLo:], uint16(crc))
	le.PutUint16(raw[inChecksumHi:], uint16(crc>>16))
}

// dir changes a folder's first block and signs it.
func (f *forge) dir(name string, change func(b []byte)) {
	n := f.nodes[name]
	b := f.image[n.start*BlockSize:][:BlockSize]
	change(b)
	le.PutUint32(b[BlockSize-4:], crc32c(inodeSeed(f.plan.seed, n.ino, 0), b[:BlockSize-dirTailSize]))
}

// tree changes a block of an extent tree and signs it.
func (f *forge) tree(name string, number int, change func(b []byte)) {
	n := f.nodes[name]
	b := f.image[(n.tree+uint64(number))*BlockSize:][:BlockSize]
	change(b)
	le.PutUint32(b[BlockSize-4:], crc32c(inodeSeed(f.plan.seed, n.ino, 0), b[:BlockSize-4]))
}

// super changes the superblock and signs it.
func (f *forge) super(change func(b []byte)) {
	b := f.image[superOffset:][:superSize]
	change(b)
	le.PutUint32(b[sbChecksum:], crc32c(^uint32(0), b[:sbChecksum]))
}

// entry finds an entry in a folder's block.
func entry(b []byte, name string) []byte {
	for at := 0; at < len(b); at += int(le.Uint16(b[at+4:])) {
		if string(b[at+8:at+8+int(b[at+6])]) == name {
			return b[at:]
		}
	}
	panic(name)
}

func (f *forge) walk() error { return walk(f.image) }

// walk reads everything as package diskio does.
func walk(image memory) error {
	v, err := OpenVolume(image, int64(len(image)), Limits{})
	if err != nil {
		return err
	}
	steps, reads := 0, 0
	var visit func(number, parent uint32) error
	visit = func(number, parent uint32) error {
		if steps++; steps > 10_000 {
			return errors.New("folders without end")
		}
		in, err := v.Inode(number)
		if err != nil {
			return err
		}
		switch in.Kind() {
		case ModeDir:
			entries, err := v.ReadDir(in, parent)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := visit(e.Number, number); err != nil {
					return err
				}
			}
		case ModeSymlink:
			_, err = v.Target(in)
			return err
		case ModeRegular:
			d, b := v.NewData(in), make([]byte, BlockSize)
			for at := int64(0); at < in.Size; {
				if reads++; reads > 20_000 {
					return errors.New("data without end")
				}
				start, end, err := d.NextData(at)
				if err != nil {
					return err
				}
				if start >= in.Size {
					break
				}
				if _, err := d.ReadAt(b[:min(int64(len(b)), in.Size-start)], start); err != nil {
					return err
				}
				at = end
			}
		}
		return nil
	}
	return visit(Root, Root)
}

func TestASoundImageIsRead(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	require.NoError(t, f.walk())
	v, err := OpenVolume(f.image, int64(len(f.image)), Limits{})
	require.NoError(t, err)
	assert.Equal(t, "forged", v.Label())
	assert.Equal(t, f.plan.UUID(), v.UUID())
	assert.Less(t, f.plan.DataStart(), f.plan.Size())
}

// Package diskio compares what it reads in these with what a kernel reads.
func TestImagesOfKernelsAreSound(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dirty-csum1", "dirty-csum3", "dirty-ext3-data", "kernel-ext2-1k", "kernel-ext4-1k", "kernel-metabg"} {
		packed, err := os.Open(filepath.Join("../../testdata", name+".img.gz"))
		require.NoError(t, err)
		defer packed.Close()
		r, err := gzip.NewReader(packed)
		require.NoError(t, err)
		image, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, walk(image), name)
	}
}

// Whoever forges an image computes its checksums too. Each of these is signed.
func TestForgedStructuresAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		forge func(f *forge)
		want  string
	}{
		"a folder in itself": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), f.nodes["b"].ino); entry(b, "f")[7] = 2 })
		}, `entry "f" names inode`},
		"a folder in its child": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), f.nodes["a"].ino); entry(b, "f")[7] = 2 })
		}, `entry "f" names inode`},
		"the root below": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), rootInode); entry(b, "f")[7] = 2 })
		}, "names inode 2"},
		"a folder in two": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), f.nodes["c"].ino); entry(b, "f")[7] = 2 })
		}, "folder's .. names inode 11, it was reached from 12"},
		"a folder twice": {func(f *forge) {
			f.dir("a", func(b []byte) { le.PutUint32(entry(b, "c"), f.nodes["b"].ino) })
		}, "names the folder of inode 12 twice"},
		"a name twice": {func(f *forge) {
			f.dir("a", func(b []byte) { entry(b, "c")[8] = 'b' })
		}, `folder has "b" twice`},
		"a slash": {func(f *forge) {
			f.dir("b", func(b []byte) { entry(b, "f")[8] = '/' })
		}, `name "/"`},
		"a zero byte": {func(f *forge) {
			f.dir("b", func(b []byte) { entry(b, "f")[8] = 0 })
		}, `name "\x00"`},
		"an empty name": {func(f *forge) {
			f.dir("b", func(b []byte) { entry(b, "f")[6] = 0 })
		}, `name ""`},
		"no dot": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "."), 0) })
		}, "folder without . or .."},
		"two dots twice": {func(f *forge) {
			f.dir("b", func(b []byte) { e := entry(b, "f"); e[6] = 2; copy(e[8:], ".."); le.PutUint32(e, f.nodes["a"].ino) })
		}, "folder's .. names"},
		"an entry without end": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint16(entry(b, "f")[4:], 0) })
		}, "entry at 24 has 0 bytes"},
		"an entry over the end": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint16(entry(b, "f")[4:], 0x2000) })
		}, "entry at 24 has 8192 bytes"},
		"a reserved inode": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), 8) })
		}, "names inode 8"},
		"an inode too many": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), 1<<31) })
		}, "names inode 2147483648"},
		"an unused inode": {func(f *forge) {
			f.dir("b", func(b []byte) { le.PutUint32(entry(b, "f"), 20) })
		}, "inode 20"},
		"a deleted inode": {func(f *forge) {
			f.inode("f", func(raw []byte) { le.PutUint16(raw[inLinks:], 0) })
		}, "is deleted"},
		"a folder of no size": {func(f *forge) {
			f.inode("b", func(raw []byte) { le.PutUint32(raw[inSizeLo:], 0) })
		}, "folder of 0 bytes"},
		"a folder with a hole": {func(f *forge) {
			f.inode("b", func(raw []byte) { le.PutUint32(raw[inSizeLo:], 1<<30) })
		}, "has a hole at its block 1"},
		"a file of a size that overflows": {func(f *forge) {
			f.inode("f", func(raw []byte) { le.PutUint32(raw[inSizeHi:], 1<<31) })
		}, "size is"},
		"an unknown kind": {func(f *forge) {
			f.inode("f", func(raw []byte) { le.PutUint16(raw[inMode:], 0x3000) })
		}, "mode is"},
		"extra fields too long": {func(f *forge) {
			f.inode("f", func(raw []byte) { le.PutUint16(raw[inExtraSize:], 132) })
		}, "extra_isize is 132"},
		"encrypted": {func(f *forge) {
			f.inode("f", func(raw []byte) { le.PutUint32(raw[inFlags:], flagExtents|flagEncrypt) })
		}, "is encrypted"},
		"an encrypted folder": {func(f *forge) {
			f.inode("b", func(raw []byte) { le.PutUint32(raw[inFlags:], flagExtents|flagEncrypt) })
		}, "is encrypted"},
		"a long link without end": {func(f *forge) {
			f.inode("long", func(raw []byte) { le.PutUint32(raw[inSizeLo:], 1<<31) })
		}, "symbolic link of 2147483648 bytes"},
		"an empty link": {func(f *forge) {
			f.inode("short", func(raw []byte) { le.PutUint32(raw[inSizeLo:], 0) })
		}, "symbolic link of 0 bytes"},
		"a zero byte in a link": {func(f *forge) {
			f.inode("short", func(raw []byte) { le.PutUint32(raw[inSizeLo:], 2) })
		}, "symbolic link with a zero byte"},
		"inline data that is not there": {func(f *forge) {
			f.inode("g", func(raw []byte) { le.PutUint32(raw[inFlags:], flagInlineData) })
		}, "inline data has 60 bytes"},
		"inline data outside": {func(f *forge) {
			f.inode("g", func(raw []byte) {
				le.PutUint32(raw[inFlags:], flagInlineData)
				at := smallInode + extraSize
				le.PutUint32(raw[at:], xattrMagic)
				e := raw[at+4:]
				e[0], e[1] = 4, xattrSystem
				le.PutUint16(e[2:], 60)
				le.PutUint32(e[8:], 1000)
				copy(e[xattrEntryHead:], "data")
			})
		}, "inline data at 60+1000"},
		"an extent tree in itself": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { // a leaf becomes an index that names itself
				extentHeader(b, 1, extentsPerBlock, 1)
				putIndex(b[12:], 0, f.nodes["h"].tree)
			})
		}, "level 1 of the extent tree is below level 1"},
		"an extent tree of too many levels": {func(f *forge) {
			f.inode("h", func(raw []byte) { le.PutUint16(raw[inBlock+6:], 6) })
		}, "extent tree has 6 levels"},
		"an extent tree without a mark": {func(f *forge) {
			f.inode("h", func(raw []byte) { le.PutUint16(raw[inBlock:], 1) })
		}, "extent tree has the mark"},
		"more extents than there is room": {func(f *forge) {
			f.inode("g", func(raw []byte) { le.PutUint16(raw[inBlock+2:], 5); le.PutUint16(raw[inBlock+4:], 5) })
		}, "5 of 5 entries in 60 bytes"},
		"more extents than at most": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint16(b[2:], extentsPerBlock+1) })
		}, "341 of 340 entries"},
		"an empty index": {func(f *forge) {
			f.inode("h", func(raw []byte) { le.PutUint16(raw[inBlock+2:], 0) })
		}, "index of the extent tree is empty"},
		"an index out of order": {func(f *forge) {
			f.tree("h", 5, func(b []byte) { le.PutUint32(b[12+12:], 0) })
		}, "index of the extent tree is out of order"},
		"an index to the superblock": {func(f *forge) {
			f.inode("h", func(raw []byte) { le.PutUint32(raw[inBlock+16:], 0) })
		}, "is no place for an extent tree"},
		"an index out of the image": {func(f *forge) {
			f.inode("h", func(raw []byte) { le.PutUint32(raw[inBlock+16:], 1<<30) })
		}, "there are only"},
		"extents out of order": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint32(b[12+12*5:], 3) })
		}, "extent 3+1 is out of order"},
		"extents that overlap": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint16(b[12+4:], 100) })
		}, "is out of order"},
		"an extent into the next leaf": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint16(b[12+12*339+4:], 100) })
		}, "extent 678+100 is out of order"},
		"an empty extent": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint16(b[12+4:], 0) })
		}, "extent 0+0"},
		"an extent out of the image": {func(f *forge) {
			f.tree("h", 0, func(b []byte) { le.PutUint32(b[12+8:], 1<<31) })
		}, "extent at block 2147483648"},
		"an extent at the superblock": {func(f *forge) {
			f.inode("g", func(raw []byte) { le.PutUint32(raw[inBlock+12+8:], 0) })
		}, "extent at block 0+5"},
		"blocks out of the image": {func(f *forge) {
			f.inode("g", func(raw []byte) { le.PutUint32(raw[inFlags:], 0); le.PutUint32(raw[inBlock:], 1<<31) })
		}, "data at block 2147483648"},
		"blocks of numbers out of the image": {func(f *forge) {
			f.inode("g", func(raw []byte) {
				clear(raw[inBlock : inBlock+60])
				le.PutUint32(raw[inFlags:], 0)
				le.PutUint32(raw[inSizeHi:], 2)
				le.PutUint32(raw[inBlock+56:], 1<<31)
			})
		}, "there are only"},
		"blocks of numbers at the superblock of another size": {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbFirstDataBlock:], 2) }) }, "first_data_block is 2"},
		"blocks too large":           {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbLogBlockSize:], 7) }) }, "log_block_size is 7"},
		"more blocks than there are": {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbBlocksLo:], 1<<31) }) }, "the file system has 2147483648 blocks"},
		"no blocks in a group":       {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbBlocksPerGroup:], 0) }) }, "blocks_per_group is 0"},
		"no inodes in a group":       {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbInodesPerGroup:], 0) }) }, "inodes_per_group is 0"},
		"another number of inodes":   {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbInodesCount:], 1<<30) }) }, "1073741824 inodes in 1 groups"},
		"odd inodes":                 {func(f *forge) { f.super(func(b []byte) { le.PutUint16(b[sbInodeSize:], 200) }) }, "inode_size is 200"},
		"odd descriptors":            {func(f *forge) { f.super(func(b []byte) { le.PutUint16(b[sbDescSize:], 100) }) }, "desc_size is 100"},
		"no first inode":             {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbFirstInode:], 0) }) }, "first_ino is 0"},
		"a revision of tomorrow":     {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbRevision:], 2) }) }, "revision 2"},
		"a feature of tomorrow":      {func(f *forge) { f.super(func(b []byte) { le.PutUint32(b[sbIncompat:], 1<<30) }) }, "features 0x40000000"},
		"checksums of tomorrow":      {func(f *forge) { f.super(func(b []byte) { b[sbChecksumType] = 2 }) }, "checksums of type 2"},
		"odd clusters": {func(f *forge) {
			f.super(func(b []byte) {
				le.PutUint32(b[sbROCompat:], roCompatBigalloc)
				le.PutUint32(b[sbLogClusterSize:], 99)
			})
		}, "log_cluster_size is 99"},
		"a journal that is no file": {func(f *forge) {
			f.super(func(b []byte) {
				le.PutUint32(b[sbIncompat:], le.Uint32(b[sbIncompat:])|incompatRecover)
				le.PutUint32(b[sbJournalInode:], rootInode)
			})
		}, "journal: damaged: is not a file"},
		"an inode table out of the image": {func(f *forge) {
			d := f.image[BlockSize:][:descSize]
			le.PutUint32(d[gdInodeTableLo:], 1<<31)
			le.PutUint16(d[gdChecksum:], groupChecksum(f.plan.seed, 0, d))
		}, "inode table at block 2147483648"},
		"a descriptor with another checksum": {func(f *forge) { f.image[BlockSize] ^= 1 }, "checksum of the descriptor"},
		"a superblock with another checksum": {func(f *forge) { f.image[superOffset+sbLabel] ^= 1 }, "superblock: damaged: checksum is"},
		"an extent tree with another checksum": {func(f *forge) {
			f.image[(f.nodes["h"].tree+4)*BlockSize+4000] ^= 1 // behind its last entry
		}, "checksum of the extent tree"},
		"a folder with another checksum": {func(f *forge) {
			f.image[f.nodes["b"].start*BlockSize+4000] ^= 1
		}, "checksum of the folder's block"},
		"an inode with another checksum": {func(f *forge) {
			f.inode("f", func(raw []byte) { raw[200] = 0 })
			at := bytes.Index(f.image, []byte("s\x00\x00\x00")) // the short link's
			f.image[at+10] ^= 1
		}, "checksum is"},
		"a folder's block without a checksum": {func(f *forge) {
			f.image[f.nodes["b"].start*BlockSize+BlockSize-5] = 0
		}, "folder's block has no checksum"},
		"an index of too many entries": {func(f *forge) {
			f.inode("b", func(raw []byte) { le.PutUint32(raw[inFlags:], flagExtents|flagIndex) })
			b := f.image[f.nodes["b"].start*BlockSize:]
			le.PutUint16(b[12+4:], BlockSize-12) // like the top of an index
			le.PutUint16(b[32:], 600)
		}, "index of the folder has"},
		"an index with another checksum": {func(f *forge) {
			f.inode("b", func(raw []byte) { le.PutUint32(raw[inFlags:], flagExtents|flagIndex) })
			b := f.image[f.nodes["b"].start*BlockSize:]
			le.PutUint16(b[12+4:], BlockSize-12)
			le.PutUint16(b[32:], 500)
			le.PutUint16(b[34:], 1)
		}, "checksum of the folder's index"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForge(t)
			test.forge(f)
			err := f.walk()
			require.ErrorContains(t, err, test.want)
			assert.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported), "%v", err)
			var fault *Fault
			require.ErrorAs(t, err, &fault)
			assert.NotEmpty(t, fault.Place)
		})
	}
}

func TestUnwrittenExtentsReadAsZeros(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	g := f.nodes["g"]
	for i := range f.image[g.start*BlockSize:][:5*BlockSize] {
		f.image[g.start*BlockSize+uint64(i)] = 'x' // what was there before
	}
	read := func() []byte {
		v, err := OpenVolume(f.image, int64(len(f.image)), Limits{})
		require.NoError(t, err)
		in, err := v.Inode(g.ino)
		require.NoError(t, err)
		b := make([]byte, in.Size)
		_, err = v.NewData(in).ReadAt(b, 0)
		require.NoError(t, err)
		return b
	}
	assert.Equal(t, bytes.Repeat([]byte("x"), 5*BlockSize), read())
	f.inode("g", func(raw []byte) { le.PutUint16(raw[inBlock+12+4:], maxExtent+5) })
	assert.Equal(t, make([]byte, 5*BlockSize), read())
}

func TestAFileOfHalfAMillionPiecesHasAnExtentTreeOfThreeLevels(t *testing.T) {
	t.Parallel()
	const pieces = extentsInInode*extentsPerBlock*extentsPerBlock + 1000
	n := file(2 * pieces * BlockSize)
	for i := range int64(pieces) {
		n.Data = append(n.Data, Segment{2 * i * BlockSize, BlockSize})
	}
	plan, err := NewPlan(folder(Entry{"f", n}), Options{})
	require.NoError(t, err)
	require.Len(t, n.levels, 3)
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer image.Close()
	require.NoError(t, image.Truncate(plan.Size()))
	require.NoError(t, plan.WriteStructures(image))
	v, err := OpenVolume(image, plan.Size(), Limits{})
	require.NoError(t, err)
	in, err := v.Inode(n.Number())
	require.NoError(t, err)
	d := v.NewData(in)
	i := uint64(0)
	for r := range n.Runs {
		at, length, err := d.find(uint64(r.Offset) / BlockSize)
		require.NoError(t, err)
		if at != uint64(r.At)/BlockSize || length != 1 {
			t.Fatalf("piece %d is at %d+%d, want it at %d", i, at, length, r.At/BlockSize)
		}
		i++
	}
	assert.EqualValues(t, pieces, i)
}

func TestWhatCannotBePlannedIsRefused(t *testing.T) {
	t.Parallel()
	shared := folder()
	many := folder()
	linked := file(0)
	for i := range maxLinks + 1 {
		many.Entries = append(many.Entries, Entry{fmt.Sprintf("%07d", i), linked})
	}
	for name, test := range map[string]struct {
		root    *Node
		options Options
		want    string
	}{
		"nothing":            {want: "the root is not a folder"},
		"a file":             {root: file(1), want: "the root is not a folder"},
		"label":              {root: folder(), options: Options{Label: strings.Repeat("l", 17)}, want: "label"},
		"room":               {root: folder(), options: Options{FreeBytes: -1}, want: "is not possible"},
		"inodes":             {root: folder(), options: Options{FreeInodes: 1 << 32}, want: "is not possible"},
		"dot":                {root: folder(Entry{".", file(1)}), want: "cannot be a name"},
		"long name":          {root: folder(Entry{strings.Repeat("n", 256), file(1)}), want: "name has 256 bytes"},
		"slash":              {root: folder(Entry{"a/b", file(1)}), want: "has a slash or a zero byte"},
		"twice":              {root: folder(Entry{"a", file(1)}, Entry{"a", file(1)}), want: "name is there twice"},
		"folder twice":       {root: folder(Entry{"a", shared}, Entry{"b", shared}), want: "folder is in the tree twice"},
		"links":              {root: many, want: "file has more than 65000 links"},
		"below zero":         {root: folder(Entry{"a", file(-1)}), want: "file has -1 bytes"},
		"too large":          {root: folder(Entry{"a", file(maxFileSize + 1)}), want: "want at most"},
		"no kind":            {root: folder(Entry{"a", &Node{}}), want: "has no known type"},
		"nanoseconds":        {root: folder(Entry{"a", &Node{Mode: ModeRegular, Nsec: 1e9}}), want: "more than a second"},
		"of the root":        {root: &Node{Mode: ModeDir, Nsec: 1e9}, want: "more than a second"},
		"empty target":       {root: folder(Entry{"a", &Node{Mode: ModeSymlink}}), want: "has 0 bytes"},
		"zero byte":          {root: folder(Entry{"a", &Node{Mode: ModeSymlink, Target: "\x00"}}), want: "has a zero byte"},
		"overlapping pieces": {root: folder(Entry{"a", &Node{Mode: ModeRegular, Size: 1 << 20, Data: []Segment{{0, 5000}, {4096, 1}}}}), want: "out of order"},
		"odd pieces":         {root: folder(Entry{"a", &Node{Mode: ModeRegular, Size: 1 << 20, Data: []Segment{{100, 5000}}}}), want: "not on a block"},
		"endless pieces":     {root: folder(Entry{"a", &Node{Mode: ModeRegular, Size: 1 << 20, Data: []Segment{{0, 1<<62 + 1}}}}), want: "segment of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := NewPlan(test.root, test.options)
			require.ErrorContains(t, err, test.want)
			var pe *PlanError
			require.ErrorAs(t, err, &pe)
			assert.NotNil(t, errors.Unwrap(err))
		})
	}
	require.NoError(t, CheckName("fine"))
}

func TestGroupsWithCopiesOfTheSuperblock(t *testing.T) {
	t.Parallel()
	has := func(s super) (groups []uint64) {
		for g := range uint64(130) {
			if s.hasSuper(g) {
				groups = append(groups, g)
			}
		}
		return groups
	}
	assert.Equal(t, []uint64{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125}, has(super{roCompat: roCompatSparseSuper}))
	assert.Equal(t, []uint64{0, 1, 129}, has(super{compat: compatSparseSuper2, backups: [2]uint32{1, 129}}))
	assert.Len(t, has(super{}), 130)
}
