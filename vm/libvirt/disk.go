package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// errNoPlace is answered for a number that was not reserved.
var errNoPlace = errors.New("not reserved in the Spec")

// hostDisk is the host's handle of a job disk. Host and QEMU see the kernel's one
// copy of the file, also when QEMU is killed.
type hostDisk struct {
	f    *os.File
	size int64
}

// JobDisk opens the disk's file anew with each call.
func (m *machine) JobDisk(ctx context.Context, n int) (vm.JobDisk, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return nil, m.d.fail(vm.OpJobDisk, m.id, err)
	}
	defer end()
	if m.d.target.remote() {
		return m.farJobDisk(ctx, n)
	}
	d, err := m.jobDisk(n)
	if err != nil {
		return nil, m.d.fail(vm.OpJobDisk, m.id, err)
	}
	return d, nil
}

func (m *machine) jobDisk(n int) (*hostDisk, error) {
	spec, err := readSpec(m.d.dir(m.id), string(m.id))
	if err != nil {
		return nil, err
	}
	if n < 0 || n >= len(spec.JobDisks) {
		return nil, fmt.Errorf("%w: job disk %d, but it has %d, counted from zero", errNoPlace, n, len(spec.JobDisks))
	}
	f, err := os.OpenFile(m.path(jobDiskFile(n)), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its job disk was removed: %w", vm.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() != spec.JobDisks[n]) {
		err = fmt.Errorf("%s is a %v of %d bytes, want a plain file of %d", f.Name(), fi.Mode(), fi.Size(), spec.JobDisks[n])
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &hostDisk{f, spec.JobDisks[n]}, nil
}

// ReadAt reads what is in the file now.
func (d *hostDisk) ReadAt(b []byte, off int64) (int, error) { return d.f.ReadAt(b, off) }

// WriteAt refuses what goes beyond the end, whole, with io.ErrShortWrite.
func (d *hostDisk) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(b)) > d.size-off {
		return 0, fmt.Errorf("write of %d bytes at %d of a disk of %d bytes: %w", len(b), off, d.size, io.ErrShortWrite)
	}
	n, err := d.f.WriteAt(b, off)
	return n, full(err)
}

// Size is the disk's, in bytes.
func (d *hostDisk) Size() int64 { return d.size }

// Sync has nothing to do: see hostDisk.
func (d *hostDisk) Sync(ctx context.Context) error { return context.Cause(ctx) }

// Close closes the file.
func (d *hostDisk) Close() error { return d.f.Close() }

// Insert rewrites the place's file in place, for QEMU keeps it open: by a clone
// where the file system can, else by a copy without its holes. The guest drops
// what it has cached before it mounts.
func (m *machine) Insert(ctx context.Context, place int, in vm.Image) error {
	far := func(ctx context.Context, spec specRecord) error { return m.farInsert(ctx, place, in, spec) }
	return m.place(ctx, vm.OpInsert, place, far, func(ctx context.Context, f *os.File, spec specRecord) error {
		want := inputRecord{Digest: in.Digest(), Size: in.Size()}
		if want.Digest == "" {
			return errors.New("the image has no digest: it cannot be read")
		}
		if want.Size > spec.InputSize {
			return fmt.Errorf("%w: the image is %d bytes, and input disks are %d: raise Config.InputSize", vm.ErrTooLarge, want.Size, spec.InputSize)
		}
		var have inputRecord
		err := readRecord(f.Name()+".json", &have)
		if err == nil && have == want {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := empty(f, spec.InputSize); err != nil {
			return err
		}
		if err := fillImage(ctx, f, in); err != nil {
			return errors.Join(full(err), empty(f, spec.InputSize))
		}
		return full(writeRecord(f.Name()+".json", want))
	})
}

// Eject empties a place.
func (m *machine) Eject(ctx context.Context, place int) error {
	far := func(ctx context.Context, _ specRecord) error { return m.farEject(ctx, place) }
	return m.place(ctx, vm.OpEject, place, far, func(_ context.Context, f *os.File, spec specRecord) error {
		if _, err := os.Lstat(f.Name() + ".json"); errors.Is(err, fs.ErrNotExist) {
			return nil // it is empty
		}
		return empty(f, spec.InputSize)
	})
}

// empty removes the record first: a place without one is empty. Then the file
// becomes one hole.
func empty(f *os.File, size int64) error {
	if err := removeAll(f.Name() + ".json"); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	return f.Truncate(size)
}

func (m *machine) place(ctx context.Context, op string, place int, far func(context.Context, specRecord) error, f func(context.Context, *os.File, specRecord) error) error {
	_, err := do(ctx, m.d, op, m.id, nil, func(ctx context.Context) (struct{}, error) {
		spec, err := m.spec(ctx)
		if err == nil && (place < 0 || place >= spec.Inputs) {
			err = fmt.Errorf("%w: place %d, but it has %d, counted from zero", errNoPlace, place, spec.Inputs)
		}
		if err != nil {
			return struct{}{}, err
		}
		if m.d.target.remote() {
			return struct{}{}, far(ctx, spec)
		}
		path := m.path(inputFile(place))
		// The file is its own lock, for drivers only: QEMU takes another kind.
		lock, err := flock.Wait(ctx, path, os.O_RDWR, syscall.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: its input disk was removed: %w", vm.ErrNotFound, err)
		}
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, errors.Join(f(ctx, lock.File(), spec), lock.Unlock())
	})
	return err
}

// ficlonerange is FICLONERANGE of ioctl_ficlonerange(2).
const ficlonerange = 0x4020940d

// fillImage makes the file, which is one hole, begin with the image.
func fillImage(ctx context.Context, f *os.File, in vm.Image) error {
	if p, ok := in.(interface{ Path() string }); ok {
		if src, err := os.Open(p.Path()); err == nil {
			cloned := sameFile(src, in) && cloneRange(f, src, in.Size()) == nil
			if err := src.Close(); err != nil {
				return err
			}
			if cloned {
				return nil
			}
		}
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < in.Size(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := in.ReadAt(b[:min(int64(len(b)), in.Size()-off)], off)
		if n > 0 && !zeros(b[:n]) {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) && off < in.Size() {
			return fmt.Errorf("image ended after %d bytes of %d: %w", off, in.Size(), io.ErrUnexpectedEOF)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// sameFile reports whether a file is the very one that the image has open; an
// image that cannot tell is believed.
func sameFile(f *os.File, in vm.Image) bool {
	st, ok := in.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return true
	}
	want, err := st.Stat()
	if err != nil {
		return false
	}
	have, err := f.Stat()
	return err == nil && os.SameFile(want, have)
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
