package diskio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"syscall"
)

// readFS opens a file of an fs.FS, and makes sure that read saw all of it. Only
// one goroutine at a time is in one fs.FS.
func (c *copier) readFS(p *packFile, read func(io.Reader) error) (err error) {
	mu, _ := c.exclusive.LoadOrStore(p.root, &sync.Mutex{})
	mu.(*sync.Mutex).Lock()
	defer mu.(*sync.Mutex).Unlock()
	f, err := p.fsys.Open(p.name)
	if err != nil {
		return changedIfGone(err)
	}
	defer f.Close()
	if err := read(f); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it had %d bytes and has less", ErrChanged, p.node.Size)
		}
		return err
	}
	var one [1]byte
	if n, err := io.ReadFull(f, one[:]); n > 0 {
		return fmt.Errorf("%w: it had %d bytes and has more", ErrChanged, p.node.Size)
	} else if err != io.EOF {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != p.node.Size || !info.ModTime().Equal(p.mtime) {
		return ErrChanged
	}
	return nil
}

// open opens a file of the host, in its folder and without following links.
// Package os would add calls for each file that poll for readiness.
func (c *copier) open(p *packFile) (int, error) {
	if c.dir != p.dir {
		if c.dirFile != nil {
			c.dirFile.Close()
			c.dir, c.dirFile = nil, nil
		}
		f, err := p.dir.host.root.Open(p.dir.rel)
		if err != nil {
			return -1, changedIfGone(err)
		}
		c.dir, c.dirFile, c.dirFD = p.dir, f, int(f.Fd())
		if err := p.dir.same(f); err != nil {
			return -1, err
		}
	}
	flags := syscall.O_RDONLY | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	if !p.dir.follow {
		flags |= syscall.O_NOFOLLOW
	}
	fd, err := ignoringEINTR(func() (int, error) { return syscall.Openat(c.dirFD, p.name, flags, 0) })
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ELOOP) {
		return -1, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return fd, err
}

// same tells whether an open file is still what the scan saw, to the last
// change of its inode.
func (p *packFile) same(fd int) error {
	var st syscall.Stat_t
	if _, err := ignoringEINTR(func() (int, error) { return 0, syscall.Fstat(fd, &st) }); err != nil {
		return err
	}
	if stampOf(&st) != p.stamp {
		return ErrChanged
	}
	return nil
}

// same tells whether a folder still has the entries that the scan saw.
func (d *hostDir) same(f *os.File) error {
	if d.follow {
		return nil // only one file of it is packed
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	now := stampOf(info.Sys().(*syscall.Stat_t))
	if now.dev != d.stamp.dev || now.ino != d.stamp.ino || now.mtime != d.stamp.mtime {
		return fmt.Errorf("its folder %s %w", path.Base(d.path("")), ErrChanged)
	}
	return nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
