package ext4

import (
	"fmt"
	"io"
	"math"
	"math/bits"
	"sync/atomic"
)

// Limits bound what a Volume spends on an image. Zero fields mean the defaults.
type Limits struct {
	// DirEntries is the most entries of one folder.
	DirEntries int
	// JournalBlocks is the most blocks that a journal may bring back.
	JournalBlocks int
}

// Defaults of Limits.
const (
	DefaultDirEntries    = 1 << 20
	DefaultJournalBlocks = 1 << 20
)

// Volume reads a file system in an image. It is safe for concurrent use if the
// image is.
type Volume struct {
	r      io.ReaderAt
	limits Limits
	super
	cache   [cacheSlots]atomic.Pointer[cachedBlock]
	overlay map[uint64]journaled // blocks that the journal has a newer state of
}

// super is what the superblock says.
type super struct {
	blockSize      uint64
	blocks         uint64
	firstData      uint64
	blocksPerGroup uint64
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      uint32
	firstInode     uint32
	groups         uint64
	descSize       uint64
	firstMetaBG    uint64
	backups        [2]uint32
	compat         uint32
	incompat       uint32
	roCompat       uint32
	uuid           [16]byte
	label          [16]byte
	checksums      bool
	seed           uint32
	journal        uint32
	large          bool // sizes of folders have 64 bits
}

// cacheSlots is the number of blocks of structures that are kept: one for each
// value of the block's number modulo it.
const cacheSlots = 512

type cachedBlock struct {
	number uint64
	data   []byte // never written to
}

// OpenVolume reads the superblock and, if the journal was left dirty, the
// journal. The image has size bytes.
func OpenVolume(r io.ReaderAt, size int64, l Limits) (*Volume, error) {
	if l.DirEntries <= 0 {
		l.DirEntries = DefaultDirEntries
	}
	if l.JournalBlocks <= 0 {
		l.JournalBlocks = DefaultJournalBlocks
	}
	v := &Volume{r: r, limits: l}
	raw := make([]byte, superSize)
	if size < superOffset+superSize {
		return nil, corrupt("superblock", "the image has only %d bytes", size)
	}
	if err := readFull(r, raw, superOffset); err != nil {
		return nil, failed("superblock", err)
	}
	if err := v.super.parse(raw, size); err != nil {
		return nil, err
	}
	if v.incompat&incompatRecover != 0 {
		if err := v.recover(size); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// readFull reads all of p. A short read is an error.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// understood are the features that do not keep a reader from reading right.
// Compression and external journals are left out; encrypted files are refused
// one by one.
const understood = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP |
	incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold

func (s *super) parse(b []byte, size int64) error {
	const place = "superblock"
	if le.Uint16(b[sbMagic:]) != superMagic {
		return corrupt(place, "there is no ext4: its mark is %#04x, want %#04x", le.Uint16(b[sbMagic:]), superMagic)
	}
	s.compat, s.incompat, s.roCompat = le.Uint32(b[sbCompat:]), le.Uint32(b[sbIncompat:]), le.Uint32(b[sbROCompat:])
	revision := le.Uint32(b[sbRevision:])
	switch {
	case revision == 0:
		s.compat, s.incompat, s.roCompat = 0, 0, 0
	case revision > 1:
		return unsupported(place, "revision %d", revision)
	}
	if unknown := s.incompat &^ uint32(understood); unknown != 0 {
		return unsupported(place, "features %#x", unknown)
	}
	s.checksums = s.roCompat&roCompatMetadataCsum != 0
	if s.checksums {
		if b[sbChecksumType] != checksumCRC32C {
			return unsupported(place, "checksums of type %d", b[sbChecksumType])
		}
		if got, want := crc32c(math.MaxUint32, b[:sbChecksum]), le.Uint32(b[sbChecksum:]); got != want {
			return corrupt(place, "checksum is %#08x, want %#08x", got, want)
		}
	}
	copy(s.uuid[:], b[sbUUID:])
	copy(s.label[:], b[sbLabel:])
	s.seed = crc32c(math.MaxUint32, s.uuid[:])
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(b[sbChecksumSeed:])
	}
	shift := le.Uint32(b[sbLogBlockSize:])
	if shift > 6 {
		return corrupt(place, "log_block_size is %d, want at most 6", shift)
	}
	s.blockSize = 1024 << shift
	s.blocks = uint64(le.Uint32(b[sbBlocksLo:]))
	s.descSize = 32
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(b[sbBlocksHi:])) << 32
		s.descSize = uint64(le.Uint16(b[sbDescSize:]))
		if s.descSize < 64 || s.descSize > 1024 || bits.OnesCount64(s.descSize) != 1 {
			return corrupt(place, "desc_size is %d, want a power of two from 64 to 1024", s.descSize)
		}
	}
	if s.blocks > uint64(size)/s.blockSize {
		return corrupt(place, "the file system has %d blocks of %d bytes, the image %d bytes", s.blocks, s.blockSize, size)
	}
	s.firstData = uint64(le.Uint32(b[sbFirstDataBlock:]))
	if s.firstData > 1 || s.firstData >= s.blocks {
		return corrupt(place, "first_data_block is %d", s.firstData)
	}
	return s.parseGroups(b)
}

