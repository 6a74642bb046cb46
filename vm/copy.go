package vm

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// CopyOptions are those of one copy.
type CopyOptions struct {
	// MaxBytes bounds what is copied, counted as the bytes of the tar stream;
	// zero: no bound. More is ErrTooLarge.
	MaxBytes int64
}

// Copied says what was copied, in the guest's count.
type Copied struct {
	Files int
	Bytes int64 // of the files' content
}

// CopyTo lays the files of src out below guestPath, a folder in the guest that
// is made when it is missing. Modes and times are kept, links and special files
// are refused. For one file use fstest.MapFS or a sub-tree. It counts as a use
// of the machine, like Exec.
func CopyTo(ctx context.Context, m Machine, guestPath string, src fs.FS, o *CopyOptions) (Copied, error) {
	fail := func(err error) error { return copyError(m, "copy to "+guestPath, err) }
	max := maxBytes(o)
	s, err := openStream(ctx, m, OpCopy)
	if err != nil {
		return Copied{}, err
	}
	defer s.Close()
	if err := s.Send(ctx, uint8(wire.KindPut), wire.Encode(wire.Copy{Path: guestPath, MaxBytes: max})); err != nil {
		return Copied{}, err
	}
	// The guest may refuse half way: its last word ends the sending.
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		copied Copied
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		c, err := copied(ctx, s, nil, 0)
		cancel()
		answered <- answer{c, err}
	}()
	w := &dataWriter{ctx: sctx, s: s, max: max}
	err = writeTar(sctx, w, src)
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = s.Send(sctx, uint8(wire.KindData), nil)
	}
	if err != nil && sctx.Err() == nil {
		// Ours: the guest must not wait for the rest. Close makes the answer
		// end.
		_ = s.Close()
		<-answered
		return Copied{}, fail(err)
	}
	a := <-answered
	if a.err != nil {
		return a.copied, fail(a.err)
	}
	if err != nil {
		return a.copied, fail(fmt.Errorf("the guest answered before all was sent: %w", err))
	}
	return a.copied, nil
}

// CopyFrom writes the file or folder at guestPath to w as a tar stream: the
// entries of a folder relative to it, a file as one entry with its base name.
// The stream comes from the guest and is not to be trusted: extract it with
// limits. On an error what was written is a part.
func CopyFrom(ctx context.Context, m Machine, guestPath string, w io.Writer, o *CopyOptions) (Copied, error) {
	max := maxBytes(o)
	s, err := openStream(ctx, m, OpCopy)
	if err != nil {
		return Copied{}, err
	}
	defer s.Close()
	if err := s.Send(ctx, uint8(wire.KindGet), wire.Encode(wire.Copy{Path: guestPath, MaxBytes: max})); err != nil {
		return Copied{}, err
	}
	c, err := copied(ctx, s, w, max)
	if err != nil {
		return c, copyError(m, "copy from "+guestPath, err)
	}
	return c, nil
}

func maxBytes(o *CopyOptions) int64 {
	if o == nil {
		return 0
	}
	return o.MaxBytes
}

func copyError(m Machine, what string, err error) error {
	return &OpError{Op: what, ID: m.ID(), Err: err}
}

// copied takes data until the guest's last word on a copy.
func copied(ctx context.Context, s *Stream, w io.Writer, max int64) (Copied, error) {
	var got int64
	complete := w == nil
	for {
		kind, body, err := s.Recv(ctx)
		if err != nil {
			return Copied{}, err
		}
		switch k := wire.Kind(kind); k {
		case wire.KindData:
			if w == nil {
				continue
			}
			if len(body) == 0 {
				complete = true
				continue
			}
			if got += int64(len(body)); max > 0 && got > max {
				return Copied{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
			}
			if _, err := w.Write(body); err != nil {
				return Copied{}, err
			}
		case wire.KindCopied:
			var c wire.Copied
			if err := wire.Decode(k, body, &c); err != nil {
				return Copied{}, err
			}
			done := Copied{Files: c.Files, Bytes: c.Bytes}
			if c.Error != "" {
				return done, fmt.Errorf("%w: %s", ErrFault, clip(c.Error))
			}
			if !complete {
				return done, fmt.Errorf("the guest ended the copy without the end of its data: %w", io.ErrUnexpectedEOF)
			}
			return done, nil
		case wire.KindFault:
			return Copied{}, fmt.Errorf("%w: %s", ErrFault, faultText(body))
		}
	}
}

// dataWriter sends what is written to it in full frames.
type dataWriter struct {
	ctx  context.Context
	s    *Stream
	buf  []byte
	sent int64
	max  int64
}

func (w *dataWriter) Write(p []byte) (int, error) {
	n := len(p)
	if w.sent += int64(n); w.max > 0 && w.sent > w.max {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, w.max)
	}
	for len(p) > 0 {
		take := min(len(p), wire.MaxBody-len(w.buf))
		w.buf = append(w.buf, p[:take]...)
		p = p[take:]
		if len(w.buf) == wire.MaxBody {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *dataWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	body := w.buf
	w.buf = nil
	return w.s.Send(w.ctx, uint8(wire.KindData), body)
}

// writeTar writes the folders and files of a tree.
func writeTar(ctx context.Context, w io.Writer, src fs.FS) error {
	t := tar.NewWriter(w)
	err := fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return causeOf(ctx)
		}
		if name == "." {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			return &fs.PathError{Op: "copy", Path: name, Err: fmt.Errorf("it is a %v, want a file or a folder", info.Mode().Type())}
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = name
		h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
		if info.IsDir() {
			h.Name += "/"
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if info.IsDir() {
			return nil
		}
		f, err := src.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(t, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.Close()
}
