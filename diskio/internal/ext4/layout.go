package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var le = binary.LittleEndian

// Numbers of the format. Offsets are in bytes.
const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53

	rootInode     = 2
	firstInode    = 11 // the first that is not reserved
	smallInode    = 128
	noInode       = 0
	rootBytes     = 60 // of an inode's i_block
	maxName       = 255
	maxLinks      = 65000
	maxExtent     = 32768 // blocks in one extent; above it the extent is unwritten
	extentMagic   = 0xF30A
	maxExtentTree = 5 // levels below the inode
)

// Fields of the superblock.
const (
	sbInodesCount     = 0x00
	sbBlocksLo        = 0x04
	sbFreeBlocksLo    = 0x0C
	sbFreeInodes      = 0x10
	sbFirstDataBlock  = 0x14
	sbLogBlockSize    = 0x18
	sbLogClusterSize  = 0x1C
	sbBlocksPerGroup  = 0x20
	sbClustersPerGrp  = 0x24
	sbInodesPerGroup  = 0x28
	sbWriteTime       = 0x30
	sbMaxMounts       = 0x36
	sbMagic           = 0x38
	sbState           = 0x3A
	sbErrors          = 0x3C
	sbLastCheck       = 0x40
	sbRevision        = 0x4C
	sbFirstInode      = 0x54
	sbInodeSize       = 0x58
	sbCompat          = 0x5C
	sbIncompat        = 0x60
	sbROCompat        = 0x64
	sbUUID            = 0x68
	sbLabel           = 0x78
	sbJournalInode    = 0xE0
	sbHashSeed        = 0xEC
	sbHashVersion     = 0xFC
	sbDescSize        = 0xFE
	sbMountOptions    = 0x100
	sbFirstMetaBG     = 0x104
	sbMakeTime        = 0x108
	sbBlocksHi        = 0x150
	sbFreeBlocksHi    = 0x158
	sbMinExtra        = 0x15C
	sbWantExtra       = 0x15E
	sbFlags           = 0x160
	sbLogGroupsFlex   = 0x174
	sbChecksumType    = 0x175
	sbBackupGroups    = 0x24C
	sbChecksumSeed    = 0x270
	sbChecksum        = 0x3FC
	stateClean        = 1
	errorsRemountRO   = 2
	hashHalfMD4       = 1
	flagSignedHash    = 1
	checksumCRC32C    = 1
	mountXattrACL     = 0x0C
	logGroupsPerFlex  = 4
	noReservedJournal = 0
)

// Features. A reader may ignore unknown compat and, since it only reads,
// ro_compat ones; it must refuse unknown incompat ones.
const (
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64Bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatDirdata     = 0x1000
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000

	roCompatSparseSuper  = 0x1
	roCompatLargeFile    = 0x2
	roCompatHugeFile     = 0x8
	roCompatGDTCsum      = 0x10
	roCompatDirNlink     = 0x20
	roCompatExtraIsize   = 0x40
	roCompatBigalloc     = 0x200
	roCompatMetadataCsum = 0x400
)

// Fields of a group descriptor; those from 0x20 on exist with 64bit only.
const (
	gdBlockBitmapLo     = 0x00
	gdInodeBitmapLo     = 0x04
	gdInodeTableLo      = 0x08
	gdFreeBlocksLo      = 0x0C
	gdFreeInodesLo      = 0x0E
	gdUsedDirsLo        = 0x10
	gdFlags             = 0x12
	gdBlockBitmapCsumLo = 0x18
	gdInodeBitmapCsumLo = 0x1A
	gdUnusedInodesLo    = 0x1C
	gdChecksum          = 0x1E
	gdBlockBitmapHi     = 0x20
	gdInodeBitmapHi     = 0x24
	gdInodeTableHi      = 0x28
	gdFreeBlocksHi      = 0x2C
	gdFreeInodesHi      = 0x2E
	gdUsedDirsHi        = 0x30
	gdUnusedInodesHi    = 0x32
	gdBlockBitmapCsumHi = 0x38
	gdInodeBitmapCsumHi = 0x3A

	groupInodeUninit = 0x1 // the group's inode bitmap is not initialised
	groupInodeZeroed = 0x4
)

// Fields of an inode; those from 0x80 on exist as far as extra_isize reaches.
const (
	inMode       = 0x00
	inUID        = 0x02
	inSizeLo     = 0x04
	inATime      = 0x08
	inCTime      = 0x0C
	inMTime      = 0x10
	inDTime      = 0x14
	inGID        = 0x18
	inLinks      = 0x1A
	inBlocksLo   = 0x1C
	inFlags      = 0x20
	inBlock      = 0x28
	inGeneration = 0x64
	inFileACLLo  = 0x68
	inSizeHi     = 0x6C
	inBlocksHi   = 0x74
	inUIDHi      = 0x78
	inGIDHi      = 0x7A
	inChecksumLo = 0x7C
	inExtraSize  = 0x80
	inChecksumHi = 0x82
	inCTimeExtra = 0x84
	inMTimeExtra = 0x88
	inATimeExtra = 0x8C
	inCRTime     = 0x90
	inCRExtra    = 0x94

	flagEncrypt    = 0x800
	flagIndex      = 0x1000
	flagExtents    = 0x80000
	flagInlineData = 0x10000000
)

// Types of inodes in i_mode, and the bits that are not permissions.
const (
	ModeType    = 0xF000
	ModeFIFO    = 0x1000
	ModeChar    = 0x2000
	ModeDir     = 0x4000
	ModeBlock   = 0x6000
	ModeRegular = 0x8000
	ModeSymlink = 0xA000
	ModeSocket  = 0xC000
)

// dirType gives the type byte of a directory entry for a mode.
func dirType(mode uint16) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// dirTailType marks the fake entry that holds a directory block's checksum.
const (
	dirTailType = 0xDE
	dirTailSize = 12
)

// castagnoli is read only after it is made.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's: neither the start nor the result is inverted.
func crc32c(crc uint32, p []byte) uint32 { return ^crc32.Update(^crc, castagnoli, p) }

// inodeSeed is what the checksums of an inode and of all its blocks start from.
func inodeSeed(seed, ino, generation uint32) uint32 {
	var b [8]byte
	le.PutUint32(b[:], ino)
	le.PutUint32(b[4:], generation)
	return crc32c(seed, b[:])
}

// inodeChecksum leaves the checksum's own fields out.
func inodeChecksum(seed uint32, raw []byte, withHi bool) uint32 {
	var zero [2]byte
	crc := crc32c(seed, raw[:inChecksumLo])
	crc = crc32c(crc, zero[:])
	if len(raw) == smallInode {
		return crc32c(crc, raw[inChecksumLo+2:smallInode])
	}
	crc = crc32c(crc, raw[inChecksumLo+2:inChecksumHi])
	if withHi {
		crc = crc32c(crc, zero[:])
		return crc32c(crc, raw[inChecksumHi+2:])
	}
	return crc32c(crc, raw[inChecksumHi:])
}

// groupChecksum is that of a descriptor under metadata_csum; 16 bits are kept.
func groupChecksum(seed uint32, group uint32, desc []byte) uint16 {
	var b [4]byte
	le.PutUint32(b[:], group)
	crc := crc32c(seed, b[:])
	crc = crc32c(crc, desc[:gdChecksum])
	crc = crc32c(crc, []byte{0, 0})
	return uint16(crc32c(crc, desc[gdChecksum+2:]))
}
