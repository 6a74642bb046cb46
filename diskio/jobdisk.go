package diskio

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

// The job disk's layout; diskio/PROTOCOL.md has it for guests in any language.
const (
	jobVersion   = 1
	superSize    = 512       // bytes of the superblock, at the disk's begin
	recordsAlign = 4096      // the records begin at a multiple of it
	sizeAlign    = 4096      // sizes of disks are multiples of it
	maxDocument  = 64 << 20  // bytes of the job document
	nonceSize    = 16        // bytes
	digestPrefix = "sha256:" // of digests as text
)

var (
	jobMagic = [8]byte{0xB5, 'B', 'P', 'J', 'O', 'B', '\r', '\n'}
	jobCRC   = crc32.MakeTable(crc32.Castagnoli)
)

// jobSuper is the superblock, field by field.
type jobSuper struct {
	size                  int64 // of the whole disk
	nonce                 [nonceSize]byte
	filesOff, filesLen    int64
	docOff, docLen        int64
	docSum                [sha256.Size]byte
	recordsOff, recordEnd int64
}

// encode gives the 512 bytes:
//
//	0    8  magic B5 'BPJOB' 0D 0A
//	8    4  version, 1 (all numbers little endian)
//	12   4  length of the superblock, 512
//	16   8  size of the disk
//	24   16 nonce
//	40   8  offset of the carried files, 48 8 their length
//	56   8  offset of the job document, 64 8 its length
//	72   32 SHA-256 of the job document
//	104  8  offset of the records, 112 8 offset of their end
//	120  388 zero
//	508  4  CRC-32C of bytes 0 to 508
func (s *jobSuper) encode() []byte {
	b := make([]byte, superSize)
	le := binary.LittleEndian
	copy(b, jobMagic[:])
	le.PutUint32(b[8:], jobVersion)
	le.PutUint32(b[12:], superSize)
	le.PutUint64(b[16:], uint64(s.size))
	copy(b[24:], s.nonce[:])
	for i, n := range [...]int64{s.filesOff, s.filesLen, s.docOff, s.docLen} {
		le.PutUint64(b[40+8*i:], uint64(n))
	}
	copy(b[72:], s.docSum[:])
	le.PutUint64(b[104:], uint64(s.recordsOff))
	le.PutUint64(b[112:], uint64(s.recordEnd))
	le.PutUint32(b[508:], crc32.Checksum(b[:508], jobCRC))
	return b
}

// decodeSuper reads a superblock of a disk of size bytes and checks that its
// parts lie inside the disk, in order.
func decodeSuper(b []byte, size int64) (jobSuper, error) {
	var s jobSuper
	le := binary.LittleEndian
	if [8]byte(b[:8]) != jobMagic {
		return s, fmt.Errorf("%w: no job disk: it begins with % x", ErrCorrupt, b[:8])
	}
	if got, want := crc32.Checksum(b[:508], jobCRC), le.Uint32(b[508:]); got != want {
		return s, fmt.Errorf("%w: superblock: checksum is %08x, want %08x", ErrCorrupt, got, want)
	}
	if v := le.Uint32(b[8:]); v != jobVersion {
		return s, fmt.Errorf("%w: job disk of version %d, this is %d", ErrUnsupported, v, jobVersion)
	}
	s.size = int64(le.Uint64(b[16:]))
	copy(s.nonce[:], b[24:])
	for i, n := range [...]*int64{&s.filesOff, &s.filesLen, &s.docOff, &s.docLen} {
		*n = int64(le.Uint64(b[40+8*i:]))
	}
	copy(s.docSum[:], b[72:])
	s.recordsOff, s.recordEnd = int64(le.Uint64(b[104:])), int64(le.Uint64(b[112:]))
	ok := le.Uint32(b[12:]) == superSize && s.size > 0 && s.size <= maxSize &&
		s.filesOff == superSize && s.filesLen >= 0 && s.filesLen <= s.size &&
		s.docOff == s.filesOff+s.filesLen && s.docLen > 0 && s.docLen <= maxDocument &&
		s.recordsOff >= s.docOff+s.docLen && s.recordsOff <= s.recordEnd && s.recordEnd == s.size
	for _, c := range b[120:508] {
		ok = ok && c == 0
	}
	if !ok {
		return s, fmt.Errorf("%w: superblock: extents overlap or leave the disk", ErrCorrupt)
	}
	if s.size > size {
		return s, fmt.Errorf("%w: the job was written for a disk of %d bytes, this one has %d", ErrCorrupt, s.size, size)
	}
	return s, nil
}

func jobAlign(n, to int64) int64 { return (n + to - 1) / to * to }

func digestText(sum []byte) string { return digestPrefix + hex.EncodeToString(sum) }
