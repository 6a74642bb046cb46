package diskio

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// packFile is a regular file of a tree and where its content comes from: one
// of the sources is set.
type packFile struct {
	node *ext4.Node
	path string // in the image

	dir   *hostDir // and the name in it
	name  string
	stamp stamp

	root  int // of an fs.FS, as an index into Tree.Roots; the file's name is name
	fsys  fs.FS
	mtime time.Time

	data []byte // also when nothing else is set
}

// stamp tells whether a file is still the one that was looked at.
type stamp struct {
	dev, ino, links uint64
	size            int64
	mtime, ctime    syscall.Timespec
}

func stampOf(st *syscall.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Size, st.Mtim, st.Ctim}
}

// scan is a tree that was looked at: names, sizes and kinds, no content.
type scan struct {
	root  *ext4.Node
	files []*packFile
	dirs  []*hostDir  // all folders of the host that were listed
	hosts []*hostRoot // to be closed

	options PackOptions
	began   time.Time
	folders map[string]*ext4.Node    // by path in the image
	linked  map[[2]uint64]*ext4.Node // files with several names, by device and inode
}

// scanTree looks at all of a tree. The caller closes the scan.
func scanTree(ctx context.Context, t *Tree, o PackOptions) (*scan, error) {
	s := &scan{options: o, began: time.Now(), linked: map[[2]uint64]*ext4.Node{}}
	s.root = s.node(ext4.ModeDir | 0o755)
	s.folders = map[string]*ext4.Node{".": s.root}
	if err := s.tree(ctx, t); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *scan) tree(ctx context.Context, t *Tree) error {
	for i := range t.Roots {
		r := &t.Roots[i]
		at := "."
		if r.At != "" {
			at = r.At
		}
		if _, err := s.folder(at); err != nil {
			return err
		}
		var err error
		if r.Dir != "" {
			err = s.addHost(ctx, r, at)
		} else {
			err = s.addFS(ctx, r, i, at)
		}
		if err != nil {
			return err
		}
	}
	for _, f := range t.Files {
		if err := s.addFile(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) close() {
	for _, h := range s.hosts {
		h.root.Close()
	}
}

// node makes a node with the normal owner and time.
func (s *scan) node(mode uint16) *ext4.Node {
	return &ext4.Node{Mode: mode, Sec: s.options.Time.Unix(), Nsec: uint32(s.options.Time.Nanosecond())}
}

// folder gives the node of a folder in the image and makes it and its parents
// where they are missing.
func (s *scan) folder(name string) (*ext4.Node, error) {
	if n := s.folders[name]; n != nil {
		return n, nil
	}
	parent, err := s.folder(path.Dir(name))
	if err != nil {
		return nil, err
	}
	if err := ext4.CheckName(path.Base(name)); err != nil {
		return nil, &OpError{Op: "pack", Name: name, Err: err}
	}
	n := s.node(ext4.ModeDir | 0o755)
	parent.Entries = append(parent.Entries, ext4.Entry{Name: path.Base(name), Node: n})
	s.folders[name] = n
	return n, nil
}

// add puts a node that is not a folder into the image.
func (s *scan) add(name string, n *ext4.Node) error {
	parent, err := s.folder(path.Dir(name))
	if err != nil {
		return err
	}
	parent.Entries = append(parent.Entries, ext4.Entry{Name: path.Base(name), Node: n})
	return nil
}

// place says where in the image something at a path below a root goes; not ok
// when it is left out.
func (r *Root) place(at, name string) (string, bool, error) {
	if name == "." {
		return at, true, nil
	}
	if r.Rename != nil {
		to := r.Rename(name)
		if to == "" {
			return "", false, nil
		}
		if err := checkPath(to); err != nil {
			return "", false, &OpError{Op: "pack", Name: name, Err: fmt.Errorf("renamed to %q: %w", to, err)}
		}
		name = to
	}
	return path.Join(at, name), true, nil
}

// addFile puts a literal file into the image.
func (s *scan) addFile(f File) error {
	n := s.node(ext4.ModeRegular | 0o644)
	entry := &packFile{node: n, path: f.Path, data: f.Data}
	perm := f.Mode
	if f.Source != "" {
		dir, name := path.Split(f.Source)
		if dir == "" {
			dir = "."
		}
		host, err := s.host(dir)
		if err != nil {
			return &OpError{Op: "pack", Name: f.Source, Err: pathCause(err)}
		}
		// The file itself may be a link: its owner named it.
		info, err := os.Stat(f.Source)
		if err != nil {
			return &OpError{Op: "pack", Name: f.Source, Err: pathCause(err)}
		}
		if !info.Mode().IsRegular() {
			return &OpError{Op: "pack", Name: f.Source, Err: fmt.Errorf("is %s, want a file", kindName(info.Mode()))}
		}
		st := info.Sys().(*syscall.Stat_t)
		entry.dir = &hostDir{host: host, rel: ".", follow: true}
		entry.name, entry.stamp, entry.data = name, stampOf(st), nil
		n.Size = st.Size
		if s.options.Preserve {
			preserveStat(n, st)
		}
		if f.Mode == 0 {
			perm = info.Mode().Perm()
		}
	} else {
		n.Size = int64(len(f.Data))
	}
	if perm == 0 {
		perm = 0o644
	}
	n.Mode = ext4.ModeRegular | s.permissions(perm)
	if err := s.add(f.Path, n); err != nil {
		return err
	}
	s.files = append(s.files, entry)
	return nil
}

// permissions normalises those of a file.
func (s *scan) permissions(perm fs.FileMode) uint16 {
	switch {
	case s.options.Preserve:
		return uint16(perm.Perm())
	case perm&0o111 != 0:
		return 0o755
	}
	return 0o644
}

// addFS walks an fs.FS.
func (s *scan) addFS(ctx context.Context, r *Root, index int, at string) error {
	fail := func(name string, err error) error { return &OpError{Op: "pack", Name: name, Err: pathCause(err)} }
	var walk func(name string) error
	walk = func(name string) error {
		entries, err := fs.ReadDir(r.FS, name)
		if err != nil {
			return fail(name, err)
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return &OpError{Op: "pack", Name: name, Err: context.Cause(ctx)}
			}
			below := path.Join(name, e.Name())
			if strings.Contains(e.Name(), "/") || path.Base(below) != e.Name() {
				return fail(below, fmt.Errorf("%q cannot be a name", e.Name()))
			}
			enter, keep := r.packs(below, e.IsDir())
			if !enter {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return fail(below, err)
			}
			if keep {
				if err := s.addFSEntry(r, index, at, below, info); err != nil {
					return err
				}
			}
			if info.IsDir() {
				if err := walk(below); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if s.options.Preserve {
		if info, err := fs.Stat(r.FS, "."); err == nil {
			s.preserveInfo(s.folders[at], info)
		}
	}
	return walk(".")
}

func (s *scan) addFSEntry(r *Root, index int, at, name string, info fs.FileInfo) error {
	to, ok, err := r.place(at, name)
	if err != nil || !ok {
		return err
	}
	if info.IsDir() {
		n, err := s.folder(to)
		if err == nil && s.options.Preserve {
			s.preserveInfo(n, info)
		}
		return err
	}
	n := s.node(0)
	switch kind := info.Mode().Type(); {
	case kind == 0:
		n.Mode = ext4.ModeRegular | s.permissions(info.Mode())
		if n.Size = info.Size(); n.Size < 0 {
			return &OpError{Op: "pack", Name: name, Err: fmt.Errorf("size is %d", n.Size)}
		}
		s.files = append(s.files, &packFile{node: n, path: to, root: index, fsys: r.FS, name: name, mtime: info.ModTime()})
	case kind == fs.ModeSymlink:
		n.Mode = ext4.ModeSymlink | 0o777
		if n.Target, err = fs.ReadLink(r.FS, name); err != nil {
			return &OpError{Op: "pack", Name: name, Err: pathCause(err)}
		}
	default:
		st, ok := info.Sys().(*syscall.Stat_t)
		if !s.options.Preserve || !ok {
			return &OpError{Op: "pack", Name: name, Err: notPacked(info.Mode())}
		}
		n.Mode, n.Rdev = uint16(st.Mode), deviceNumber(uint64(st.Rdev))
	}
	if s.options.Preserve {
		s.preserveInfo(n, info)
	}
	return s.add(to, n)
}

// preserveInfo keeps what an fs.FileInfo tells.
func (s *scan) preserveInfo(n *ext4.Node, info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		preserveStat(n, st)
		return
	}
	n.Sec, n.Nsec = info.ModTime().Unix(), uint32(info.ModTime().Nanosecond())
	if n.Mode&ext4.ModeType == ext4.ModeSymlink {
		return
	}
	n.Mode = n.Mode&ext4.ModeType | uint16(info.Mode().Perm())
	for bit, mode := range map[fs.FileMode]uint16{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode()&bit != 0 {
			n.Mode |= mode
		}
	}
}

// preserveStat keeps what a stat tells.
func preserveStat(n *ext4.Node, st *syscall.Stat_t) {
	n.Mode = n.Mode&ext4.ModeType | uint16(st.Mode)&0o7777
	n.UID, n.GID = st.Uid, st.Gid
	n.Sec, n.Nsec = int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
}

// deviceNumber turns the C library's encoding into the kernel's 32-bit one.
func deviceNumber(dev uint64) uint32 {
	major := uint32(dev>>8)&0xFFF | uint32(dev>>32)&^0xFFF
	minor := uint32(dev)&0xFF | uint32(dev>>12)&^0xFF
	return minor&0xFF | major<<8 | minor&^0xFF<<12
}

func notPacked(mode fs.FileMode) error {
	return fmt.Errorf("is %s: only files, folders and symbolic links are packed without Preserve", kindName(mode))
}

// kindName names a kind of file for people.
func kindName(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something unknown"
}
