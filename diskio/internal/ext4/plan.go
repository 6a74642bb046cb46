package ext4

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"path"
	"slices"
)

// Options of NewPlan.
type Options struct {
	Label string // at most 16 bytes
	// FreeBytes and FreeInodes is the room for what is written later.
	FreeBytes  int64
	FreeInodes int64
	// Seed goes into the file system's UUID together with all names, modes,
	// owners, times, sizes and targets, but not the files' data.
	Seed []byte
	// Sec is the time that the file system says it was made at.
	Sec int64
}

// Plan is the layout of an image: block 0 with the superblock, descriptors,
// bitmaps, inode tables, then the blocks of folders, long links and extent
// trees in the order of inodes, then all files' data in the same order, then
// free space. Groups share the structures in front (flex_bg) and there are no
// backups (sparse_super2), so that data is not interrupted.
type Plan struct {
	label  string
	print  [32]byte // the fingerprint that uuid and hash are made from
	uuid   [16]byte
	hash   [16]byte // the seed of directory hashes
	seed   uint32   // of checksums
	sec    int64
	nodes  []*Node // by number, from firstInode on; the root is apart
	root   *Node
	groups uint64
	perGrp struct{ blocks, inodes uint64 }
	total  uint64 // blocks
	meta   uint64 // first block of folders, links and trees
	data   uint64 // first block of files' data
	used   uint64 // blocks; the rest is free
}

// ErrName is what NewPlan's errors about a name wrap.
var ErrName = errors.New("not a possible name")

// PlanError names the path that cannot be written.
type PlanError struct {
	Path string
	Err  error
}

func (e *PlanError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *PlanError) Unwrap() error { return e.Err }

// NewPlan lays out the tree below root, which is a folder. The nodes belong to
// the plan from then on. The same tree and options give the same plan.
func NewPlan(root *Node, o Options) (*Plan, error) {
	if root == nil || root.kind() != ModeDir {
		return nil, &PlanError{".", errors.New("the root is not a folder")}
	}
	if len(o.Label) > 16 {
		return nil, &PlanError{".", fmt.Errorf("label %q has %d bytes, want at most 16", o.Label, len(o.Label))}
	}
	if o.FreeBytes < 0 || o.FreeBytes > 1<<50 || o.FreeInodes < 0 || o.FreeInodes > 1<<31 {
		return nil, &PlanError{".", fmt.Errorf("room for %d bytes and %d inodes is not possible", o.FreeBytes, o.FreeInodes)}
	}
	p := &Plan{root: root, label: o.Label, sec: o.Sec}
	sum := sha256.New()
	fmt.Fprintf(sum, "bullpen ext4 1 %d %d %d %d %q ", o.FreeBytes, o.FreeInodes, o.Sec, len(o.Seed), o.Label)
	sum.Write(o.Seed)
	root.ino, root.parent, root.links = rootInode, rootInode, 1 // its own ..; the others are counted as they are met
	if err := root.check(); err != nil {
		return nil, &PlanError{".", err}
	}
	root.record(sum, "")
	if err := p.number(root, ".", sum); err != nil {
		return nil, err
	}
	sum.Sum(p.print[:0])
	copy(p.uuid[:], p.print[:])
	copy(p.hash[:], p.print[16:])
	for _, u := range []*[16]byte{&p.uuid, &p.hash} { // RFC 9562, version 8
		u[6] = u[6]&0x0F | 0x80
		u[8] = u[8]&0x3F | 0x80
	}
	p.seed = crc32c(^uint32(0), p.uuid[:])
	return p, p.place(o)
}

// number gives numbers to all below a folder, parents first, names in order.
func (p *Plan) number(dir *Node, at string, sum hash.Hash) error {
	slices.SortFunc(dir.Entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	dir.links++ // its own .
	for i, e := range dir.Entries {
		if err := CheckName(e.Name); err != nil {
			return &PlanError{path.Join(at, e.Name), fmt.Errorf("%w: %w", ErrName, err)}
		}
		if i > 0 && e.Name == dir.Entries[i-1].Name {
			return &PlanError{path.Join(at, e.Name), errors.New("name is there twice")}
		}
		n := e.Node
		seen := n.ino != noInode
		if !seen {
			if err := n.check(); err != nil {
				return &PlanError{path.Join(at, e.Name), err}
			}
			if len(p.nodes) > 1<<32-1-firstInode-inodesPerGroup {
				return &PlanError{path.Join(at, e.Name), errors.New("more files than an ext4 has inodes")}
			}
			n.ino = uint32(firstInode + len(p.nodes))
			p.nodes = append(p.nodes, n)
		}
		n.record(sum, e.Name)
		n.links++
		if n.kind() != ModeDir {
			if n.links > maxLinks {
				return &PlanError{path.Join(at, e.Name), fmt.Errorf("file has more than %d links", maxLinks)}
			}
			continue
		}
		if seen {
			return &PlanError{path.Join(at, e.Name), errors.New("folder is in the tree twice")}
		}
		dir.links++ // the ..
		n.parent = dir.ino
		if err := p.number(n, path.Join(at, e.Name), sum); err != nil {
			return err
		}
	}
	return nil
}

// record puts into the fingerprint what makes an entry what it is.
func (n *Node) record(sum hash.Hash, name string) {
	b := make([]byte, 0, 128)
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	for _, v := range []uint64{uint64(n.ino), uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Sec), uint64(n.Nsec),
		uint64(n.Size), uint64(n.Rdev), uint64(len(n.Data)), uint64(len(n.Entries)), uint64(len(n.Target))} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, n.Target...)
	for _, s := range n.Data {
		b = binary.AppendVarint(binary.AppendVarint(b, s.Offset), s.Length)
	}
	sum.Write(b)
}

