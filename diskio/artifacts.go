package diskio

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
)

// source is where artifacts are read from.
type source struct{ r io.ReaderAt }

// limitError is an ErrLimit that says which.
type limitError struct {
	what string
	most int64
}

func (e *limitError) Error() string {
	return fmt.Sprintf("%v: more than %d %s", ErrLimit, e.most, e.what)
}
func (e *limitError) Unwrap() error { return ErrLimit }

// digester computes a digest as text.
type digester struct{ hash.Hash }

func newDigester() digester     { return digester{sha256.New()} }
func (d digester) text() string { return digestText(d.Sum(nil)) }

// Part finds the result of a part by its id.
func (r *Results) Part(id string) (*PartResult, bool) {
	for i := range r.Parts {
		if r.Parts[i].ID == id {
			return &r.Parts[i], true
		}
	}
	return nil, false
}

// Artifact finds an artifact; the error is an fs.ErrNotExist when there is none.
func (r *Results) Artifact(part, path string) (Artifact, error) {
	if p, ok := r.Part(part); ok {
		for _, a := range p.Artifacts {
			if a.Path == path {
				return a, nil
			}
		}
	}
	return Artifact{}, &OpError{Op: "open artifact", Name: path, Err: fmt.Errorf("part %q: %w", part, fs.ErrNotExist)}
}

// Open reads an artifact from the disk that the results were read from, which
// must still be open and unchanged: in place of io.EOF comes ErrCorrupt when
// the bytes are others than those that were verified. Nothing is held in
// memory. Closing is not needed but harmless.
func (r *Results) Open(part, path string) (io.ReadCloser, error) {
	a, err := r.Artifact(part, path)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r.open(a)), nil
}

func (r *Results) open(a Artifact) io.Reader {
	return &jobFileReader{r: &extentReader{r: r.src.r, left: a.chunks}, sum: sha256.New(), left: a.Size, want: a.Digest, name: a.Path}
}

// extentReader reads places of a disk one after the other.
type extentReader struct {
	r    io.ReaderAt
	left []extent
	done int64 // of left[0]
}

func (e *extentReader) Read(b []byte) (int, error) {
	if len(e.left) == 0 {
		return 0, io.EOF
	}
	x := e.left[0]
	n, err := e.r.ReadAt(b[:min(int64(len(b)), x.size-e.done)], x.off+e.done)
	if n > 0 {
		err = nil
	}
	if e.done += int64(n); e.done == x.size {
		e.left, e.done = e.left[1:], 0
	}
	return n, err
}

// ExtractArtifacts writes the artifacts of a part below dir, which is made when
// it is missing and must hold none of them. It goes through os.Root, so that
// nothing is written outside, makes plain files and folders only, and verifies
// each digest; the file that fails is removed. How many and how much there can
// be was bounded by ReadOptions and by the disk's size.
func (r *Results) ExtractArtifacts(ctx context.Context, part, dir string) error {
	p, ok := r.Part(part)
	if !ok {
		return &OpError{Op: "extract artifacts", Err: fmt.Errorf("part %q: %w", part, fs.ErrNotExist)}
	}
	if len(p.Artifacts) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return &OpError{Op: "extract artifacts", Name: dir, Err: pathCause(err)}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &OpError{Op: "extract artifacts", Name: dir, Err: pathCause(err)}
	}
	defer root.Close() // nothing was written through it
	for _, a := range p.Artifacts {
		if err := r.extract(ctx, root, a); err != nil {
			return &OpError{Op: "extract artifacts", Name: a.Path, Err: err}
		}
	}
	return nil
}

func (r *Results) extract(ctx context.Context, root *os.Root, a Artifact) error {
	if d := path.Dir(a.Path); d != "." {
		if err := root.MkdirAll(d, 0o777); err != nil {
			return pathCause(err)
		}
	}
	f, err := root.OpenFile(a.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, a.Mode|0o600)
	if err != nil {
		return pathCause(err)
	}
	_, err = io.Copy(f, withContext(ctx, r.open(a)))
	err = errors.Join(err, f.Close())
	if err != nil {
		err = errors.Join(err, root.Remove(a.Path))
	}
	return err
}
