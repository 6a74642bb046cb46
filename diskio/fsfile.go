package diskio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

var errKind = fmt.Errorf("%w: is not of the kind that its folder says", ErrCorrupt)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// unreadable is for what has no content.
func unreadable(mode fs.FileMode) error {
	return fmt.Errorf("%w: %s cannot be opened", ErrUnsupported, kindName(mode))
}

// FileStat is what FileInfo.Sys of the files of an FS gives, as a *FileStat.
type FileStat struct {
	Inode    uint64 // the same number: the same file
	Links    uint64
	UID, GID uint32
	Rdev     uint32 // of a device, in the kernel's encoding
}

// fileInfo is an inode under a name.
type fileInfo struct {
	name  string
	inode *ext4.Inode
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.inode.Size }
func (i fileInfo) ModTime() time.Time { return time.Unix(i.inode.Sec, int64(i.inode.Nsec)) }
func (i fileInfo) IsDir() bool        { return i.inode.Kind() == ext4.ModeDir }
func (i fileInfo) String() string     { return fs.FormatFileInfo(i) }
func (i fileInfo) Sys() any {
	return &FileStat{uint64(i.inode.Number), uint64(i.inode.Links), i.inode.UID, i.inode.GID, i.inode.Rdev}
}

func (i fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.inode.Mode&0o777) | kindMode(i.inode.Kind())
	if i.inode.Mode&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if i.inode.Mode&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if i.inode.Mode&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

func kindMode(kind uint16) fs.FileMode {
	switch kind {
	case ext4.ModeDir:
		return fs.ModeDir
	case ext4.ModeSymlink:
		return fs.ModeSymlink
	case ext4.ModeChar:
		return fs.ModeDevice | fs.ModeCharDevice
	case ext4.ModeBlock:
		return fs.ModeDevice
	case ext4.ModeFIFO:
		return fs.ModeNamedPipe
	case ext4.ModeSocket:
		return fs.ModeSocket
	}
	return 0
}

// dirEntry is a name in a folder; its inode is read when it is asked for.
type dirEntry struct {
	fs    *FS
	entry ext4.DirEntry
}

func (e dirEntry) Name() string      { return e.entry.Name }
func (e dirEntry) IsDir() bool       { return e.entry.Kind == ext4.ModeDir }
func (e dirEntry) Type() fs.FileMode { return kindMode(e.entry.Kind) }
func (e dirEntry) String() string    { return fs.FormatDirEntry(e) }

func (e dirEntry) Info() (fs.FileInfo, error) {
	in, err := e.fs.inode(e.entry)
	if err != nil {
		return nil, pathError("lstat", e.entry.Name, err)
	}
	return fileInfo{e.entry.Name, in}, nil
}

// file is an open regular file.
type file struct {
	path   string
	info   fileInfo
	data   *ext4.Data
	at     int64
	closed bool
}

func (f *file) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, pathError("stat", f.path, fs.ErrClosed)
	}
	return f.info, nil
}

func (f *file) Close() error {
	if f.closed {
		return pathError("close", f.path, fs.ErrClosed)
	}
	f.closed = true
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.at)
	f.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, pathError("read", f.path, fs.ErrClosed)
	}
	if off < 0 {
		return 0, pathError("read", f.path, fs.ErrInvalid)
	}
	n, err := f.data.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = pathError("read", f.path, err)
	}
	return n, err
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	base := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.at
	case io.SeekEnd:
		base = f.info.Size()
	default:
		return 0, pathError("seek", f.path, fs.ErrInvalid)
	}
	if f.closed || base+offset < 0 {
		return 0, pathError("seek", f.path, fs.ErrInvalid)
	}
	f.at = base + offset
	return f.at, nil
}

// nextData tells Extract where holes are.
func (f *file) nextData(off int64) (start, end int64, err error) {
	start, end, err = f.data.NextData(off)
	if err != nil {
		err = pathError("read", f.path, err)
	}
	return start, end, err
}

// dirFile is an open folder.
type dirFile struct {
	fs      *FS
	path    string
	info    fileInfo
	parent  uint32
	entries []fs.DirEntry // what is left to be read, once it is known
	listed  bool
	closed  bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) {
	if d.closed {
		return nil, pathError("stat", d.path, fs.ErrClosed)
	}
	return d.info, nil
}

func (d *dirFile) Read([]byte) (int, error) {
	return 0, pathError("read", d.path, errors.New("is a folder"))
}

func (d *dirFile) Close() error {
	if d.closed {
		return pathError("close", d.path, fs.ErrClosed)
	}
	d.closed = true
	return nil
}

func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, pathError("readdir", d.path, fs.ErrClosed)
	}
	if !d.listed {
		entries, err := d.fs.list(d.info.inode.Number, d.parent)
		if err != nil {
			return nil, pathError("readdir", d.path, err)
		}
		d.entries, d.listed = entries, true
	}
	if n <= 0 {
		all := d.entries
		d.entries = nil
		return all, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	part := d.entries[:n:n]
	d.entries = d.entries[n:]
	return part, nil
}
