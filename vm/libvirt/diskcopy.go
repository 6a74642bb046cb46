package libvirt

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// copyDisks makes files of one folder those of another. Each is there whole or
// as it was.
func (m *machine) copyDisks(ctx context.Context, to, from string, names []string) error {
	for _, name := range names {
		part := filepath.Join(to, "."+name+".part")
		err := copySparse(ctx, part, filepath.Join(from, name))
		if err == nil {
			err = os.Rename(part, filepath.Join(to, name))
		}
		if err != nil {
			return full(errors.Join(err, removeAll(part)))
		}
	}
	return nil
}

// seekData and seekHole are SEEK_DATA and SEEK_HOLE of lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// copySparse copies a file with its holes, or shares its blocks where the file
// system can.
func copySparse(ctx context.Context, to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(fi.Size()); err != nil {
		return err
	}
	if cloneRange(dst, src, 0) == nil { // zero: up to the end
		return nil
	}
	b := make([]byte, 1<<20)
	for end := int64(0); ; {
		start, err := src.Seek(end, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		if end, err = src.Seek(start, seekHole); err != nil {
			return err
		}
		for off := start; off < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n, err := src.ReadAt(b[:min(int64(len(b)), end-off)], off)
			if n == 0 {
				return errors.Join(err, io.ErrUnexpectedEOF)
			}
			if !zeros(b[:n]) {
				if _, err := dst.WriteAt(b[:n], off); err != nil {
					return err
				}
			}
			off += int64(n)
		}
	}
}