// all calls yield for the inodes in the order of their numbers.
func (p *Plan) all(yield func(*Node) bool) {
	if !yield(p.root) {
		return
	}
	for _, n := range p.nodes {
		if !yield(n) {
			return
		}
	}
}

// place finds a place for every block.
func (p *Plan) place(o Options) error {
	var structures, data uint64
	for n := range p.all {
		n.measure()
		for _, blocks := range n.levels {
			structures += blocks
		}
		if n.kind() == ModeRegular {
			data += n.blocks
		} else {
			structures += n.blocks
		}
	}
	content := structures + data + ceil(uint64(o.FreeBytes), BlockSize)
	if content > 1<<44 {
		return &PlanError{".", fmt.Errorf("tree needs %d blocks, more than an ext4 has", content)}
	}
	inodes := uint64(firstInode-1+len(p.nodes)) + uint64(o.FreeInodes)
	if inodes > 1<<32-1 {
		return &PlanError{".", fmt.Errorf("%d inodes are more than an ext4 has", inodes)}
	}
	p.sizeGroups(inodes, content)
	p.meta = 1 + ceil(p.groups*descSize, BlockSize) + p.groups*(2+p.perGrp.inodes/inodesPerBlock)
	next := p.meta
	for n := range p.all {
		if n.kind() != ModeRegular {
			n.start, next = next, next+n.blocks
		}
		n.tree = next
		for _, blocks := range n.levels {
			next += blocks
		}
	}
	p.data = next
	for _, n := range p.nodes {
		if n.kind() == ModeRegular {
			n.start, next = next, next+n.blocks
		}
	}
	p.used = next
	return nil
}

// sizeGroups finds the number of groups. More inodes than a group can have make
// more groups than the blocks need: these get fewer blocks each, so that the
// image does not grow.
func (p *Plan) sizeGroups(inodes, content uint64) {
	groups := ceil(inodes, inodesPerGroup)
	for {
		perGroup := roundUp(ceil(inodes, groups), inodesPerBlock)
		total := 1 + ceil(groups*descSize, BlockSize) + groups*(2+perGroup/inodesPerBlock) + content
		need := ceil(total, blocksPerGroup)
		if need > groups {
			groups = need
			continue
		}
		p.groups, p.total = groups, total
		p.perGrp.inodes, p.perGrp.blocks = perGroup, blocksPerGroup
		if need < groups {
			p.perGrp.blocks = roundUp(ceil(total, groups), 8)
			p.total = p.perGrp.blocks * groups
		}
		return
	}
}

// measure counts an inode's blocks and those of its extent tree.
func (n *Node) measure() {
	switch n.kind() {
	case ModeDir:
		n.blocks = n.writeDir(0, nil)
	case ModeSymlink:
		if len(n.Target) >= rootBytes {
			n.blocks = 1
		}
	case ModeRegular:
		for r := range n.Runs {
			n.blocks += ceil(uint64(r.Length), BlockSize)
		}
	}
	extents := uint64(0)
	for range n.extents {
		extents++
	}
	for extents > extentsInInode {
		extents = ceil(extents, extentsPerBlock)
		n.levels = append(n.levels, extents)
	}
}

// Size is the image's length in bytes.
func (p *Plan) Size() int64 { return int64(p.total) * BlockSize }

// DataStart is where the files' data begins; all structures are before it.
func (p *Plan) DataStart() int64 { return int64(p.data) * BlockSize }

// UUID is the file system's.
func (p *Plan) UUID() [16]byte { return p.uuid }

// Fingerprint stands for all of the plan: two with the same one differ in
// nothing but their files' data.
func (p *Plan) Fingerprint() [32]byte { return p.print }
