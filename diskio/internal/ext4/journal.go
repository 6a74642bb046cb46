package ext4

import (
	"encoding/binary"
	"fmt"
	"math"
)

var be = binary.BigEndian

// Numbers of the journal (jbd2), which is big-endian.
const (
	journalMagic = 0xC03B3998

	journalDescriptor = 1
	journalCommit     = 2
	journalSuperV1    = 3
	journalSuperV2    = 4
	journalRevoke     = 5

	jsBlockSize    = 0x0C
	jsBlocks       = 0x10
	jsFirst        = 0x14
	jsSequence     = 0x18
	jsStart        = 0x1C
	jsCompat       = 0x24
	jsIncompat     = 0x28
	jsUUID         = 0x30
	jsChecksumType = 0x50
	jsFastBlocks   = 0x54
	jsChecksum     = 0xFC

	journalCompatChecksum = 0x1

	journalIncompatRevoke = 0x1
	journalIncompat64Bit  = 0x2
	journalIncompatAsync  = 0x4
	journalIncompatCsumV2 = 0x8
	journalIncompatCsumV3 = 0x10
	journalIncompatFast   = 0x20
	journalUnderstood     = journalIncompatRevoke | journalIncompat64Bit | journalIncompatAsync |
		journalIncompatCsumV2 | journalIncompatCsumV3 | journalIncompatFast

	tagEscape   = 1
	tagSameUUID = 2
	tagLast     = 8

	defaultFastBlocks = 256
	fastHeadTag       = 9
)

// journaled is a block's newer state in the journal.
type journaled struct {
	at      uint64 // the block that holds it
	escaped bool   // its first four bytes were the journal's own mark, and are zeros there
}

// unescape puts the mark back into what was read from an offset of the block.
func (j journaled) unescape(p []byte, offset uint64) {
	var mark [4]byte
	be.PutUint32(mark[:], journalMagic)
	if offset < 4 {
		copy(p, mark[offset:])
	}
}

// journal is the log of an image that was not unmounted.
type journal struct {
	v        *Volume
	data     *Data
	first    uint64 // blocks of the log
	end      uint64
	fast     uint64 // the block that fast commits begin at, if there can be any
	start    uint64 // where the log begins, 0 when it is empty
	sequence uint32 // of the transaction there
	wide     bool   // block numbers have 64 bits
	v1       bool   // transactions have a checksum in their commit
	csum     int    // 2 or 3: blocks have checksums
	seed     uint32
	revoked  map[uint64]uint32 // the last transaction that revoked a block
}

func journalPlace(block uint64) string { return fmt.Sprintf("journal, block %d", block) }

// recover finds out what the journal would write and keeps where it has it. The
// image is not changed. It ends with the superblock read anew.
func (v *Volume) recover(size int64) error {
	j, err := v.openJournal()
	if err != nil {
		return err
	}
	if j.start == 0 {
		return nil
	}
	last, err := j.scan()
	if err != nil {
		return err
	}
	if err := j.noFastCommits(last); err != nil {
		return err
	}
	overlay := map[uint64]journaled{}
	if err := j.replay(last, overlay); err != nil {
		return err
	}
	v.overlay = overlay
	for i := range v.cache {
		v.cache[i].Store(nil) // blocks from before
	}
	raw := make([]byte, superSize)
	if err := v.readAt(raw, superOffset/v.blockSize, superOffset%v.blockSize); err != nil {
		return err
	}
	after := super{}
	if err := after.parse(raw, size); err != nil {
		return err
	}
	if after.blockSize != v.blockSize {
		return corrupt("journal", "changes the size of blocks")
	}
	v.super = after
	return nil
}

func (v *Volume) openJournal() (*journal, error) {
	if v.journal == 0 {
		return nil, unsupported("journal", "is on another device")
	}
	in, err := v.inode(v.journal)
	if err != nil {
		return nil, err
	}
	if in.Kind() != ModeRegular {
		return nil, corrupt("journal", "is not a file")
	}
	j := &journal{v: v, data: v.NewData(in), revoked: map[uint64]uint32{}}
	b, err := j.block(0)
	if err != nil {
		return nil, err
	}
	kind := be.Uint32(b[4:])
	if be.Uint32(b) != journalMagic || kind != journalSuperV1 && kind != journalSuperV2 {
		return nil, corrupt("journal", "has no superblock")
	}
	if uint64(be.Uint32(b[jsBlockSize:])) != v.blockSize {
		return nil, corrupt("journal", "has blocks of %d bytes, the file system of %d", be.Uint32(b[jsBlockSize:]), v.blockSize)
	}
	j.first, j.end = uint64(be.Uint32(b[jsFirst:])), uint64(be.Uint32(b[jsBlocks:]))
	j.sequence, j.start = be.Uint32(b[jsSequence:]), uint64(be.Uint32(b[jsStart:]))
	if kind == journalSuperV2 {
		if err := j.features(b); err != nil {
			return nil, err
		}
	}
	if j.first == 0 || j.first >= j.end || j.end > uint64(in.Size)/v.blockSize || j.start != 0 && (j.start < j.first || j.start >= j.end) {
		return nil, corrupt("journal", "log in blocks %d to %d begins at %d", j.first, j.end, j.start)
	}
	return j, nil
}

