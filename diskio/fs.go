package diskio

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// OpenOptions are for Open. Nil means the zero value.
type OpenOptions struct {
	// DirEntries is the most entries that one folder may have; zero: 1,048,576.
	DirEntries int
	// JournalBlocks is the most blocks that are taken from a journal that was
	// left dirty; zero: 1,048,576.
	JournalBlocks int
}

// FS is the file system in an image. It implements fs.FS, fs.StatFS,
// fs.ReadDirFS, fs.ReadFileFS and fs.ReadLinkFS; its files are io.ReaderAt and
// io.Seeker too, folders fs.ReadDirFile. It is safe for concurrent use, its
// open files are not.
//
// Paths follow symbolic links within the image, whose top is the root of
// absolute ones. Names may be any bytes: fs.ValidPath's wish for UTF-8 is not
// enforced.
type FS struct {
	v    *ext4.Volume
	dirs dirCache
}

// Open reads the ext4 file system in an image of size bytes. Nothing but r is
// used, and r must stay open and unchanged as long as the FS is in use. The
// image may be hostile: what is damaged is ErrCorrupt, what is not understood
// is ErrUnsupported, each with its place; nothing is guessed.
func Open(r io.ReaderAt, size int64, o *OpenOptions) (*FS, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	v, err := ext4.OpenVolume(r, size, ext4.Limits{DirEntries: o.DirEntries, JournalBlocks: o.JournalBlocks})
	if err != nil {
		return nil, readError("open", "", err)
	}
	f := &FS{v: v}
	if _, err := f.dir(ext4.Root, ext4.Root); err != nil {
		return nil, readError("open", "", err)
	}
	return f, nil
}

// Label is the file system's: up to 16 bytes that its maker chose.
func (f *FS) Label() string { return f.v.Label() }

// readError turns an error of the format into one with the place.
func readError(op, name string, err error) error {
	var fault *ext4.Fault
	if errors.As(err, &fault) {
		return &OpError{Op: op, Name: name, Place: fault.Place, Err: fault.Err}
	}
	return &OpError{Op: op, Name: name, Err: err}
}

func pathError(op, name string, err error) error {
	var fault *ext4.Fault
	if errors.As(err, &fault) {
		err = &OpError{Op: "read", Place: fault.Place, Err: fault.Err}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// found is what a path leads to.
type found struct {
	name   string
	parent uint32 // the folder's that it is in
	inode  *ext4.Inode
}

// maxLinks is how many symbolic links one path may go through, as in Linux.
const maxLinks = 40

// walk follows a path; the last element's link too, if follow.
func (f *FS) walk(op, name string, follow bool) (found, error) {
	fail := func(err error) (found, error) { return found{}, pathError(op, name, err) }
	if !validPath(name) {
		return fail(fs.ErrInvalid)
	}
	type step struct{ ino, parent uint32 }
	stack := []step{{ext4.Root, ext4.Root}}
	rest := strings.Split(name, "/")
	links := 0
	for len(rest) > 0 {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case ".", "":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		at := stack[len(stack)-1]
		d, err := f.dir(at.ino, at.parent)
		if err != nil {
			return fail(err)
		}
		e, ok := d.find(element)
		if !ok {
			return fail(fs.ErrNotExist)
		}
		if e.Kind == ext4.ModeDir {
			stack = append(stack, step{e.Number, at.ino})
			continue
		}
		last := !slices.ContainsFunc(rest, func(s string) bool { return s != "" && s != "." })
		if e.Kind == ext4.ModeSymlink && (follow || !last) {
			in, err := f.inode(e)
			if err != nil {
				return fail(err)
			}
			target, err := f.v.Target(in)
			if err != nil {
				return fail(err)
			}
			if links++; links > maxLinks {
				return fail(errLoop)
			}
			if strings.HasPrefix(target, "/") {
				stack = stack[:1]
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		if len(rest) > 0 {
			return fail(errNotDir)
		}
		in, err := f.inode(e)
		if err != nil {
			return fail(err)
		}
		return found{path.Base(name), at.ino, in}, nil
	}
	at := stack[len(stack)-1]
	in, err := f.inode(ext4.DirEntry{Number: at.ino, Kind: ext4.ModeDir})
	if err != nil {
		return fail(err)
	}
	return found{path.Base(name), at.parent, in}, nil
}

var (
	errLoop   = errors.New("too many symbolic links")
	errNotDir = errors.New("not a folder")
)

// validPath is fs.ValidPath without the wish for UTF-8.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || element == "." || element == ".." {
			return false
		}
	}
	return true
}

// inode reads what an entry names. An entry and its inode must agree.
func (f *FS) inode(e ext4.DirEntry) (*ext4.Inode, error) {
	in, err := f.v.Inode(e.Number)
	if err == nil && in.Kind() != e.Kind {
		err = &ext4.Fault{Place: "inode " + itoa(e.Number), Err: errKind}
	}
	return in, err
}

// Open opens a file or folder for reading. What is neither cannot be opened.
func (f *FS) Open(name string) (fs.File, error) {
	at, err := f.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	info := fileInfo{at.name, at.inode}
	switch at.inode.Kind() {
	case ext4.ModeDir:
		return &dirFile{fs: f, path: name, info: info, parent: at.parent}, nil
	case ext4.ModeRegular:
		return &file{path: name, info: info, data: f.v.NewData(at.inode)}, nil
	}
	return nil, pathError("open", name, &OpError{Op: "read", Err: unreadable(info.Mode())})
}

// Stat follows links.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	at, err := f.walk("stat", name, true)
	if err != nil {
		return nil, err
	}
	return fileInfo{at.name, at.inode}, nil
}

// Lstat does not follow a link in the last element.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	at, err := f.walk("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return fileInfo{at.name, at.inode}, nil
}

// ReadLink gives a symbolic link's target as it was written: anything.
func (f *FS) ReadLink(name string) (string, error) {
	at, err := f.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if at.inode.Kind() != ext4.ModeSymlink {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	target, err := f.v.Target(at.inode)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

// ReadDir lists a folder by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	at, err := f.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if at.inode.Kind() != ext4.ModeDir {
		return nil, pathError("readdir", name, errNotDir)
	}
	entries, err := f.list(at.inode.Number, at.parent)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	return entries, nil
}

// maxReadFile is what ReadFile reads at the most: a sparse file of a few blocks
// may say that it has exabytes.
const maxReadFile = 1 << 30

// ReadFile reads a whole file of at most 1 GiB; a larger one is ErrLimit.
func (f *FS) ReadFile(name string) ([]byte, error) {
	opened, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	file, ok := opened.(*file)
	if !ok {
		return nil, pathError("read", name, errors.New("is a folder"))
	}
	if file.info.Size() > maxReadFile {
		return nil, pathError("read", name, ErrLimit)
	}
	b := make([]byte, file.info.Size())
	if _, err := io.ReadFull(file, b); err != nil && len(b) > 0 {
		return nil, err
	}
	return b, nil
}
