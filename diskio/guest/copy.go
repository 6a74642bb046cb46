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
	"strings"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// errTooMuch: a copy goes beyond its bound.
var errTooMuch = errors.New("more bytes than allowed")

// place splits a path of the host's into the folder that confines the copy and
// the rest, relative to it.
func (a *Agent) place(p string) (*os.Root, string, error) {
	if p == "" || strings.ContainsRune(p, 0) {
		return nil, "", fmt.Errorf("copy: Path is %q, want a path in the guest", p)
	}
	rel := strings.TrimPrefix(path.Clean("/"+p), "/")
	if rel == "" {
		rel = "."
	}
	root, err := os.OpenRoot(a.c.Root)
	return root, rel, err
}

// runPut takes a tar stream and lays it out below Path.
func (a *Agent) runPut(st *stream, body []byte) {
	var c wire.Copy
	if err := wire.Decode(wire.KindPut, body, &c); err != nil {
		st.fault(err)
		return
	}
	base, rel, err := a.place(c.Path)
	if err != nil {
		st.fault(err)
		return
	}
	defer base.Close() // nothing is written through the root itself
	var done wire.Copied
	err = a.put(st, base, rel, c.MaxBytes, &done)
	if err == nil {
		// What stands behind the archive's end is padding.
		_, err = io.Copy(io.Discard, &bounded{r: st, left: 1 << 20})
	}
	if err != nil {
		done.Error = err.Error()
	}
	st.say(wire.KindCopied, wire.Encode(done))
}

func (a *Agent) put(st *stream, base *os.Root, rel string, most int64, done *wire.Copied) error {
	if err := base.MkdirAll(rel, 0o755); err != nil {
		return err
	}
	root, err := base.OpenRoot(rel)
	if err != nil {
		return err
	}
	defer root.Close() // nothing is written through the root itself
	in := tar.NewReader(st)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if err := putEntry(root, h, in, most, done); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// putEntry makes one file, folder or link.
func putEntry(root *os.Root, h *tar.Header, in io.Reader, most int64, done *wire.Copied) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if name == "" || name == "." {
		return nil
	}
	if !filepath.IsLocal(name) {
		return errors.New("leaves the folder of the copy")
	}
	if d := path.Dir(name); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, mode|0o700)
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
			err = f.Chmod(mode)
		}
		if err = errors.Join(err, f.Close()); err == nil {
			done.Files++
		}
		return err
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
	var c wire.Copy
	if err := wire.Decode(wire.KindGet, body, &c); err != nil {
		st.fault(err)
		return
	}
	base, rel, err := a.place(c.Path)
	if err != nil {
		st.fault(err)
		return
	}
	defer base.Close() // read only
	var done wire.Copied
	if err := a.get(st, base, rel, c.MaxBytes, &done); err != nil {
		done.Error = err.Error()
	}
	st.say(wire.KindData, nil)
	st.say(wire.KindCopied, wire.Encode(done))
}

func (a *Agent) get(st *stream, base *os.Root, rel string, most int64, done *wire.Copied) error {
	info, err := base.Stat(rel)
	if err != nil {
		return err
	}
	dir, name := rel, "."
	if !info.IsDir() {
		dir, name = path.Dir(rel), path.Base(rel)
	}
	root, err := base.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() // read only
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
