package ext4

import (
	"fmt"
	"io"
	"sort"
)

// Data reads the content of a file. It remembers where it was and is not safe
// for concurrent use; any number of them may read the same Inode.
type Data struct {
	v  *Volume
	in *Inode
	// One leaf of the map is kept: what is known about blocks lo to hi.
	lo, hi uint64
	leaf   []mapping
}

// mapping is a run of blocks. What is between two of them is a hole.
type mapping struct{ logical, at, length uint64 }

// NewData opens an inode's content.
func (v *Volume) NewData(in *Inode) *Data { return &Data{v: v, in: in} }

// ReadAt is io.ReaderAt, but not safe for concurrent use.
func (d *Data) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("offset %d", off)
	}
	if off >= d.in.Size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.in.Size-off))
	if err := d.read(p[:n], uint64(off)); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read fills p from within the file.
func (d *Data) read(p []byte, off uint64) error {
	if d.in.flags&flagEncrypt != 0 {
		return unsupported(d.in.place(), "is encrypted")
	}
	if d.in.inline != nil {
		clear(p)
		if off < uint64(len(d.in.inline)) {
			copy(p, d.in.inline[off:])
		}
		return nil
	}
	size := d.v.blockSize
	for len(p) > 0 {
		at, length, err := d.find(off / size)
		if err != nil {
			return err
		}
		n := uint64(len(p))
		if within := off % size; length <= n/size+1 { // which also keeps the product small
			n = min(n, length*size-within)
		}
		if at == 0 {
			clear(p[:n])
		} else if err := d.v.readAt(p[:n], at, off%size); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// NextData gives the next stretch with data at or after an offset; from the
// file's size on there is none. Reading what is between two gives zeros.
func (d *Data) NextData(off int64) (start, end int64, err error) {
	if off >= d.in.Size || d.in.inline != nil {
		return off, max(off, d.in.Size), nil
	}
	size := int64(d.v.blockSize)
	for start = off; start < d.in.Size; start = end {
		at, length, err := d.find(uint64(start / size))
		if err != nil {
			return 0, 0, err
		}
		end = d.in.Size
		if length < uint64(d.in.Size/size+1) {
			end = min(end, (start/size+int64(length))*size)
		}
		if at != 0 {
			return start, end, nil
		}
	}
	return d.in.Size, d.in.Size, nil
}

// find gives the place of a block of the file and how many follow it there. A
// hole is at zero.
func (d *Data) find(logical uint64) (at, length uint64, err error) {
	if logical < d.lo || logical >= d.hi {
		if d.in.flags&flagExtents != 0 {
			err = d.loadExtents(logical)
		} else {
			err = d.loadBlocks(logical)
		}
		if err != nil {
			d.lo, d.hi = 0, 0
			return 0, 0, err
		}
	}
	i := sort.Search(len(d.leaf), func(i int) bool { return d.leaf[i].logical+d.leaf[i].length > logical })
	if i == len(d.leaf) {
		return 0, d.hi - logical, nil
	}
	m := d.leaf[i]
	if logical < m.logical {
		return 0, m.logical - logical, nil
	}
	skip := logical - m.logical
	if m.at == 0 {
		return 0, m.length - skip, nil
	}
	return m.at + skip, m.length - skip, nil
}

// loadExtents goes down the extent tree to the leaf for a block. Each step must
// be one level deeper and within the range that the level above gave it, so
// that it ends whatever the image says.
func (d *Data) loadExtents(logical uint64) error {
	const most = 1 << 32
	if logical >= most {
		d.lo, d.hi, d.leaf = most, 1<<63, d.leaf[:0]
		return nil
	}
	node, place := d.in.root[:], d.in.place()
	lo, hi := uint64(0), uint64(most)
	depth, err := d.extentHead(node, place)
	if err != nil {
		return err
	}
	if depth > maxExtentTree {
		return corrupt(place, "extent tree has %d levels", depth)
	}
	for ; depth > 0; depth-- {
		entries := uint64(le.Uint16(node[2:]))
		if entries == 0 {
			return corrupt(place, "index of the extent tree is empty")
		}
		var next, last uint64
		found, end := false, hi
		for i := range entries {
			e := node[12+12*i:]
			first := uint64(le.Uint32(e))
			if first < lo || first >= hi || i > 0 && first <= last {
				return corrupt(place, "index of the extent tree is out of order at block %d", first)
			}
			last = first
			if first > logical {
				end = first
				break
			}
			found, next = true, uint64(le.Uint32(e[4:]))|uint64(le.Uint16(e[8:]))<<32
			lo = first
		}
		if !found { // before the first: a hole
			d.lo, d.hi, d.leaf = lo, end, d.leaf[:0]
			return nil
		}
		hi = end
		place = fmt.Sprintf("inode %d, block %d", d.in.Number, next)
		if next <= d.v.firstData {
			return corrupt(place, "is no place for an extent tree")
		}
		if node, err = d.v.block(next); err != nil {
			return err
		}
		below, err := d.extentHead(node, place)
		if err != nil {
			return err
		}
		if below != depth-1 {
			return corrupt(place, "level %d of the extent tree is below level %d", below, depth)
		}
	}
	return d.extentLeaf(node, place, lo, hi)
}

// extentHead checks a node's head and checksum and gives its level.
func (d *Data) extentHead(b []byte, place string) (int, error) {
	if le.Uint16(b) != extentMagic {
		return 0, corrupt(place, "extent tree has the mark %#04x, want %#04x", le.Uint16(b), extentMagic)
	}
	entries, most := int(le.Uint16(b[2:])), int(le.Uint16(b[4:]))
	if entries > most || 12+12*most > len(b) {
		return 0, corrupt(place, "extent tree has %d of %d entries in %d bytes", entries, most, len(b))
	}
	if d.v.checksums && len(b) > rootBytes {
		tail := 12 + 12*most
		if tail+4 > len(b) {
			return 0, corrupt(place, "extent tree has no checksum")
		}
		if got, want := crc32c(d.in.seed, b[:tail]), le.Uint32(b[tail:]); got != want {
			return 0, corrupt(place, "checksum of the extent tree is %#08x, want %#08x", got, want)
		}
	}
	return int(le.Uint16(b[6:])), nil
}

// extentLeaf takes over a leaf for blocks lo to hi.
func (d *Data) extentLeaf(b []byte, place string, lo, hi uint64) error {
	leaf := d.leaf[:0]
	end := lo
	for i := range int(le.Uint16(b[2:])) {
		e := b[12+12*i:]
		m := mapping{
			logical: uint64(le.Uint32(e)),
			length:  uint64(le.Uint16(e[4:])),
			at:      uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32,
		}
		unwritten := m.length > maxExtent
		if unwritten {
			m.length -= maxExtent
		}
		if m.logical < end || m.length == 0 || m.logical+m.length > hi {
			return corrupt(place, "extent %d+%d is out of order, want it in %d to %d", m.logical, m.length, end, hi)
		}
		if m.at <= d.v.firstData || m.at >= d.v.blocks || m.length > d.v.blocks-m.at {
			return corrupt(place, "extent at block %d+%d of %d", m.at, m.length, d.v.blocks)
		}
		end = m.logical + m.length
		if unwritten {
			m.at = 0 // reads as zeros
		}
		leaf = append(leaf, m)
	}
	d.lo, d.hi, d.leaf = lo, hi, leaf
	return nil
}

// loadBlocks is for files without extents: twelve blocks are named in the
// inode, the others by blocks of numbers, of which there are up to three levels.
func (d *Data) loadBlocks(logical uint64) error {
	per := d.v.blockSize / 4
	if logical < 12 {
		return d.blockLeaf(d.in.root[:48], d.in.place(), 0)
	}
	first, span := uint64(12), per
	for level := range 3 {
		if logical-first < span {
			return d.descend(uint64(le.Uint32(d.in.root[48+4*level:])), level, first, span, logical)
		}
		first += span
		span *= per
	}
	d.lo, d.hi, d.leaf = first, 1<<63, d.leaf[:0]
	return nil
}

// descend goes from a block of numbers, for span blocks of the file, down to
// the one that names data.
func (d *Data) descend(at uint64, level int, first, span, logical uint64) error {
	for {
		if at == 0 {
			d.lo, d.hi, d.leaf = first, first+span, d.leaf[:0]
			return nil
		}
		place := fmt.Sprintf("inode %d, block %d", d.in.Number, at)
		if at <= d.v.firstData {
			return corrupt(place, "is no place for block numbers")
		}
		b, err := d.v.block(at)
		if err != nil {
			return err
		}
		if level == 0 {
			return d.blockLeaf(b, place, first)
		}
		level--
		span /= d.v.blockSize / 4
		i := (logical - first) / span
		first += i * span
		at = uint64(le.Uint32(b[4*i:]))
	}
}

// blockLeaf takes over a block of numbers.
func (d *Data) blockLeaf(b []byte, place string, first uint64) error {
	leaf := d.leaf[:0]
	for i := range uint64(len(b) / 4) {
		at := uint64(le.Uint32(b[4*i:]))
		if at == 0 {
			continue
		}
		if at <= d.v.firstData || at >= d.v.blocks {
			return corrupt(place, "data at block %d of %d", at, d.v.blocks)
		}
		if k := len(leaf) - 1; k >= 0 && leaf[k].logical+leaf[k].length == first+i && leaf[k].at+leaf[k].length == at {
			leaf[k].length++
		} else {
			leaf = append(leaf, mapping{first + i, at, 1})
		}
	}
	d.lo, d.hi, d.leaf = first, first+uint64(len(b)/4), leaf
	return nil
}
