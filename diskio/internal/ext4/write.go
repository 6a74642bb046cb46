package ext4

import (
	"io"
	"math"
)

// WriteStructures writes all but the files' data: everything up to DataStart.
// Long stretches of zeros are skipped, so w must read as zeros where it was
// never written, up to Size.
func (p *Plan) WriteStructures(w io.WriterAt) error {
	out := &sequence{w: w, buf: make([]byte, 0, 1<<20)}
	p.writeSuper(out.take(BlockSize)[superOffset:])
	p.writeDescriptors(out)
	for g := range p.groups {
		p.blockBitmap(g, out.take(BlockSize))
	}
	for g := range p.groups {
		p.inodeBitmap(g, out.take(BlockSize))
	}
	p.writeInodes(out)
	for n := range p.all {
		seed := inodeSeed(p.seed, n.ino, 0)
		switch {
		case n.kind() == ModeDir:
			n.writeDir(seed, func() []byte { return out.take(BlockSize) })
		case n.kind() == ModeSymlink && n.blocks > 0:
			copy(out.take(BlockSize), n.Target)
		}
		n.writeTree(seed, func() []byte { return out.take(BlockSize) })
	}
	return out.flush()
}

func (p *Plan) writeSuper(b []byte) {
	inodes := p.groups * p.perGrp.inodes
	le.PutUint32(b[sbInodesCount:], uint32(inodes))
	le.PutUint32(b[sbBlocksLo:], uint32(p.total))
	le.PutUint32(b[sbBlocksHi:], uint32(p.total>>32))
	le.PutUint32(b[sbFreeBlocksLo:], uint32(p.total-p.used))
	le.PutUint32(b[sbFreeBlocksHi:], uint32((p.total-p.used)>>32))
	le.PutUint32(b[sbFreeInodes:], uint32(inodes-p.usedInodes()))
	le.PutUint32(b[sbLogBlockSize:], 2)
	le.PutUint32(b[sbLogClusterSize:], 2)
	le.PutUint32(b[sbBlocksPerGroup:], uint32(p.perGrp.blocks))
	le.PutUint32(b[sbClustersPerGrp:], uint32(p.perGrp.blocks))
	le.PutUint32(b[sbInodesPerGroup:], uint32(p.perGrp.inodes))
	le.PutUint32(b[sbWriteTime:], uint32(p.sec))
	le.PutUint16(b[sbMaxMounts:], math.MaxUint16) // never checked because of their number
	le.PutUint16(b[sbMagic:], superMagic)
	le.PutUint16(b[sbState:], stateClean)
	le.PutUint16(b[sbErrors:], errorsRemountRO)
	le.PutUint32(b[sbLastCheck:], uint32(p.sec))
	le.PutUint32(b[sbRevision:], 1)
	le.PutUint32(b[sbFirstInode:], firstInode)
	le.PutUint16(b[sbInodeSize:], inodeSize)
	le.PutUint32(b[sbCompat:], compatDirIndex|compatSparseSuper2)
	le.PutUint32(b[sbIncompat:], incompatFiletype|incompatExtents|incompat64Bit|incompatFlexBG)
	le.PutUint32(b[sbROCompat:], roCompatLargeFile|roCompatHugeFile|roCompatDirNlink|roCompatExtraIsize|roCompatMetadataCsum)
	copy(b[sbUUID:], p.uuid[:])
	copy(b[sbLabel:sbLabel+16], p.label)
	copy(b[sbHashSeed:], p.hash[:])
	b[sbHashVersion] = hashHalfMD4
	le.PutUint16(b[sbDescSize:], descSize)
	le.PutUint32(b[sbMountOptions:], mountXattrACL)
	le.PutUint32(b[sbMakeTime:], uint32(p.sec))
	le.PutUint16(b[sbMinExtra:], extraSize)
	le.PutUint16(b[sbWantExtra:], extraSize)
	le.PutUint32(b[sbFlags:], flagSignedHash)
	b[sbLogGroupsFlex] = logGroupsPerFlex
	b[sbChecksumType] = checksumCRC32C
	le.PutUint32(b[sbChecksum:], crc32c(math.MaxUint32, b[:sbChecksum]))
}

// usedInodes counts the reserved ones too.
func (p *Plan) usedInodes() uint64 { return uint64(firstInode - 1 + len(p.nodes)) }

