package diskio

import (
	"container/list"
	"io/fs"
	"sort"
	"sync"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// cachedEntries is how many entries of folders an FS keeps in memory, beyond
// the folder that was read last.
const cachedEntries = 1 << 17

// dirCache keeps folders that were read, the last used ones.
type dirCache struct {
	mu      sync.Mutex
	byInode map[uint32]*list.Element // of *dir
	recent  list.List                // last used first
	entries int
}

// dir is a folder that was read and found sound.
type dir struct {
	ino, parent uint32
	entries     []ext4.DirEntry // by name
}

// find looks a name up.
func (d *dir) find(name string) (ext4.DirEntry, bool) {
	i := sort.Search(len(d.entries), func(i int) bool { return d.entries[i].Name >= name })
	if i < len(d.entries) && d.entries[i].Name == name {
		return d.entries[i], true
	}
	return ext4.DirEntry{}, false
}

// dir gives a folder that is named by parent. A folder that is kept was reached
// from its parent before; from anywhere else it is read again, and refused.
func (f *FS) dir(ino, parent uint32) (*dir, error) {
	if d := f.dirs.get(ino); d != nil && d.parent == parent {
		return d, nil
	}
	in, err := f.inode(ext4.DirEntry{Number: ino, Kind: ext4.ModeDir})
	if err != nil {
		return nil, err
	}
	entries, err := f.v.ReadDir(in, parent)
	if err != nil {
		return nil, err
	}
	d := &dir{ino, parent, entries}
	f.dirs.put(d)
	return d, nil
}

// list is a folder's entries as package fs wants them.
func (f *FS) list(ino, parent uint32) ([]fs.DirEntry, error) {
	d, err := f.dir(ino, parent)
	if err != nil {
		return nil, err
	}
	entries := make([]fs.DirEntry, len(d.entries))
	for i, e := range d.entries {
		entries[i] = dirEntry{f, e}
	}
	return entries, nil
}

func (c *dirCache) get(ino uint32) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byInode[ino]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*dir)
}

func (c *dirCache) put(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byInode == nil {
		c.byInode = map[uint32]*list.Element{}
	}
	if c.byInode[d.ino] != nil {
		return // another goroutine was faster
	}
	c.byInode[d.ino] = c.recent.PushFront(d)
	c.entries += len(d.entries) + 8
	for c.entries > cachedEntries && c.recent.Len() > 1 {
		old := c.recent.Remove(c.recent.Back()).(*dir)
		delete(c.byInode, old.ino)
		c.entries -= len(old.entries) + 8
	}
}
