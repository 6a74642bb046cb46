package diskio

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// Pack writes an ext4 image of a tree to the file dst and opens it. A file that
// is there is replaced in one step, and nothing is left of a Pack that failed
// or was cancelled; one that was killed leaves a file whose name begins with
// ".bullpen-pack-" beside dst.
//
// The same tree and options give the same bytes: entries go in by name, owners,
// modes and times are normalised (see PackOptions.Preserve), and the file
// system's UUID is made from names, modes, sizes, links and targets. Holes
// count as part of the tree. The UUID does not depend on what is in the files,
// since that would need a second pass over all of it: two images that differ
// in nothing else have the same UUID but not the same Digest.
//
// The tree must not change meanwhile: a file or folder of the host that does is
// an error that names it and wraps ErrChanged. What cannot be read is an error
// too. Errors about the tree and options name field, value and rule.
func Pack(ctx context.Context, dst string, src Tree, o *PackOptions) (*Image, error) {
	options := o.orDefault()
	if err := errors.Join(options.check(), src.check()); err != nil {
		return nil, &OpError{Op: "pack", Name: dst, Err: err}
	}
	found, err := scanTree(ctx, &src, options)
	if err != nil {
		return nil, err
	}
	defer found.close()
	if err := found.apart(dst); err != nil {
		return nil, err
	}
	return found.pack(ctx, dst)
}

// pack writes what was found.
func (s *scan) pack(ctx context.Context, dst string) (image *Image, err error) {
	plan, err := s.plan()
	if err != nil {
		return nil, err
	}
	f, err := createTemp(filepath.Dir(dst), ".bullpen-pack-")
	if err != nil {
		return nil, &OpError{Op: "pack", Name: dst, Err: pathCause(err)}
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
			if image != nil {
				image.Close()
				image = nil
			}
		}
	}()
	if err := s.write(ctx, f, plan); err != nil {
		return nil, err
	}
	read, err := os.Open(f.Name())
	if err != nil {
		return nil, &OpError{Op: "pack", Name: dst, Err: pathCause(err)}
	}
	if image, err = newImage(read, dst); err == nil {
		err = os.Rename(f.Name(), dst)
	}
	if err != nil {
		read.Close()
		return nil, &OpError{Op: "pack", Name: dst, Err: err}
	}
	return image, nil
}

// plan lays the image out.
func (s *scan) plan() (*ext4.Plan, error) {
	plan, err := ext4.NewPlan(s.root, ext4.Options{
		Label: s.options.Label, FreeBytes: s.options.Free, FreeInodes: s.options.FreeFiles, Sec: s.options.Time.Unix(),
	})
	var pe *ext4.PlanError
	if errors.As(err, &pe) {
		return nil, &OpError{Op: "pack", Name: pe.Path, Err: pe.Err}
	}
	return plan, err
}

// apart refuses to write into a folder that is packed: the new file would
// change it, and the old one would be packed.
func (s *scan) apart(dst string) error {
	info, err := os.Stat(filepath.Dir(dst))
	if err != nil {
		return &OpError{Op: "pack", Name: dst, Err: pathCause(err)}
	}
	st := info.Sys().(*syscall.Stat_t)
	for _, d := range s.dirs {
		if d.stamp.dev == uint64(st.Dev) && d.stamp.ino == st.Ino {
			return &OpError{Op: "pack", Name: dst, Err: fmt.Errorf("is inside of %s, which is packed: choose a place outside of it", d.path(""))}
		}
	}
	return nil
}

// createTemp makes a new file with the permissions that the umask leaves: those
// of os.CreateTemp keep other users, such as a hypervisor's, out.
func createTemp(dir, prefix string) (*os.File, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	return os.OpenFile(filepath.Join(dir, prefix+hex.EncodeToString(random[:])), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
}
