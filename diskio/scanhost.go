package diskio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"sync"
	"syscall"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// hostRoot is a folder of the host that content is read from; nothing outside
// of it is reached.
type hostRoot struct {
	dir  string
	root *os.Root
}

// hostDir is one folder below a hostRoot.
type hostDir struct {
	host    *hostRoot
	rel     string
	stamp   stamp
	entries []hostEntry
	follow  bool // symbolic links in place of files are followed
}

type hostEntry struct {
	name   string
	info   fs.FileInfo
	target string
	data   []ext4.Segment
	dir    *hostDir
}

func (d *hostDir) path(name string) string { return filepath.Join(d.host.dir, d.rel, name) }

// host opens a folder once.
func (s *scan) host(dir string) (*hostRoot, error) {
	for _, h := range s.hosts {
		if h.dir == dir {
			return h, nil
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	h := &hostRoot{dir, root}
	s.hosts = append(s.hosts, h)
	return h, nil
}

// addHost looks at a folder of the host: listing is spread over workers, the
// tree is built from what they find in one go, in the order of names.
func (s *scan) addHost(ctx context.Context, r *Root, at string) error {
	host, err := s.host(r.Dir)
	if err != nil {
		return &OpError{Op: "pack", Name: r.Dir, Err: pathCause(err)}
	}
	top := &hostDir{host: host, rel: "."}
	l := &lister{ctx: ctx, root: r, queue: []*hostDir{top}, pending: 1}
	l.wake = sync.NewCond(&l.mu)
	var workers sync.WaitGroup
	for range packWorkers() {
		workers.Go(l.work)
	}
	workers.Wait()
	if l.err != nil {
		return l.err
	}
	if s.options.Preserve {
		info, err := host.root.Stat(".")
		if err != nil {
			return &OpError{Op: "pack", Name: r.Dir, Err: pathCause(err)}
		}
		preserveStat(s.folders[at], info.Sys().(*syscall.Stat_t))
	}
	return s.addHostDir(r, at, top)
}

// addHostDir takes over what was found in a folder.
func (s *scan) addHostDir(r *Root, at string, d *hostDir) error {
	s.dirs = append(s.dirs, d)
	for i := range d.entries {
		e := &d.entries[i]
		below := path.Join(d.rel, e.name)
		if _, keep := r.packs(below, e.dir != nil); keep {
			if err := s.addHostEntry(r, at, below, d, e); err != nil {
				return err
			}
		}
		if e.dir != nil {
			if err := s.addHostDir(r, at, e.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scan) addHostEntry(r *Root, at, below string, d *hostDir, e *hostEntry) error {
	to, ok, err := r.place(at, below)
	if err != nil || !ok {
		return err
	}
	st := e.info.Sys().(*syscall.Stat_t)
	if e.dir != nil {
		n, err := s.folder(to)
		if err == nil && s.options.Preserve {
			preserveStat(n, st)
		}
		return err
	}
	inode := [2]uint64{uint64(st.Dev), st.Ino}
	if st.Nlink > 1 {
		if n := s.linked[inode]; n != nil {
			return s.add(to, n)
		}
	}
	n := s.node(0)
	switch kind := e.info.Mode().Type(); {
	case kind == 0:
		n.Mode = ext4.ModeRegular | s.permissions(e.info.Mode())
		n.Size, n.Data = st.Size, e.data
		s.files = append(s.files, &packFile{node: n, path: to, dir: d, name: e.name, stamp: stampOf(st)})
	case kind == fs.ModeSymlink:
		n.Mode, n.Target = ext4.ModeSymlink|0o777, e.target
	case s.options.Preserve:
		n.Mode, n.Rdev = uint16(st.Mode), deviceNumber(uint64(st.Rdev))
	default:
		return &OpError{Op: "pack", Name: d.path(e.name), Err: notPacked(e.info.Mode())}
	}
	if s.options.Preserve {
		preserveStat(n, st)
	}
	if st.Nlink > 1 {
		s.linked[inode] = n
	}
	return s.add(to, n)
}

// lister lists folders with several workers.
type lister struct {
	ctx  context.Context
	root *Root

	mu      sync.Mutex
	wake    *sync.Cond
	queue   []*hostDir
	pending int // folders in the queue or in a worker's hands
	err     error
}

func (l *lister) work() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.queue) == 0 && l.pending > 0 && l.err == nil {
			l.wake.Wait()
		}
		if l.pending == 0 || l.err != nil {
			return
		}
		d := l.queue[len(l.queue)-1]
		l.queue = l.queue[:len(l.queue)-1]
		l.mu.Unlock()
		err := d.list(l.ctx, l.root)
		l.mu.Lock()
		if err != nil && l.err == nil {
			l.err = err
		}
		for i := range d.entries {
			if below := d.entries[i].dir; below != nil {
				l.queue = append(l.queue, below)
				l.pending++
			}
		}
		l.pending--
		l.wake.Broadcast()
	}
}

// list reads a folder and looks at each entry without following links.
func (d *hostDir) list(ctx context.Context, r *Root) error {
	fail := func(name string, err error) error {
		return &OpError{Op: "pack", Name: d.path(name), Err: pathCause(err)}
	}
	if ctx.Err() != nil {
		return fail("", context.Cause(ctx))
	}
	root := d.host.root
	if d.rel != "." {
		var err error
		if root, err = d.host.root.OpenRoot(d.rel); err != nil {
			return fail("", err)
		}
		defer root.Close()
	}
	f, err := root.Open(".")
	if err != nil {
		return fail("", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail("", err)
	}
	found := stampOf(info.Sys().(*syscall.Stat_t))
	if d.rel != "." && (found.dev != d.stamp.dev || found.ino != d.stamp.ino) {
		return fail("", ErrChanged) // replaced, perhaps by a link
	}
	d.stamp = found
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fail("", err)
	}
	slices.Sort(names)
	d.entries = make([]hostEntry, 0, len(names))
	for _, name := range names {
		e := hostEntry{name: name}
		below := path.Join(d.rel, name)
		if e.info, err = root.Lstat(name); err != nil {
			return fail(name, changedIfGone(err))
		}
		if enter, _ := r.packs(below, e.info.IsDir()); !enter {
			continue
		}
		st := e.info.Sys().(*syscall.Stat_t)
		switch e.info.Mode().Type() {
		case 0:
			if st.Size > 64<<10 && st.Blocks*512 < st.Size {
				if e.data, err = findHoles(root, name, st); err != nil {
					return fail(name, err)
				}
			}
		case fs.ModeDir:
			e.dir = &hostDir{host: d.host, rel: below, stamp: stampOf(st)}
		case fs.ModeSymlink:
			if e.target, err = root.Readlink(name); err != nil {
				return fail(name, changedIfGone(err))
			}
		}
		d.entries = append(d.entries, e)
	}
	return nil
}

// changedIfGone says what it means when a listed name is gone.
func changedIfGone(err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%w: %w", ErrChanged, pathCause(err))
	}
	return err
}

// findHoles asks the file system where a file has data. Nil: everywhere.
func findHoles(root *os.Root, name string, st *syscall.Stat_t) ([]ext4.Segment, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, changedIfGone(err)
	}
	defer f.Close()
	return dataSegments(st.Size, f.Seek), nil
}

// dataSegments cuts a file into stretches of whole blocks with data, by asking
// where data and holes begin. Nil: everywhere, or the file system does not know.
func dataSegments(size int64, seek func(int64, int) (int64, error)) []ext4.Segment {
	const seekData, seekHole = 3, 4
	data := []ext4.Segment{}
	for at := int64(0); at < size; {
		start, err := seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) || err == nil && start >= size {
			break // nothing but a hole up to the end
		}
		if err != nil || start < at {
			return nil
		}
		end, err := seek(start, seekHole)
		if err != nil || end <= start {
			return nil
		}
		start = start / ext4.BlockSize * ext4.BlockSize
		at = min((end+ext4.BlockSize-1)/ext4.BlockSize*ext4.BlockSize, size)
		if k := len(data) - 1; k >= 0 && start <= data[k].Offset+data[k].Length {
			data[k].Length = at - data[k].Offset
		} else {
			data = append(data, ext4.Segment{Offset: start, Length: at - start})
		}
	}
	if len(data) == 1 && data[0].Offset == 0 && data[0].Length == size {
		return nil
	}
	return data
}
