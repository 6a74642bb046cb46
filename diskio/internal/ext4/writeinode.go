package ext4

// writeInodes writes all groups' inode tables: they are one after the other.
func (p *Plan) writeInodes(out *sequence) {
	for ino := uint32(1); ino < firstInode; ino++ {
		raw := out.take(inodeSize)
		if ino == rootInode {
			p.root.writeInode(raw, p.seed)
		}
	}
	for _, n := range p.nodes {
		n.writeInode(out.take(inodeSize), p.seed)
	}
	rest := int64(p.groups*p.perGrp.inodes-p.usedInodes()) * inodeSize
	if tail := rest % BlockSize; tail > 0 {
		out.take(int(tail))
	}
	if rest -= rest % BlockSize; rest > 0 {
		out.skip(rest)
	}
}

func (n *Node) writeInode(b []byte, seed uint32) {
	le.PutUint16(b[inMode:], n.Mode)
	le.PutUint16(b[inUID:], uint16(n.UID))
	le.PutUint16(b[inUIDHi:], uint16(n.UID>>16))
	le.PutUint16(b[inGID:], uint16(n.GID))
	le.PutUint16(b[inGIDHi:], uint16(n.GID>>16))
	sec, extra := n.times()
	for _, at := range []int{inATime, inCTime, inMTime, inCRTime} {
		le.PutUint32(b[at:], sec)
	}
	for _, at := range []int{inATimeExtra, inCTimeExtra, inMTimeExtra, inCRExtra} {
		le.PutUint32(b[at:], extra)
	}
	links := n.links
	if n.kind() == ModeDir && links > maxLinks {
		links = 1 // dir_nlink: not counted any more
	}
	le.PutUint16(b[inLinks:], uint16(links))
	size, flags := uint64(0), uint32(0)
	switch n.kind() {
	case ModeRegular:
		size, flags = uint64(n.Size), flagExtents
	case ModeDir:
		size, flags = n.blocks*BlockSize, flagExtents
	case ModeSymlink:
		size = uint64(len(n.Target))
		if n.blocks > 0 {
			flags = flagExtents
		} else {
			copy(b[inBlock:inBlock+rootBytes], n.Target)
		}
	case ModeChar, ModeBlock:
		le.PutUint32(b[inBlock+4:], n.Rdev)
	}
	if flags&flagExtents != 0 {
		n.writeRoot(b[inBlock : inBlock+rootBytes])
	}
	le.PutUint32(b[inSizeLo:], uint32(size))
	le.PutUint32(b[inSizeHi:], uint32(size>>32))
	le.PutUint32(b[inFlags:], flags)
	sectors := n.blocks
	for _, blocks := range n.levels {
		sectors += blocks
	}
	sectors *= BlockSize / 512
	le.PutUint32(b[inBlocksLo:], uint32(sectors))
	le.PutUint16(b[inBlocksHi:], uint16(sectors>>32))
	le.PutUint16(b[inExtraSize:], extraSize)
	crc := inodeChecksum(inodeSeed(seed, n.ino, 0), b, true)
	le.PutUint16(b[inChecksumLo:], uint16(crc))
	le.PutUint16(b[inChecksumHi:], uint16(crc>>16))
}

// times encodes the time: 32 signed bits of seconds, two more bits above them
// and 30 bits of nanoseconds. What is out of range becomes the nearest.
func (n *Node) times() (sec, extra uint32) {
	const least, most = -1 << 31, 1<<34 - 1<<31 - 1
	s := min(max(n.Sec, least), most)
	return uint32(s), uint32((s-int64(int32(s)))>>32)&3 | n.Nsec<<2
}

// extentHeader fills in the head of a node of an extent tree.
func extentHeader(b []byte, entries, most, depth int) {
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(most))
	le.PutUint16(b[6:], uint16(depth))
}

func putExtent(b []byte, e extent) {
	le.PutUint32(b, e.logical)
	le.PutUint16(b[4:], e.length)
	le.PutUint16(b[6:], uint16(e.at>>32))
	le.PutUint32(b[8:], uint32(e.at))
}

