package diskio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Extract copies what is in a file system into a folder of the host, which is
// made if it is missing. It works for any fs.FS and expects the worst of it:
//
//   - nothing is written outside of the folder, whatever names and links say,
//     and nothing that is there is overwritten or followed: a file that exists
//     is an error, folders are joined;
//   - files get mode 0644 or, if anybody may execute them, 0755 (less the
//     umask), folders 0755, and all belong to the caller; times are not kept;
//   - devices, pipes, sockets, impossible names and, unless Limits allow some,
//     symbolic links are left out and are in the Report;
//   - hard links become files of their own; holes stay holes where fsys is an
//     *FS.
//
// The error says what is missing besides what was refused. A file or folder
// that cannot be read, or that is beyond FileBytes, Depth or Name, is left out
// whole and the others are extracted; over Bytes, Files or Time, when ctx ends,
// and when the folder cannot be written, Extract stops. In each case the files
// that are there are whole, and the Report counts them.
func Extract(ctx context.Context, fsys fs.FS, dir string, l Limits) (Report, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Report{}, &OpError{Op: "extract", Name: dir, Err: pathCause(err)}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, &OpError{Op: "extract", Name: dir, Err: pathCause(err)}
	}
	defer root.Close()
	return ExtractTo(ctx, fsys, root, l)
}

// ExtractTo is Extract into a folder that is open.
func ExtractTo(ctx context.Context, fsys fs.FS, root *os.Root, l Limits) (Report, error) {
	x := &extraction{fsys: fsys, limits: l.orDefault(), buf: make([]byte, 256<<10)}
	over := &OpError{Op: "extract", Name: root.Name(), Err: fmt.Errorf("%w: it took longer than %v", ErrLimit, x.limits.Time)}
	ctx, cancel := context.WithTimeoutCause(ctx, x.limits.Time, over)
	defer cancel()
	x.ctx = ctx
	err := x.folder(root, ".", 0)
	if err == nil {
		err = x.makeLinks(root)
	}
	if err == nil && x.missing > 0 {
		err = x.firstMissing
		if x.missing > 1 {
			err = fmt.Errorf("%w (and %d more are missing)", err, x.missing-1)
		}
	}
	return x.report, err
}

// extraction is one Extract.
type extraction struct {
	ctx    context.Context // of this one call
	fsys   fs.FS
	limits Limits
	report Report
	buf    []byte
	links  []link // made last, so that nothing is written through one

	missing      int
	firstMissing error
}

type link struct{ path, target string }

// miss notes something that is left out and should not have been.
func (x *extraction) miss(name string, err error) {
	if x.missing++; x.missing == 1 {
		x.firstMissing = &OpError{Op: "extract", Name: name, Err: err}
	}
}

func (x *extraction) stop(name string, err error) error {
	return &OpError{Op: "extract", Name: name, Err: pathCause(err)}
}

// ended says why the extraction must not go on.
func (x *extraction) ended(name string) error {
	if x.ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(x.ctx)
	var oe *OpError
	if errors.As(cause, &oe) {
		return cause // the time limit's
	}
	return x.stop(name, cause)
}

// folder extracts a folder into an open one.
func (x *extraction) folder(root *os.Root, name string, depth int) error {
	entries, err := fs.ReadDir(x.fsys, name)
	if err != nil {
		x.miss(name, err) // what was read of it is extracted all the same
	}
	for _, e := range entries {
		below := path.Join(name, e.Name())
		if err := x.ended(below); err != nil {
			return err
		}
		if e.Name() == "" || e.Name() == "." || e.Name() == ".." || strings.ContainsAny(e.Name(), "/\x00") {
			x.report.refuse(name+"/"+e.Name(), "impossible name")
			continue
		}
		if len(e.Name()) > x.limits.Name {
			x.miss(below, fmt.Errorf("%w: name has %d bytes, %d are allowed", ErrLimit, len(e.Name()), x.limits.Name))
			continue
		}
		if depth >= x.limits.Depth {
			x.miss(below, fmt.Errorf("%w: it is %d folders deep, %d are allowed", ErrLimit, depth+1, x.limits.Depth))
			continue
		}
		if x.report.Files+x.report.Folders+len(x.links) >= x.limits.Files {
			return x.stop(below, fmt.Errorf("%w: more than %d files", ErrLimit, x.limits.Files))
		}
		if err := x.entry(root, e, below, depth); err != nil {
			return err
		}
	}
	return nil
}

func (x *extraction) entry(root *os.Root, e fs.DirEntry, name string, depth int) error {
	switch e.Type() {
	case fs.ModeDir:
		return x.enter(root, e.Name(), name, depth)
	case fs.ModeSymlink:
		if !x.limits.Symlinks {
			x.report.refuse(name, "symbolic link")
			return nil
		}
		target, err := fs.ReadLink(x.fsys, name)
		if err != nil {
			x.miss(name, err)
			return nil
		}
		if why := escapes(target, depth); why != "" {
			x.report.refuse(name, "symbolic link to %s, %s", printable(target), why)
			return nil
		}
		x.links = append(x.links, link{name, target})
		return nil
	case 0:
		return x.file(root, e.Name(), name)
	}
	x.report.refuse(name, "%s", kindName(e.Type()))
	return nil
}

