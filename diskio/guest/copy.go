package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// errTooMuch: a copy goes beyond its bound.
var errTooMuch = errors.New("more bytes than allowed")

// inside makes a path of the host's one relative to Config.Root.
func (a *Agent) inside(p string) (string, error) {
	if p == "" || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("copy: Path is %q, want a path in the guest", p)
	}
	rel := strings.TrimPrefix(path.Clean("/"+p), "/")
	if rel == "" {
		rel = "."
	}
	return rel, nil
}

// folder opens a folder for a copy that is confined to it, and makes it first
// where that is asked.
func (a *Agent) folder(rel string, create bool) (*os.Root, error) {
	if a.c.Root == "/" {
		// Nothing to confine; and os.Root refuses the absolute links that
		// systems have, such as /var/run.
		if create {
			if err := os.MkdirAll("/"+rel, 0o755); err != nil {
				return nil, err
			}
		}
		return os.OpenRoot("/" + rel)
	}
	base, err := os.OpenRoot(a.c.Root)
	if err != nil {
		return nil, err
	}
	defer base.Close() // nothing is written through the root itself
	if create {
		if err := base.MkdirAll(rel, 0o755); err != nil {
			return nil, err
		}
	}
	return base.OpenRoot(rel)
}

// runPut takes a tar stream and lays it out below Path.
func (a *Agent) runPut(st *stream, body []byte) {
	st.copies()
	var c wire.Copy
	err := wire.Decode(wire.KindPut, body, &c)
	rel := ""
	if err == nil {
		rel, err = a.inside(c.Path)
	}
	if err != nil {
		st.fault(err)
		return
	}
	var done wire.Copied
	if err := a.put(st, rel, c.MaxBytes, &done); err != nil {
		done.Error = err.Error()
	}
	st.last(wire.KindCopied, done)
}

func (a *Agent) put(st *stream, rel string, most int64, done *wire.Copied) error {
	root, err := a.folder(rel, true)
	if err != nil {
		return err
	}
	defer root.Close() // nothing is written through the root itself
	in := tar.NewReader(st)
	var folders []*tar.Header
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if h.Name = strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/"); h.Name == "" || h.Name == "." {
			continue
		}
		if err := putEntry(root, h, in, most, done); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, h)
		}
	}
	// Last, for writing into a folder needs its permission and changes its time.
	for _, h := range slices.Backward(folders) {
		if err := errors.Join(root.Chtimes(h.Name, h.ModTime, h.ModTime), root.Chmod(h.Name, fs.FileMode(h.Mode).Perm())); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	// What stands behind the archive's end is padding.
	_, err = io.Copy(io.Discard, &bounded{r: st, left: 1 << 20})
	return err
}

// putEntry makes one file, folder or link.
func putEntry(root *os.Root, h *tar.Header, in io.Reader, most int64, done *wire.Copied) error {
	name := h.Name
	if !filepath.IsLocal(name) {
		return errors.New("leaves the folder of the copy")
	}
	if d := path.Dir(name); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		if most > 0 && done.Bytes+h.Size > most {
			return fmt.Errorf("%w: at most %d", errTooMuch, most)
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		n, err := io.Copy(f, in)
		done.Bytes += n
		if err == nil {
			err = f.Chmod(fs.FileMode(h.Mode).Perm())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		done.Files++
		return root.Chtimes(name, h.ModTime, h.ModTime)
	case tar.TypeSymlink:
		// Where it points is the guest's own business: no copy follows it out.
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		done.Files++
		return root.Symlink(h.Linkname, name)
	default:
		return fmt.Errorf("is of tar type %q, only files, folders and symbolic links are taken", h.Typeflag)
	}
}

// runGet sends the file or the tree at Path as a tar stream.
func (a *Agent) runGet(st *stream, body []byte) {
	st.copies()
	var c wire.Copy
	err := wire.Decode(wire.KindGet, body, &c)
	rel := ""
	if err == nil {
		rel, err = a.inside(c.Path)
	}
	if err != nil {
		st.fault(err)
		return
	}
	var done wire.Copied
	if err := a.get(st, rel, c.MaxBytes, &done); err != nil {
		done.Error = err.Error()
	}
	st.say(wire.KindData, nil)
	st.last(wire.KindCopied, done)
}

func (a *Agent) get(st *stream, rel string, most int64, done *wire.Copied) error {
	root, err := a.folder(path.Dir(rel), false)
	if err != nil {
		return err
	}
	defer func() { root.Close() }() // read only
	name := path.Base(rel)
	info, err := root.Stat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		below, err := root.OpenRoot(name)
		if err != nil {
			return err
		}
		root.Close()
		root, name = below, "."
	}
	out := tar.NewWriter(writer{st, wire.KindData})
	err = fs.WalkDir(root.FS(), name, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == "." {
			return err
		}
		return getEntry(root, out, at, at == name, most, done)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

// getEntry sends one file, folder or link; other things are left out. A link
// that was asked for by name is followed, within the root.
func getEntry(root *os.Root, out *tar.Writer, at string, asked bool, most int64, done *wire.Copied) error {
	info, err := root.Lstat(at)
	if err == nil && asked {
		info, err = root.Stat(at)
	}
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = root.Readlink(at); err != nil {
			return err
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = at
	if info.IsDir() {
		h.Name += "/"
	}
	h.Uname, h.Gname = "", ""
	if most > 0 && done.Bytes+h.Size > most {
		return fmt.Errorf("%q: %w: at most %d", at, errTooMuch, most)
	}
	if err := out.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		if err == nil && link != "" {
			done.Files++
		}
		return err
	}
	f, err := root.Open(at)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	n, err := io.Copy(out, io.LimitReader(f, h.Size))
	done.Bytes += n
	if err == nil && n != h.Size {
		err = fmt.Errorf("changed while it was read: it had %d bytes, %d could be read", h.Size, n)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	done.Files++
	return nil
}

// bounded is a reader that fails beyond its bound.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooMuch
	}
	return n, err
}