func (p *Plan) writeDescriptors(out *sequence) {
	dirs := make([]uint32, p.groups)
	for n := range p.all {
		if n.kind() == ModeDir {
			dirs[uint64(n.ino-1)/p.perGrp.inodes]++
		}
	}
	descBlocks := ceil(p.groups*descSize, BlockSize)
	bitmap := make([]byte, BlockSize)
	var block []byte
	for g := range p.groups {
		if g%(BlockSize/descSize) == 0 {
			block = out.take(BlockSize)
		}
		d := block[g%(BlockSize/descSize)*descSize:][:descSize]
		put := func(lo, hi int, v uint64) {
			le.PutUint32(d[lo:], uint32(v))
			le.PutUint32(d[hi:], uint32(v>>32))
		}
		put16 := func(lo, hi int, v uint64) {
			le.PutUint16(d[lo:], uint16(v))
			le.PutUint16(d[hi:], uint16(v>>16))
		}
		put(gdBlockBitmapLo, gdBlockBitmapHi, 1+descBlocks+g)
		put(gdInodeBitmapLo, gdInodeBitmapHi, 1+descBlocks+p.groups+g)
		put(gdInodeTableLo, gdInodeTableHi, 1+descBlocks+2*p.groups+g*p.perGrp.inodes/inodesPerBlock)
		first, end := g*p.perGrp.blocks, min((g+1)*p.perGrp.blocks, p.total)
		put16(gdFreeBlocksLo, gdFreeBlocksHi, end-min(max(p.used, first), end))
		firstIno, endIno := g*p.perGrp.inodes, (g+1)*p.perGrp.inodes
		unused := endIno - min(max(p.usedInodes(), firstIno), endIno)
		put16(gdFreeInodesLo, gdFreeInodesHi, unused)
		put16(gdUnusedInodesLo, gdUnusedInodesHi, unused)
		put16(gdUsedDirsLo, gdUsedDirsHi, uint64(dirs[g]))
		le.PutUint16(d[gdFlags:], groupInodeZeroed)
		p.blockBitmap(g, bitmap)
		put16(gdBlockBitmapCsumLo, gdBlockBitmapCsumHi, uint64(crc32c(p.seed, bitmap[:p.perGrp.blocks/8])))
		p.inodeBitmap(g, bitmap)
		put16(gdInodeBitmapCsumLo, gdInodeBitmapCsumHi, uint64(crc32c(p.seed, bitmap[:p.perGrp.inodes/8])))
		le.PutUint16(d[gdChecksum:], groupChecksum(p.seed, uint32(g), d))
	}
}

// blockBitmap fills b. All that is used lies in front of all that is free; what
// is behind the end of the group counts as used.
func (p *Plan) blockBitmap(group uint64, b []byte) {
	first, end := group*p.perGrp.blocks, min((group+1)*p.perGrp.blocks, p.total)
	prefix(b, min(max(p.used, first), end)-first, end-first)
}

func (p *Plan) inodeBitmap(group uint64, b []byte) {
	first, end := group*p.perGrp.inodes, (group+1)*p.perGrp.inodes
	prefix(b, min(max(p.usedInodes(), first), end)-first, end-first)
}

// prefix sets the bits below used and those from size on.
func prefix(b []byte, used, size uint64) {
	clear(b)
	for i := range b {
		bit := uint64(i) * 8
		switch {
		case bit+8 <= used || bit >= size:
			b[i] = 0xFF
		case bit < used || bit+8 > size:
			for k := range uint64(8) {
				if bit+k < used || bit+k >= size {
					b[i] |= 1 << k
				}
			}
		}
	}
}

// sequence collects blocks into large writes.
type sequence struct {
	w   io.WriterAt
	at  int64 // of buf
	buf []byte
	err error
}

// take gives the next n zeroed bytes to fill in, until the next call.
func (s *sequence) take(n int) []byte {
	if len(s.buf)+n > cap(s.buf) {
		_ = s.flush() // kept in s.err
	}
	start := len(s.buf)
	s.buf = s.buf[:start+n]
	b := s.buf[start:]
	clear(b)
	return b
}

// skip leaves n bytes as they are.
func (s *sequence) skip(n int64) {
	_ = s.flush() // kept in s.err
	s.at += n
}

// flush gives the first error of all writes.
func (s *sequence) flush() error {
	if s.err == nil && len(s.buf) > 0 {
		_, s.err = s.w.WriteAt(s.buf, s.at)
	}
	s.at += int64(len(s.buf))
	s.buf = s.buf[:0]
	return s.err
}