// enter makes a folder, or joins one that is there, and extracts into it.
func (x *extraction) enter(root *os.Root, base, name string, depth int) error {
	if err := root.Mkdir(base, 0o755); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return x.stop(name, err)
		}
		if info, statErr := root.Lstat(base); statErr != nil || !info.IsDir() {
			return x.stop(name, fs.ErrExist)
		}
	}
	below, err := root.OpenRoot(base)
	if err != nil {
		return x.stop(name, err)
	}
	defer below.Close()
	x.report.Folders++
	return x.folder(below, name, depth+1)
}

// file extracts one file, whole or not at all.
func (x *extraction) file(root *os.Root, base, name string) error {
	in, err := x.fsys.Open(name)
	if err != nil {
		x.miss(name, err)
		return nil
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		x.miss(name, err)
		return nil
	}
	if !info.Mode().IsRegular() || info.Size() < 0 {
		x.miss(name, fmt.Errorf("%w: its folder says that it is a file", ErrCorrupt))
		return nil
	}
	if info.Size() > x.limits.FileBytes {
		x.miss(name, fmt.Errorf("%w: it has %d bytes, %d are allowed", ErrLimit, info.Size(), x.limits.FileBytes))
		return nil
	}
	if info.Size() > x.limits.Bytes-x.report.Bytes {
		return x.stop(name, fmt.Errorf("%w: files have more than %d bytes", ErrLimit, x.limits.Bytes))
	}
	perm := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		perm = 0o755
	}
	out, err := root.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return x.stop(name, err)
	}
	readErr, writeErr := x.copy(out, in, info.Size())
	if err := out.Close(); writeErr == nil {
		writeErr = err
	}
	if readErr == nil && writeErr == nil {
		x.report.Files++
		x.report.Bytes += info.Size()
		return nil
	}
	if err := root.Remove(base); err != nil {
		writeErr = errors.Join(writeErr, err)
	}
	if writeErr != nil {
		return x.stop(name, writeErr)
	}
	if err := x.ended(name); err != nil {
		return err
	}
	x.miss(name, readErr)
	return nil
}

// holed is what files of an *FS have: where data comes next, and where it ends.
type holed interface {
	io.ReaderAt
	nextData(off int64) (start, end int64, err error)
}

// copy copies exactly size bytes and tells errors of reading from those of
// writing.
func (x *extraction) copy(out *os.File, in fs.File, size int64) (readErr, writeErr error) {
	if h, ok := in.(holed); ok {
		return x.copyData(out, h, size)
	}
	for n := int64(0); ; {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx), nil
		}
		k, err := in.Read(x.buf)
		if n += int64(k); n > size {
			return fmt.Errorf("%w: it has more than the %d bytes that it says", ErrCorrupt, size), nil
		}
		if k > 0 {
			if _, err := out.Write(x.buf[:k]); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && n == size:
			return nil, nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: it has %d of the %d bytes that it says", ErrCorrupt, n, size), nil
		case err != nil:
			return err, nil
		}
	}
}

func (x *extraction) copyData(out *os.File, in holed, size int64) (readErr, writeErr error) {
	written := int64(0)
	for at := int64(0); at < size; {
		start, end, err := in.nextData(at)
		if err != nil {
			return err, nil
		}
		for at = start; at < end; {
			if x.ctx.Err() != nil {
				return context.Cause(x.ctx), nil
			}
			b := x.buf[:min(int64(len(x.buf)), end-at)]
			if _, err := in.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
				return err, nil
			}
			if _, err := out.WriteAt(b, at); err != nil {
				return nil, err
			}
			at += int64(len(b))
			written = at
		}
	}
	if written < size {
		return nil, out.Truncate(size) // it ends in a hole
	}
	return nil, nil
}

// escapes says why a link's target could lead out of the folder, or is
// otherwise not wanted, for a link that is depth folders deep. A ".." behind a
// name is refused, since the name may be a link and lead elsewhere.
func escapes(target string, depth int) string {
	if target == "" || strings.HasPrefix(target, "/") || strings.IndexByte(target, 0) >= 0 {
		return "which is not a relative path"
	}
	front := true
	for element := range strings.SplitSeq(target, "/") {
		switch {
		case element == "" || element == ".":
		case element == ".." && !front:
			return "which has .. behind a name"
		case element == "..":
			if depth--; depth < 0 {
				return "which is outside"
			}
		default:
			front = false
		}
	}
	return ""
}

// makeLinks makes the symbolic links.
func (x *extraction) makeLinks(root *os.Root) error {
	for _, l := range x.links {
		if err := x.ended(l.path); err != nil {
			return err
		}
		if err := root.Symlink(l.target, l.path); err != nil {
			return x.stop(l.path, err)
		}
		x.report.Links++
	}
	return nil
}
