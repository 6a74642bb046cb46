package ext4

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// DirEntry is a name in a folder that was read.
type DirEntry struct {
	Name   string
	Number uint32
	Kind   uint16 // as Inode.Kind; zero where the file system does not say
}

// ReadDir reads a folder that was found in another one, or the root in itself.
// Entries are in the order of names. Since a folder must name the one it was
// reached from, and may be named only once by it, all folders are one tree, and
// walking it ends.
func (v *Volume) ReadDir(in *Inode, parent uint32) ([]DirEntry, error) {
	if in.Kind() != ModeDir {
		return nil, corrupt(in.place(), "is not a folder")
	}
	if in.flags&flagEncrypt != 0 {
		return nil, unsupported(in.place(), "is encrypted")
	}
	l := &dirList{v: v, in: in, parent: parent}
	var err error
	if in.inline != nil {
		err = l.readInline()
	} else {
		err = l.readBlocks()
	}
	if err != nil {
		return nil, err
	}
	if !l.dot || !l.dotdot {
		return nil, corrupt(in.place(), "folder without . or ..")
	}
	return l.finish()
}

// dirList collects a folder's entries.
type dirList struct {
	v           *Volume
	in          *Inode
	parent      uint32
	entries     []DirEntry
	dot, dotdot bool
}

func (l *dirList) readBlocks() error {
	size := int64(l.v.blockSize)
	if l.in.Size == 0 || l.in.Size%size != 0 {
		return corrupt(l.in.place(), "folder of %d bytes in blocks of %d", l.in.Size, size)
	}
	data := l.v.NewData(l.in)
	for logical := range uint64(l.in.Size / size) {
		at, _, err := data.find(logical)
		if err != nil {
			return err
		}
		place := fmt.Sprintf("inode %d, block %d", l.in.Number, at)
		if at == 0 {
			return corrupt(l.in.place(), "folder has a hole at its block %d", logical)
		}
		b, err := l.v.block(at)
		if err != nil {
			return err
		}
		if l.v.checksums {
			if err := l.verify(b, place); err != nil {
				return err
			}
		}
		if err := l.parse(b, place); err != nil {
			return err
		}
	}
	return nil
}

// recordLength decodes rec_len, whose two low bits are high ones in blocks of
// 64 KiB.
func recordLength(b []byte, blockSize int) int {
	n := int(le.Uint16(b[4:]))
	if blockSize < 1<<16 {
		return n
	}
	if n == 0xFFFF || n == 0 {
		return 1 << 16
	}
	return n&^3 | n&3<<16
}

// parse takes over the entries of a block. Blocks of an index (htree) look like
// empty ones, or like one with only . and .., on purpose.
func (l *dirList) parse(b []byte, place string) error {
	for at := 0; at < len(b); {
		if len(b)-at < 8 {
			return corrupt(place, "folder's block ends in an entry")
		}
		e := b[at:]
		length, name := recordLength(e, int(l.v.blockSize)), int(e[6])
		if length < 8+name || length%4 != 0 || length > len(e) {
			return corrupt(place, "entry at %d has %d bytes for a name of %d", at, length, name)
		}
		at += length
		if number := le.Uint32(e); number != 0 {
			if err := l.add(string(e[8:8+name]), number, e[7], place); err != nil {
				return err
			}
		}
	}
	return nil
}

// add takes over an entry.
func (l *dirList) add(name string, number uint32, kind byte, place string) error {
	if number > l.v.inodes {
		return corrupt(place, "entry names inode %d of %d", number, l.v.inodes)
	}
	switch name {
	case ".":
		if number != l.in.Number || l.dot {
			return corrupt(place, "folder's . names inode %d", number)
		}
		l.dot = true
		return nil
	case "..":
		if number != l.parent || l.dotdot {
			return corrupt(place, "folder's .. names inode %d, it was reached from %d", number, l.parent)
		}
		l.dotdot = true
		return nil
	}
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return corrupt(place, "entry has the name %q", name)
	}
	if number == l.in.Number || number == l.parent || number < l.v.firstInode {
		return corrupt(place, "entry %q names inode %d", name, number)
	}
	if len(l.entries) >= l.v.limits.DirEntries {
		return &Fault{place, fmt.Errorf("%w: folder has more than %d entries", ErrLimit, l.v.limits.DirEntries)}
	}
	e := DirEntry{Name: name, Number: number}
	if l.v.incompat&incompatFiletype != 0 {
		e.Kind = kindOf(kind)
	}
	l.entries = append(l.entries, e)
	return nil
}

// kindOf is the opposite of dirType. Bits above the third are for others.
func kindOf(kind byte) uint16 {
	kinds := [8]uint16{0, ModeRegular, ModeDir, ModeChar, ModeBlock, ModeFIFO, ModeSocket, ModeSymlink}
	return kinds[kind&7]
}

// finish sorts, finds out what the entries are where they do not say it, and
// refuses names and folders that are there twice.
func (l *dirList) finish() ([]DirEntry, error) {
	slices.SortFunc(l.entries, func(a, b DirEntry) int { return cmp.Compare(a.Name, b.Name) })
	var folders []uint32
	for i := range l.entries {
		e := &l.entries[i]
		if i > 0 && e.Name == l.entries[i-1].Name {
			return nil, corrupt(l.in.place(), "folder has %q twice", e.Name)
		}
		if e.Kind == 0 {
			in, err := l.v.Inode(e.Number)
			if err != nil {
				return nil, err
			}
			e.Kind = in.Kind()
		}
		if e.Kind == ModeDir {
			folders = append(folders, e.Number)
		}
	}
	slices.Sort(folders)
	for i := 1; i < len(folders); i++ {
		if folders[i] == folders[i-1] {
			return nil, corrupt(l.in.place(), "folder names the folder of inode %d twice", folders[i])
		}
	}
	return l.entries, nil
}

// verify checks the checksum of a folder's block: in the fake last entry of a
// plain block, or behind the entries of an index block. An index block may
// still have an old fake entry in it.
func (l *dirList) verify(b []byte, place string) error {
	if l.in.flags&flagIndex != 0 {
		switch first := recordLength(b, len(b)); {
		case first == len(b):
			return l.verifyIndex(b, 8, place)
		case first == 12 && recordLength(b[12:], len(b)) == len(b)-12:
			return l.verifyIndex(b, 32, place)
		}
	}
	tail := b[len(b)-dirTailSize:]
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != dirTailSize || tail[6] != 0 || tail[7] != dirTailType {
		return corrupt(place, "folder's block has no checksum")
	}
	if got, want := crc32c(l.in.seed, b[:len(b)-dirTailSize]), le.Uint32(tail[8:]); got != want {
		return corrupt(place, "checksum of the folder's block is %#08x, want %#08x", got, want)
	}
	return nil
}

// verifyIndex is for a block of an index whose entries begin at head.
func (l *dirList) verifyIndex(b []byte, head int, place string) error {
	most, count := int(le.Uint16(b[head:])), int(le.Uint16(b[head+2:]))
	end := head + 8*most
	if count > most || end+8 > len(b) {
		return corrupt(place, "index of the folder has %d of %d entries", count, most)
	}
	crc := crc32c(l.in.seed, b[:head+8*count])
	crc = crc32c(crc, b[end:end+4])
	crc = crc32c(crc, []byte{0, 0, 0, 0})
	if want := le.Uint32(b[end+4:]); crc != want {
		return corrupt(place, "checksum of the folder's index is %#08x, want %#08x", crc, want)
	}
	return nil
}