// features reads what a superblock of the second version says.
func (j *journal) features(b []byte) error {
	incompat := be.Uint32(b[jsIncompat:])
	if unknown := incompat &^ uint32(journalUnderstood); unknown != 0 {
		return unsupported("journal", "features %#x", unknown)
	}
	j.wide = incompat&journalIncompat64Bit != 0
	j.v1 = be.Uint32(b[jsCompat:])&journalCompatChecksum != 0
	switch {
	case incompat&journalIncompatCsumV3 != 0:
		j.csum = 3
	case incompat&journalIncompatCsumV2 != 0:
		j.csum = 2
	}
	if j.csum != 0 {
		j.v1 = false
		if b[jsChecksumType] != 4 {
			return unsupported("journal", "checksums of type %d", b[jsChecksumType])
		}
		head := append([]byte(nil), b[:1024]...)
		clear(head[jsChecksum : jsChecksum+4])
		if got, want := crc32c(math.MaxUint32, head), be.Uint32(b[jsChecksum:]); got != want {
			return corrupt("journal", "checksum of its superblock is %#08x, want %#08x", got, want)
		}
		j.seed = crc32c(math.MaxUint32, b[jsUUID:jsUUID+16])
	}
	if incompat&journalIncompatFast != 0 {
		fast := uint64(be.Uint32(b[jsFastBlocks:]))
		if fast == 0 {
			fast = defaultFastBlocks
		}
		if fast >= j.end {
			return corrupt("journal", "%d of %d blocks are for fast commits", fast, j.end)
		}
		j.end -= fast
		j.fast = j.end
	}
	return nil
}

// place gives the image's block of a block of the journal.
func (j *journal) place(number uint64) (uint64, error) {
	at, _, err := j.data.find(number)
	if err == nil && at == 0 {
		err = corrupt(journalPlace(number), "is a hole")
	}
	return at, err
}

func (j *journal) block(number uint64) ([]byte, error) {
	at, err := j.place(number)
	if err != nil {
		return nil, err
	}
	b := make([]byte, j.v.blockSize)
	return b, j.v.readBlocks(b, at)
}

// next steps through the log, which is a ring.
func (j *journal) next(number, steps uint64) uint64 {
	number += steps
	for number >= j.end {
		number -= j.end - j.first
	}
	return number
}

// tag is one block in a transaction: where it belongs and where the log has it.
type tag struct {
	block    uint64
	log      uint64
	checksum uint32
	escaped  bool
}

// tags decodes a descriptor block at a place in the log.
func (j *journal) tags(b []byte, at uint64) ([]tag, error) {
	size := 8
	switch j.csum {
	case 3:
		size = 16
	case 2:
		size = 10
	}
	if j.wide && j.csum != 3 {
		size += 4
	}
	end := len(b)
	if j.csum != 0 {
		end -= 4
	}
	var tags []tag
	for off := 12; off+size <= end; {
		e := b[off:]
		t := tag{block: uint64(be.Uint32(e)), log: j.next(at, uint64(len(tags)+1))}
		var flags uint32
		if j.csum == 3 {
			flags, t.checksum = be.Uint32(e[4:]), be.Uint32(e[12:])
		} else {
			t.checksum, flags = uint32(be.Uint16(e[4:])), uint32(be.Uint16(e[6:]))
		}
		if j.wide {
			t.block |= uint64(be.Uint32(e[8:])) << 32
		}
		t.escaped = flags&tagEscape != 0
		if off += size; flags&tagSameUUID == 0 {
			off += 16
		}
		tags = append(tags, t)
		if uint64(len(tags)) > j.end-j.first {
			return nil, corrupt(journalPlace(at), "has more blocks than the log")
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return tags, nil
}

// tailValid checks the checksum at the end of a descriptor or revoke block.
func (j *journal) tailValid(b []byte) bool {
	if j.csum == 0 {
		return true
	}
	crc := crc32c(j.seed, b[:len(b)-4])
	return crc32c(crc, []byte{0, 0, 0, 0}) == be.Uint32(b[len(b)-4:])
}

// noFastCommits refuses a log that goes on with fast commits, which are
// descriptions of changes rather than blocks.
func (j *journal) noFastCommits(after uint32) error {
	if j.fast == 0 {
		return nil
	}
	b, err := j.block(j.fast)
	if err != nil {
		return err
	}
	if le.Uint16(b) == fastHeadTag && le.Uint32(b[8:]) == after {
		return unsupported(journalPlace(j.fast), "fast commits must be replayed: mount the image, or run e2fsck on it, once")
	}
	return nil
}
