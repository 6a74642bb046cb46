package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// disk is a raw file that is never made longer. It is the host's job disk and
// the guest's.
type disk struct {
	f    *os.File
	size int64
}

// openDisk refuses what is no plain file of that size: a job runs as the same
// user and might have put something else there.
func openDisk(path string, size int64) (*disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() != size) {
		err = fmt.Errorf("%s is a %v of %d bytes, want a plain file of %d", path, fi.Mode(), fi.Size(), size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &disk{f, size}, nil
}

func (d *disk) ReadAt(b []byte, off int64) (int, error) { return d.f.ReadAt(b, off) }

// WriteAt refuses what goes beyond the end, whole, with io.ErrShortWrite.
func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(b)) > d.size-off {
		return 0, fmt.Errorf("write of %d bytes at %d of a disk of %d bytes: %w", len(b), off, d.size, io.ErrShortWrite)
	}
	return d.f.WriteAt(b, off)
}

func (d *disk) Size() int64 { return d.size }

func (d *disk) Close() error { return d.f.Close() }

// hostDisk is a vm.JobDisk.
type hostDisk struct{ *disk }

// Sync has nothing to do: both sides see the kernel's one copy of the file,
// which needs not survive the computer's end.
func (hostDisk) Sync(ctx context.Context) error { return context.Cause(ctx) }

// JobDisk opens the file anew with each call.
func (m *machine) JobDisk(ctx context.Context, n int) (vm.JobDisk, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail("job disk", m.id, err)
	}
	defer end()
	spec, err := m.spec()
	if err != nil {
		return nil, m.d.fail("job disk", m.id, err)
	}
	if n < 0 || n >= len(spec.JobDisks) {
		return nil, m.d.fail("job disk", m.id, fmt.Errorf("%w: job disk %d, but it has %d, counted from zero", errNoPlace, n, len(spec.JobDisks)))
	}
	f, err := openDisk(m.path(jobDiskFile(n)), spec.JobDisks[n])
	if err != nil {
		return nil, m.d.fail("job disk", m.id, m.gone(err))
	}
	return hostDisk{f}, nil
}

// errNoPlace is answered for a number that was not reserved.
var errNoPlace = errors.New("not reserved in the Spec")

// Insert makes the image the content of a place: by a hard link or a clone
// when the image has a file (a Path method), else by a copy.
func (m *machine) Insert(ctx context.Context, place int, in vm.Image) error {
	return m.place(ctx, "insert", place, func(path string) error {
		want := inputRecord{Digest: in.Digest(), Size: in.Size()}
		if want.Digest == "" {
			return errors.New("the image has no digest: it cannot be read")
		}
		var have inputRecord
		err := readRecord(path+".json", &have)
		if err == nil && have == want {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := eject(path); err != nil {
			return err
		}
		if err := putImage(ctx, path, in); err != nil {
			return err
		}
		return writeRecord(path+".json", want, false)
	})
}

// Eject empties a place.
func (m *machine) Eject(ctx context.Context, place int) error {
	return m.place(ctx, "eject", place, eject)
}

func (m *machine) place(ctx context.Context, op string, place int, f func(path string) error) error {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail(op, m.id, err)
	}
	defer end()
	spec, err := m.spec()
	if err == nil && (place < 0 || place >= spec.Inputs) {
		err = fmt.Errorf("%w: place %d, but it has %d, counted from zero", errNoPlace, place, spec.Inputs)
	}
	if err != nil {
		return m.d.fail(op, m.id, err)
	}
	path := m.path(inputFile(place))
	lock, err := flock.Wait(ctx, path+".lock", os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return m.d.fail(op, m.id, m.gone(err))
	}
	if err = f(path); err != nil {
		err = m.gone(err)
	}
	return m.d.fail(op, m.id, errors.Join(err, lock.Unlock()))
}

// eject removes the record first: a place without one is empty.
func eject(path string) error {
	for _, p := range []string{path + ".json", path} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// putImage makes path the image's bytes, in the cheapest way that there is.
// Whether they are what the digest says is for the agent to check: it reads
// them anyway.
func putImage(ctx context.Context, path string, in vm.Image) error {
	src := ""
	if p, ok := in.(interface{ Path() string }); ok {
		src = p.Path()
	}
	if src != "" && os.Link(src, path) == nil {
		if same(path, in) {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		src = "" // the name is another file's by now
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errNotCloned
	if src != "" {
		err = cloneFile(f, src)
	}
	if err != nil { // another file system, or one without clones
		err = copyImage(ctx, f, in)
	}
	return errors.Join(err, f.Close())
}

// same reports whether path is the very file that the image has open; an image
// that cannot tell is believed.
func same(path string, in vm.Image) bool {
	st, ok := in.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return true
	}
	want, err := st.Stat()
	if err != nil {
		return false
	}
	have, err := os.Lstat(path)
	return err == nil && os.SameFile(want, have)
}

var errNotCloned = errors.New("not cloned")

// ficlone is FICLONE of ioctl_ficlonerange(2).
const ficlone = 0x40049409

func cloneFile(dst *os.File, src string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dst.Fd(), ficlone, f.Fd()); errno != 0 {
		return errno
	}
	return nil
}

func copyImage(ctx context.Context, dst *os.File, in vm.Image) error {
	r := io.NewSectionReader(in, 0, in.Size())
	b := make([]byte, 1<<20)
	var n int64
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := r.Read(b)
		// Blocks of zeros stay holes.
		if k > 0 && strings.Trim(string(b[:k]), "\x00") != "" {
			if _, err := dst.WriteAt(b[:k], n); err != nil {
				return err
			}
		}
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if n != in.Size() {
		return fmt.Errorf("image ended after %d bytes of %d: %w", n, in.Size(), io.ErrUnexpectedEOF)
	}
	return dst.Truncate(n)
}
