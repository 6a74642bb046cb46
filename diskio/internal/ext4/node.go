package ext4

import (
	"errors"
	"fmt"
	"strings"
)

// BlockSize is that of the images that are written. The reader takes all.
const BlockSize = 4096

// Numbers of the images that are written.
const (
	inodeSize       = 256
	extraSize       = 32 // of the fields behind the first 128 bytes
	descSize        = 64
	blocksPerGroup  = BlockSize * 8
	inodesPerGroup  = BlockSize * 8 // at the most
	inodesPerBlock  = BlockSize / inodeSize
	extentsPerBlock = (BlockSize - 12) / 12 // four bytes are left for the checksum
	extentsInInode  = 4
	// maxFileSize is what 32-bit block numbers reach, less one block.
	maxFileSize = (1<<32 - 2) * BlockSize
)

// Node is a file, folder, link or device to write. One that several entries
// name is a file with several links.
type Node struct {
	Mode     uint16 // type and permission bits, as they are on the disk
	UID, GID uint32
	Sec      int64 // time of the last change, since 1970
	Nsec     uint32
	Size     int64  // of a regular file
	Target   string // of a symbolic link
	Rdev     uint32 // of a device, in the kernel's new encoding
	// Data tells where a regular file has data, by rising offsets that are
	// multiples of BlockSize; the rest are holes. Nil: data everywhere.
	Data    []Segment
	Entries []Entry // of a folder; NewPlan sorts them

	ino    uint32
	links  uint32
	parent uint32 // of a folder
	blocks uint64 // of data, entries or target
	start  uint64 // where they begin
	tree   uint64 // where the extent tree's blocks begin
	levels []uint64
}

// Entry is a name in a folder.
type Entry struct {
	Name string
	Node *Node
}

// Segment is a stretch of a file.
type Segment struct{ Offset, Length int64 }

// Number is the inode's number, known once a Plan is made.
func (n *Node) Number() uint32 { return n.ino }

func (n *Node) kind() uint16 { return n.Mode & ModeType }

// Run is a stretch of a file's data with its place in the image, in bytes.
type Run struct{ Offset, At, Length int64 }

// Runs are where a regular file's data goes, as the Plan has it.
func (n *Node) Runs(yield func(Run) bool) {
	at := int64(n.start) * BlockSize
	if n.Data == nil {
		if n.Size > 0 {
			yield(Run{0, at, n.Size})
		}
		return
	}
	for _, s := range n.Data {
		length := min(s.Length, n.Size-s.Offset)
		if !yield(Run{s.Offset, at, length}) {
			return
		}
		at += roundUp(length, BlockSize)
	}
}

// extent is a run in blocks, at most maxExtent of them.
type extent struct {
	logical uint32
	at      uint64
	length  uint16
}

// extents are what the inode's extent tree holds.
func (n *Node) extents(yield func(extent) bool) {
	if n.kind() != ModeRegular {
		cut(0, n.start, n.blocks, yield)
		return
	}
	for r := range n.Runs {
		if !cut(uint64(r.Offset)/BlockSize, uint64(r.At)/BlockSize, ceil(uint64(r.Length), BlockSize), yield) {
			return
		}
	}
}

// cut makes extents of a run.
func cut(logical, at, length uint64, yield func(extent) bool) bool {
	for length > 0 {
		n := min(length, maxExtent)
		if !yield(extent{uint32(logical), at, uint16(n)}) {
			return false
		}
		logical, at, length = logical+n, at+n, length-n
	}
	return true
}

// check says what cannot be written.
func (n *Node) check() error {
	if n.Nsec >= 1e9 {
		return fmt.Errorf("%d nanoseconds are more than a second", n.Nsec)
	}
	switch n.kind() {
	case ModeDir, ModeChar, ModeBlock, ModeFIFO, ModeSocket:
	case ModeSymlink:
		if len(n.Target) == 0 || len(n.Target) >= BlockSize {
			return fmt.Errorf("target of a symbolic link has %d bytes, want 1 to %d", len(n.Target), BlockSize-1)
		}
		if strings.IndexByte(n.Target, 0) >= 0 {
			return errors.New("target of a symbolic link has a zero byte")
		}
	case ModeRegular:
		if n.Size < 0 || n.Size > maxFileSize {
			return fmt.Errorf("file has %d bytes, want at most %d", n.Size, int64(maxFileSize))
		}
		end := int64(0)
		for _, s := range n.Data {
			if s.Offset < end || s.Offset%BlockSize != 0 || s.Length <= 0 || s.Offset >= n.Size {
				return fmt.Errorf("segment %d+%d of a file of %d bytes is out of order or not on a block", s.Offset, s.Length, n.Size)
			}
			if s.Length > 1<<62 {
				return fmt.Errorf("segment of %d bytes", s.Length)
			}
			end = roundUp(s.Offset+s.Length, BlockSize)
		}
	default:
		return fmt.Errorf("mode %#o has no known type", n.Mode)
	}
	return nil
}

// CheckName says what cannot be the name of an entry.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q cannot be a name", name)
	case len(name) > maxName:
		return fmt.Errorf("name has %d bytes, want at most %d", len(name), maxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q has a slash or a zero byte", name)
	}
	return nil
}

func roundUp[T int64 | uint64](n, to T) T { return (n + to - 1) / to * to }

func ceil(n, by uint64) uint64 { return (n + by - 1) / by }