func putIndex(b []byte, logical uint32, at uint64) {
	le.PutUint32(b, logical)
	le.PutUint32(b[4:], uint32(at))
	le.PutUint16(b[8:], uint16(at>>32))
}

// writeRoot fills an inode's i_block: with the extents, or with the places of
// the tree's top level.
func (n *Node) writeRoot(b []byte) {
	i := 0
	if len(n.levels) == 0 {
		for e := range n.extents {
			putExtent(b[12+12*i:], e)
			i++
		}
		extentHeader(b, i, extentsInInode, 0)
		return
	}
	at := n.tree // the levels are stored leaves first
	for _, blocks := range n.levels[:len(n.levels)-1] {
		at += blocks
	}
	for _, logical := range n.firsts(len(n.levels) - 1) {
		putIndex(b[12+12*i:], logical, at+uint64(i))
		i++
	}
	extentHeader(b, i, extentsInInode, len(n.levels))
}

// firsts gives the first logical block of each block of a level.
func (n *Node) firsts(level int) []uint32 {
	step := uint64(extentsPerBlock)
	for range level {
		step *= extentsPerBlock
	}
	firsts, i := make([]uint32, 0, n.levels[level]), uint64(0)
	for e := range n.extents {
		if i%step == 0 {
			firsts = append(firsts, e.logical)
		}
		i++
	}
	return firsts
}

// writeTree writes the extent tree's blocks, leaves first.
func (n *Node) writeTree(seed uint32, next func() []byte) {
	if len(n.levels) == 0 {
		return
	}
	var b []byte
	i := 0
	end := func(depth int) {
		if i > 0 {
			extentHeader(b, i, extentsPerBlock, depth)
			le.PutUint32(b[BlockSize-4:], crc32c(seed, b[:BlockSize-4]))
		}
		i = 0
	}
	for e := range n.extents {
		if i == extentsPerBlock {
			end(0)
		}
		if i == 0 {
			b = next()
		}
		putExtent(b[12+12*i:], e)
		i++
	}
	end(0)
	below := n.tree
	for level := 1; level < len(n.levels); level++ {
		for k, logical := range n.firsts(level - 1) {
			if i == extentsPerBlock {
				end(level)
			}
			if i == 0 {
				b = next()
			}
			putIndex(b[12+12*i:], logical, below+uint64(k))
			i++
		}
		end(level)
		below += n.levels[level-1]
	}
}

// writeDir fills a folder's blocks, which next gives, and counts them. Without
// next it only counts. Entries are in a plain list: an index is made by the
// kernel when it needs one.
func (n *Node) writeDir(seed uint32, next func() []byte) uint64 {
	const room = BlockSize - dirTailSize
	var (
		b      []byte
		blocks uint64
		used   = room // of the block; the first entry opens one
		last   int    // where the last entry begins
	)
	end := func() {
		if b == nil {
			return
		}
		le.PutUint16(b[last+4:], uint16(room-last)) // the last entry reaches to the end
		le.PutUint16(b[room+4:], dirTailSize)
		b[room+7] = dirTailType
		le.PutUint32(b[room+8:], crc32c(seed, b[:room]))
	}
	add := func(name string, ino uint32, kind byte) {
		size := (8 + len(name) + 3) &^ 3
		if used+size > room {
			end()
			blocks++
			used = 0
			if next != nil {
				b = next()
			}
		}
		if b != nil {
			le.PutUint32(b[used:], ino)
			le.PutUint16(b[used+4:], uint16(size))
			b[used+6], b[used+7] = byte(len(name)), kind
			copy(b[used+8:], name)
		}
		last = used
		used += size
	}
	add(".", n.ino, dirType(ModeDir))
	add("..", n.parent, dirType(ModeDir))
	for _, e := range n.Entries {
		add(e.Name, e.Node.ino, dirType(e.Node.Mode))
	}
	end()
	return blocks
}
