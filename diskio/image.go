package diskio

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// Image is a disk image in a file, open for reading. It is what jobs name as
// inputs and what drivers insert into machines (vm.Image). The file must not be
// written to while it is in use; removing or replacing it does no harm, since
// the Image keeps the old file open.
//
// It is safe for concurrent use. Whoever made it closes it.
type Image struct {
	f    *os.File
	path string
	size int64

	busy   chan struct{} // held, with room for one, while the digest is computed
	digest atomic.Pointer[string]

	close    sync.Once
	closeErr error
	locked   bool // as in use, in a cache
}

// OpenImage opens an image file of any kind for use as an input. It looks at
// nothing but the size: Open reads what is in it.
func OpenImage(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &OpError{Op: "open", Name: path, Err: pathCause(err)}
	}
	image, err := newImage(f, path)
	if err != nil {
		f.Close()
		return nil, &OpError{Op: "open", Name: path, Err: err}
	}
	return image, nil
}

// newImage wraps an open file. The caller keeps f when it fails.
func newImage(f *os.File, path string) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, pathCause(err)
	}
	size := info.Size()
	switch {
	case info.Mode().IsRegular():
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		// A block device says its size only to those who seek.
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, pathCause(err)
		}
	default:
		return nil, errors.New("neither a regular file nor a block device")
	}
	return &Image{f: f, path: path, size: size, busy: make(chan struct{}, 1)}, nil
}

// ReadAt reads the image's bytes.
func (i *Image) ReadAt(p []byte, off int64) (int, error) { return i.f.ReadAt(p, off) }

// Size is the image's length in bytes.
func (i *Image) Size() int64 { return i.size }

// Path is the name that the image was opened or made under. Another file may
// have that name by now: drivers that reopen it compare with Stat.
func (i *Image) Path() string { return i.path }

// Stat is about the open file.
func (i *Image) Stat() (fs.FileInfo, error) { return i.f.Stat() }

// Digest is "sha256:" and 64 hexadecimal digits, of the image's bytes. The
// first call reads the whole image, unless it came from a Cache; later ones
// cost nothing. It is empty when the image cannot be read: Sum says why.
func (i *Image) Digest() string {
	digest, err := i.Sum(context.Background())
	if err != nil {
		return ""
	}
	return digest
}

// Sum is Digest with an error and a context, which ends the reading.
func (i *Image) Sum(ctx context.Context) (string, error) {
	if known := i.digest.Load(); known != nil {
		return *known, nil
	}
	select {
	case i.busy <- struct{}{}: // one reads, the others wait for what it finds
		defer func() { <-i.busy }()
	case <-ctx.Done():
		return "", &OpError{Op: "digest", Name: i.path, Err: context.Cause(ctx)}
	}
	if known := i.digest.Load(); known != nil {
		return *known, nil
	}
	hash := sha256.New()
	n, err := io.CopyBuffer(hash, withContext(ctx, io.NewSectionReader(i.f, 0, i.size)), make([]byte, 1<<20))
	if err == nil && n != i.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", &OpError{Op: "digest", Name: i.path, Err: pathCause(err)}
	}
	digest := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	i.digest.Store(&digest)
	return digest, nil
}

// Close closes the file. It is idempotent; file systems opened on the image
// fail from then on.
func (i *Image) Close() error {
	i.close.Do(func() {
		done := i.f.Close
		if i.locked {
			done = func() error { return closeLocked(i.f) }
		}
		if err := done(); err != nil {
			i.closeErr = &OpError{Op: "close", Name: i.path, Err: pathCause(err)}
		}
	})
	return i.closeErr
}

// contextReader ends a long read with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func withContext(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// pathCause takes the path off an error of package os, for those who name it
// themselves.
func pathCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
