package ext4

import (
	"fmt"
)

// Root is the number of the top folder.
const Root = rootInode

// Inode is a file, folder, link or device in a Volume. It does not change.
type Inode struct {
	Number   uint32
	Mode     uint16
	UID, GID uint32
	Links    uint16
	Size     int64
	Sec      int64 // of the last change
	Nsec     uint32
	Rdev     uint32

	flags  uint32
	root   [rootBytes]byte
	seed   uint32 // of the checksums of its blocks
	inline []byte // what is in the inode itself, of those with inline data
}

// Kind is the type's part of the mode.
func (in *Inode) Kind() uint16 { return in.Mode & ModeType }

func (in *Inode) place() string { return fmt.Sprintf("inode %d", in.Number) }

// Inode reads an inode that a folder names.
func (v *Volume) Inode(number uint32) (*Inode, error) {
	if number != rootInode && number < v.firstInode {
		return nil, corrupt(fmt.Sprintf("inode %d", number), "is reserved")
	}
	return v.inode(number)
}

func (v *Volume) inode(number uint32) (*Inode, error) {
	place := fmt.Sprintf("inode %d", number)
	if number == 0 || number > v.inodes {
		return nil, corrupt(place, "there are only %d", v.inodes)
	}
	index := number - 1
	table, err := v.inodeTable(uint64(index / v.inodesPerGroup))
	if err != nil {
		return nil, err
	}
	offset := uint64(index%v.inodesPerGroup) * uint64(v.inodeSize)
	b, err := v.block(table + offset/v.blockSize)
	if err != nil {
		return nil, err
	}
	raw := b[offset%v.blockSize:][:v.inodeSize]
	extra := 0
	if v.inodeSize > smallInode {
		extra = int(le.Uint16(raw[inExtraSize:]))
		if extra > len(raw)-smallInode || extra%4 != 0 {
			return nil, corrupt(place, "extra_isize is %d", extra)
		}
	}
	in := &Inode{Number: number, flags: le.Uint32(raw[inFlags:])}
	in.seed = inodeSeed(v.seed, number, le.Uint32(raw[inGeneration:]))
	if v.checksums {
		if err := in.verify(raw, extra); err != nil {
			return nil, err
		}
	}
	in.Mode, in.Links = le.Uint16(raw[inMode:]), le.Uint16(raw[inLinks:])
	in.UID = uint32(le.Uint16(raw[inUID:])) | uint32(le.Uint16(raw[inUIDHi:]))<<16
	in.GID = uint32(le.Uint16(raw[inGID:])) | uint32(le.Uint16(raw[inGIDHi:]))<<16
	in.Sec = int64(int32(le.Uint32(raw[inMTime:])))
	if extra >= inMTimeExtra+4-smallInode {
		e := le.Uint32(raw[inMTimeExtra:])
		in.Sec += int64(e&3) << 32
		in.Nsec = min(e>>2, 999_999_999)
	}
	copy(in.root[:], raw[inBlock:])
	size := uint64(le.Uint32(raw[inSizeLo:]))
	if in.Kind() == ModeRegular || v.large && in.Kind() == ModeDir {
		size |= uint64(le.Uint32(raw[inSizeHi:])) << 32
	}
	if size > 1<<62 {
		return nil, corrupt(place, "size is %d", size)
	}
	in.Size = int64(size)
	switch in.Kind() {
	case ModeRegular, ModeDir, ModeSymlink, ModeFIFO, ModeSocket:
	case ModeChar, ModeBlock:
		if in.Rdev = le.Uint32(in.root[4:]); le.Uint32(in.root[:]) != 0 {
			old := le.Uint32(in.root[:]) // 8 bits of major and minor each
			in.Rdev = old
		}
	default:
		return nil, corrupt(place, "mode is %#o", in.Mode)
	}
	if in.Links == 0 {
		return nil, corrupt(place, "is deleted")
	}
	if in.flags&flagInlineData != 0 {
		if in.inline, err = in.readInline(raw, extra); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// verify checks the inode's checksum, of which small inodes have half.
func (in *Inode) verify(raw []byte, extra int) error {
	withHi := extra >= inChecksumHi+2-smallInode
	got, want := inodeChecksum(in.seed, raw, withHi), uint32(le.Uint16(raw[inChecksumLo:]))
	if withHi {
		want |= uint32(le.Uint16(raw[inChecksumHi:])) << 16
	} else {
		got &= 0xFFFF
	}
	if got != want {
		return corrupt(in.place(), "checksum is %#x, want %#x", got, want)
	}
	return nil
}

// Target reads a symbolic link.
func (v *Volume) Target(in *Inode) (string, error) {
	switch {
	case in.Kind() != ModeSymlink:
		return "", corrupt(in.place(), "is not a symbolic link")
	case in.flags&flagEncrypt != 0:
		return "", unsupported(in.place(), "is encrypted")
	case in.Size == 0 || in.Size > int64(max(v.blockSize, 4096)):
		return "", corrupt(in.place(), "symbolic link of %d bytes", in.Size)
	}
	b := make([]byte, in.Size)
	if in.inline == nil && in.Size < rootBytes && in.flags&flagExtents == 0 {
		copy(b, in.root[:])
	} else if err := v.NewData(in).read(b, 0); err != nil {
		return "", err
	}
	for _, c := range b {
		if c == 0 {
			return "", corrupt(in.place(), "symbolic link with a zero byte")
		}
	}
	return string(b), nil
}
