package libvirt

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Job disks of a machine on another computer are volumes of a storage pool there,
// Config.Pool, which are written and read over the connection; so is its console. They are named in
// the domain's metadata, made after the domain and removed before it: whatever a
// killed process leaves has a domain that tells of it.

func volumeName(machine, file string) string { return volumePrefix(machine) + file + ".raw" }

func volumePrefix(machine string) string { return "bullpen-" + machine + "-" }

// volumes gives the sizes of a machine's volumes by their names.
func volumes(rec specRecord) map[string]int64 {
	all := map[string]int64{}
	for n, size := range rec.JobDisks {
		all[volumeName(rec.Name, jobDiskFile(n))] = size
	}
	if rec.FarConsole != "" {
		all[rec.FarConsole] = 0 // it grows
	}
	return all
}

func (d *Driver) makeVolumes(ctx context.Context, rec specRecord) error {
	for name, size := range volumes(rec) {
		err := d.line.use(ctx, false, func(c conn) error { return c.MakeVolume(d.conf.Pool, name, size) })
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("volume %s of pool %s: %w", name, d.conf.Pool, err)
		}
	}
	return nil
}

// removeVolumes removes those that are there.
func (d *Driver) removeVolumes(ctx context.Context, rec record) error {
	if rec.Spec == nil {
		return nil
	}
	names := slices.Collect(maps.Keys(volumes(*rec.Spec)))
	states, err := d.stateVolumes(ctx, rec)
	if err != nil {
		return err
	}
	for _, name := range append(names, states...) {
		err := d.line.use(ctx, true, func(c conn) error { return c.RemoveVolume(rec.Pool, name) })
		if err != nil && !hasCode(err, codeNoVolume) {
			return fmt.Errorf("volume %s of pool %s: %w", name, rec.Pool, err)
		}
	}
	return nil
}

const (
	// farPiece is the most that is sent or fetched by one call, in bytes.
	farPiece = 1 << 20
	// farPending is how much a disk keeps before it sends it unasked, in bytes.
	farPending = 4 << 20
	// farTime bounds a read or a write, which have no context.
	farTime = time.Minute
)

// farDisk is a job disk on another computer. What is written is kept until Sync,
// Close, or the next read, and sent in order.
type farDisk struct {
	d    *Driver
	id   vm.ID
	name string
	size int64

	mu      sync.Mutex
	closed  bool
	pending []extent
	kept    int
}

// extent is a piece of a disk.
type extent struct {
	at   int64
	data []byte
}

// Size is the disk's, in bytes.
func (f *farDisk) Size() int64 { return f.size }

// WriteAt refuses what goes beyond the end, whole, with io.ErrShortWrite.
func (f *farDisk) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > f.size || int64(len(b)) > f.size-off {
		return 0, fmt.Errorf("write of %d bytes at %d of a disk of %d bytes: %w", len(b), off, f.size, io.ErrShortWrite)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, fmt.Errorf("job disk: %w", vm.ErrClosed)
	}
	if last := len(f.pending) - 1; last >= 0 && f.pending[last].at+int64(len(f.pending[last].data)) == off {
		f.pending[last].data = append(f.pending[last].data, b...)
	} else {
		f.pending = append(f.pending, extent{off, append([]byte(nil), b...)})
	}
	if f.kept += len(b); f.kept < farPending {
		return len(b), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), farTime)
	defer cancel()
	if err := f.flush(ctx); err != nil {
		return 0, err
	}
	return len(b), nil
}

// flush sends what is kept. What could not be sent stays. The caller has the lock.
func (f *farDisk) flush(ctx context.Context) error {
	ctx, end, err := f.d.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for len(f.pending) > 0 {
		e := &f.pending[0]
		piece := e.data[:min(len(e.data), farPiece)]
		if err := f.d.upload(ctx, f.name, e.at, piece); err != nil {
			return err
		}
		f.kept -= len(piece)
		e.at += int64(len(piece))
		if e.data = e.data[len(piece):]; len(e.data) == 0 {
			f.pending = f.pending[1:]
		}
	}
	f.pending = nil
	return nil
}

// ReadAt fetches what is on the disk now, and sends first what was written here.
func (f *farDisk) ReadAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, fmt.Errorf("job disk: %w", vm.ErrClosed)
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(b)) > f.size-off {
		b, eof = b[:f.size-off], io.EOF
	}
	ctx, cancel := context.WithTimeout(context.Background(), farTime)
	defer cancel()
	if err := f.flush(ctx); err != nil {
		return 0, err
	}
	ctx, end, err := f.d.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	for done := 0; done < len(b); {
		piece := b[done:min(len(b), done+farPiece)]
		if err := f.d.download(ctx, f.name, off+int64(done), piece); err != nil {
			return done, err
		}
		done += len(piece)
	}
	return len(b), eof
}

// Sync sends what was written.
func (f *farDisk) Sync(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.d.fail(vm.OpJobDisk, f.id, f.flush(ctx))
}

// Close sends what was written, and releases the handle even so.
func (f *farDisk) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if len(f.pending) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), farTime)
	defer cancel()
	return f.d.fail(vm.OpJobDisk, f.id, f.flush(ctx))
}

// upload writes a piece of a volume. Once more does no harm.
func (d *Driver) upload(ctx context.Context, volume string, off int64, b []byte) error {
	return full(d.line.use(ctx, true, func(c conn) error { return c.Upload(d.conf.Pool, volume, off, b) }))
}

// download reads a piece of a volume.
func (d *Driver) download(ctx context.Context, volume string, off int64, b []byte) error {
	return d.line.use(ctx, true, func(c conn) error { return c.Download(d.conf.Pool, volume, off, b) })
}

// spec is what the machine is, by its folder, or for one on another computer by
// its metadata.
func (m *machine) spec(ctx context.Context) (specRecord, error) {
	if !m.d.target.remote() || !m.foreign() {
		return readSpec(m.d.dir(m.id), string(m.id))
	}
	got, err := m.d.lookDomain(ctx, string(m.id))
	if err != nil {
		return specRecord{}, err
	}
	rec := m.d.recordOf(got)
	if rec == nil || rec.Spec == nil {
		return specRecord{Name: string(m.id)}, nil // it has no such disks
	}
	if m.incarnation != "" && rec.Incarnation != m.incarnation {
		return specRecord{}, fmt.Errorf("%w: the machine of that name is incarnation %q by now, this was %q", vm.ErrNotFound, rec.Incarnation, m.incarnation)
	}
	return *rec.Spec, nil
}

// farJobDisk opens a job disk on another computer.
func (m *machine) farJobDisk(ctx context.Context, n int) (vm.JobDisk, error) {
	return do(ctx, m.d, vm.OpJobDisk, m.id, nil, func(ctx context.Context) (vm.JobDisk, error) {
		spec, err := m.spec(ctx)
		if err != nil {
			return nil, err
		}
		if n < 0 || n >= len(spec.JobDisks) {
			return nil, fmt.Errorf("%w: job disk %d, but it has %d, counted from zero", errNoPlace, n, len(spec.JobDisks))
		}
		return &farDisk{d: m.d, id: m.id, name: volumeName(spec.Name, jobDiskFile(n)), size: spec.JobDisks[n]}, nil
	})
}