// parseGroups is the second part of parse.
func (s *super) parseGroups(b []byte) error {
	const place = "superblock"
	ratio := uint64(1)
	if s.roCompat&roCompatBigalloc != 0 {
		shift, cluster := le.Uint32(b[sbLogBlockSize:]), le.Uint32(b[sbLogClusterSize:])
		if cluster < shift || cluster > 30 {
			return corrupt(place, "log_cluster_size is %d", cluster)
		}
		ratio = 1 << (cluster - shift)
	}
	s.blocksPerGroup = uint64(le.Uint32(b[sbBlocksPerGroup:]))
	if s.blocksPerGroup < 8 || s.blocksPerGroup > s.blockSize*8*ratio {
		return corrupt(place, "blocks_per_group is %d", s.blocksPerGroup)
	}
	s.groups = ceil(s.blocks-s.firstData, s.blocksPerGroup)
	s.inodes, s.inodesPerGroup = le.Uint32(b[sbInodesCount:]), le.Uint32(b[sbInodesPerGroup:])
	if s.inodesPerGroup == 0 || uint64(s.inodesPerGroup) > s.blockSize*8 {
		return corrupt(place, "inodes_per_group is %d", s.inodesPerGroup)
	}
	if uint64(s.inodes) != s.groups*uint64(s.inodesPerGroup) {
		return corrupt(place, "%d inodes in %d groups of %d", s.inodes, s.groups, s.inodesPerGroup)
	}
	s.inodeSize, s.firstInode = smallInode, firstInode
	if le.Uint32(b[sbRevision:]) > 0 {
		s.inodeSize, s.firstInode = uint32(le.Uint16(b[sbInodeSize:])), le.Uint32(b[sbFirstInode:])
	}
	if s.inodeSize < smallInode || uint64(s.inodeSize) > s.blockSize || bits.OnesCount32(s.inodeSize) != 1 {
		return corrupt(place, "inode_size is %d", s.inodeSize)
	}
	if s.firstInode < firstInode || s.firstInode > s.inodes {
		return corrupt(place, "first_ino is %d", s.firstInode)
	}
	s.firstMetaBG = math.MaxUint64
	if s.incompat&incompatMetaBG != 0 {
		s.firstMetaBG = uint64(le.Uint32(b[sbFirstMetaBG:]))
	}
	s.backups = [2]uint32{le.Uint32(b[sbBackupGroups:]), le.Uint32(b[sbBackupGroups+4:])}
	s.journal = le.Uint32(b[sbJournalInode:])
	s.large = s.incompat&incompatLargeDir != 0
	return nil
}

// hasSuper tells whether a group begins with a copy of the superblock.
func (s *super) hasSuper(group uint64) bool {
	switch {
	case group == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return group == uint64(s.backups[0]) || group == uint64(s.backups[1])
	case s.roCompat&roCompatSparseSuper == 0 || group == 1:
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// inodeTable gives the first block of a group's inode table.
func (v *Volume) inodeTable(group uint64) (uint64, error) {
	perBlock := v.blockSize / v.descSize
	index := group / perBlock
	super := superOffset / v.blockSize // the first group's first block is another one with bigalloc
	block := super + 1 + index
	if index >= v.firstMetaBG {
		first := index * perBlock
		block = v.firstData + first*v.blocksPerGroup
		if first == 0 {
			block = super
		}
		if v.hasSuper(first) {
			block++
		}
	}
	place := fmt.Sprintf("group %d", group)
	b, err := v.block(block)
	if err != nil {
		return 0, failed(place, err)
	}
	d := b[group%perBlock*v.descSize:][:v.descSize]
	if v.checksums {
		if got, want := groupChecksum(v.seed, uint32(group), d), le.Uint16(d[gdChecksum:]); got != want {
			return 0, corrupt(place, "checksum of the descriptor is %#04x, want %#04x", got, want)
		}
	}
	table := uint64(le.Uint32(d[gdInodeTableLo:]))
	if v.descSize >= 64 {
		table |= uint64(le.Uint32(d[gdInodeTableHi:])) << 32
	}
	length := ceil(uint64(v.inodesPerGroup)*uint64(v.inodeSize), v.blockSize)
	if table <= v.firstData || table >= v.blocks || length > v.blocks-table {
		return 0, corrupt(place, "inode table at block %d of %d", table, v.blocks)
	}
	return table, nil
}

// block gives a block of structures, to be read only.
func (v *Volume) block(number uint64) ([]byte, error) {
	place := fmt.Sprintf
	if number >= v.blocks {
		return nil, corrupt(place("block %d", number), "there are only %d", v.blocks)
	}
	slot := &v.cache[number%cacheSlots]
	if c := slot.Load(); c != nil && c.number == number {
		return c.data, nil
	}
	data := make([]byte, v.blockSize)
	if err := v.readBlocks(data, number); err != nil {
		return nil, err
	}
	slot.Store(&cachedBlock{number, data})
	return data, nil
}

// readBlocks reads whole blocks, in the state that the journal gives them.
func (v *Volume) readBlocks(p []byte, number uint64) error {
	return v.readAt(p, number, 0)
}

// readAt reads from consecutive blocks, beginning at an offset in the first.
// The caller has checked that they are in the image.
func (v *Volume) readAt(p []byte, number, offset uint64) error {
	if len(v.overlay) == 0 {
		if err := readFull(v.r, p, int64(number*v.blockSize+offset)); err != nil {
			return failed(fmt.Sprintf("block %d", number), err)
		}
		return nil
	}
	for len(p) > 0 {
		n := min(uint64(len(p)), v.blockSize-offset)
		at := number
		j, newer := v.overlay[number]
		if newer {
			at = j.at
		}
		if err := readFull(v.r, p[:n], int64(at*v.blockSize+offset)); err != nil {
			return failed(fmt.Sprintf("block %d", at), err)
		}
		if newer && j.escaped {
			j.unescape(p[:n], offset)
		}
		p, number, offset = p[n:], number+1, 0
	}
	return nil
}

// UUID is the file system's.
func (v *Volume) UUID() [16]byte { return v.uuid }

// Label is the file system's, as it was written: anything.
func (v *Volume) Label() string {
	for i, c := range v.label {
		if c == 0 {
			return string(v.label[:i])
		}
	}
	return string(v.label[:])
}
