package fake

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/bullpen-vm/bullpen/vm"
)

// page is how much of a disk is kept at once, in bytes.
const page = 16 << 10

// disk is a job disk in memory. It takes room only where it was written to.
type disk struct {
	size  int64
	mu    sync.RWMutex
	pages map[int64][]byte
}

func newDisk(size int64) *disk { return &disk{size: size, pages: map[int64][]byte{}} }

// Size is the disk's length in bytes.
func (d *disk) Size() int64 { return d.size }

// ReadAt reads; what was never written is zero.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("fake: read at %d of a disk of %d bytes", off, d.size)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > d.size-off {
		p, err = p[:d.size-off], io.EOF
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:min(len(p), n+int(page-at%page))]
		if from := d.pages[at/page]; from != nil {
			copy(part, from[at%page:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	return len(p), err
}

// WriteAt writes; beyond the end is an error, as on a device.
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("fake: write of %d bytes at %d of a disk of %d bytes: %w", len(p), off, d.size, vm.ErrTooLarge)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:min(len(p), n+int(page-at%page))]
		to := d.pages[at/page]
		if to == nil {
			to = make([]byte, page)
			d.pages[at/page] = to
		}
		n += copy(to[at%page:], part)
	}
	return len(p), nil
}

// diskHandle is a disk as the host opened it.
type diskHandle struct {
	*disk
	m      *machine
	mu     sync.Mutex
	closed bool
}

func (h *diskHandle) open(op string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return h.m.fail(op, vm.ErrClosed)
	}
	return nil
}

// ReadAt reads through the handle.
func (h *diskHandle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.open(vm.OpReadDisk); err != nil {
		return 0, err
	}
	return h.disk.ReadAt(p, off)
}

// WriteAt writes through the handle.
func (h *diskHandle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.open(vm.OpWriteDisk); err != nil {
		return 0, err
	}
	return h.disk.WriteAt(p, off)
}

// Sync has nothing to do: guest and host share the memory.
func (h *diskHandle) Sync(ctx context.Context) error {
	if err := h.open(vm.OpSyncDisk); err != nil {
		return err
	}
	return ctx.Err()
}

// Close closes the handle only.
func (h *diskHandle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return nil
}
