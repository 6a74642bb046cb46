package fake

import (
	"context"
	"fmt"
	"hash/fnv"
	"image"
	"image/png"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

var (
	_ vm.Waiter        = (*machine)(nil)
	_ vm.Snapshotter   = (*machine)(nil)
	_ vm.Saver         = (*machine)(nil)
	_ vm.Attacher      = (*machine)(nil)
	_ vm.Owned         = (*machine)(nil)
	_ vm.Addresser     = (*machine)(nil)
	_ vm.Consoler      = (*machine)(nil)
	_ vm.Messenger     = (*machine)(nil)
	_ vm.Suspender     = (*machine)(nil)
	_ vm.Screenshotter = (*machine)(nil)
)

// Wait waits for the end.
func (m *machine) Wait(ctx context.Context) (vm.End, error) {
	for {
		var b *boot
		var end vm.End
		var cut chan struct{}
		err := m.locked(ctx, vm.OpWait, func() error {
			cut = m.d.h.cut
			if b = m.r.boot; b == nil && m.r.end != nil {
				end = *m.r.end
			}
			return nil
		})
		if err != nil || b == nil {
			return end, err
		}
		select {
		case <-b.ended:
		case <-cut:
			return vm.End{}, m.fail(vm.OpWait, vm.ErrHostLost)
		case <-ctx.Done():
			return vm.End{}, m.fail(vm.OpWait, context.Cause(ctx))
		}
		m.d.h.mu.Lock()
		end = b.end
		again := m.r.boot != nil // reverted to a running state
		m.d.h.mu.Unlock()
		if !again {
			return end, nil
		}
	}
}

// Snapshot keeps the guest as it is.
func (m *machine) Snapshot(ctx context.Context, name string) error {
	unused := func() error {
		if slices.ContainsFunc(m.r.snaps, func(s snap) bool { return s.name == name }) {
			return fmt.Errorf("snapshot %s: %w", name, vm.ErrExists)
		}
		return nil
	}
	return m.changing(ctx, vm.OpSnapshot, m.d.h.c.Times.Snapshot, unused, func() error {
		m.r.snaps = append(m.r.snaps, snap{name, m.r.boot != nil, m.r.memory.clone()})
		return nil
	})
}

// Revert goes back; what ran before is over.
func (m *machine) Revert(ctx context.Context, name string) error {
	g, _ := ctx.Value(guestKey{}).(Guest)
	find := func() (snap, error) {
		i := slices.IndexFunc(m.r.snaps, func(s snap) bool { return s.name == name })
		if i < 0 {
			return snap{}, fmt.Errorf("snapshot %s: %w", name, vm.ErrNotFound)
		}
		return m.r.snaps[i], nil
	}
	var old *vm.Channel
	err := m.changing(ctx, vm.OpRevert, m.d.h.c.Times.Revert,
		func() error {
			_, err := find()
			return err
		},
		func() error {
			s, err := find()
			if err != nil {
				return err
			}
			if b := m.r.boot; b != nil {
				if b.by == m.d {
					old = b.channel
				}
				m.d.h.finish(m.r, b, vm.End{Kind: vm.EndKilled, Detail: "reverted"})
			}
			m.r.memory, m.r.state = s.saved.clone(), vm.StateStopped
			if s.running {
				m.d.h.run(m.r, g, 0, m.r.from)
			}
			return nil
		})
	if old != nil {
		_ = old.Close() // it cannot fail
	}
	return err
}

// Snapshots lists, oldest first.
func (m *machine) Snapshots(ctx context.Context) ([]string, error) {
	var names []string
	err := m.locked(ctx, vm.OpSnapshots, func() error {
		for _, s := range m.r.snaps {
			names = append(names, s.name)
		}
		return nil
	})
	return names, err
}

// DeleteSnapshot removes one.
func (m *machine) DeleteSnapshot(ctx context.Context, name string) error {
	return m.locked(ctx, vm.OpDeleteSnapshot, func() error {
		n := len(m.r.snaps)
		m.r.snaps = slices.DeleteFunc(m.r.snaps, func(s snap) bool { return s.name == name })
		if len(m.r.snaps) == n {
			return fmt.Errorf("snapshot %s: %w", name, vm.ErrNotFound)
		}
		return nil
	})
}

// Save makes a parent and ends the machine.
func (m *machine) Save(ctx context.Context, name string) error {
	h := m.d.h
	may := func() error {
		if h.parents[name] != nil {
			return fmt.Errorf("parent %s: %w", name, vm.ErrExists)
		}
		return m.must(vm.StateRunning, vm.StatePaused)
	}
	return m.changing(ctx, vm.OpSave, h.c.Times.Save, may, func() error {
		if err := may(); err != nil {
			return err
		}
		b := m.r.boot
		h.parents[name] = &parent{saved: m.r.memory.clone(), secret: b.secret, inc: b.inc, made: time.Now()}
		h.finish(m.r, b, vm.End{Kind: vm.EndPoweredOff, Detail: "saved as " + name})
		return nil
	})
}

// JobDisk opens a job disk.
func (m *machine) JobDisk(ctx context.Context, n int) (vm.JobDisk, error) {
	var d *diskHandle
	err := m.locked(ctx, vm.OpJobDisk, func() error {
		if n < 0 || n >= len(m.r.disks) {
			return fmt.Errorf("job disk %d of %d: %w", n, len(m.r.disks), vm.ErrNotFound)
		}
		d = &diskHandle{disk: m.r.disks[n], m: m}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (m *machine) place(n int) error {
	if n < 0 || n >= m.r.spec.Inputs {
		return fmt.Errorf("input place %d of %d: %w", n, m.r.spec.Inputs, vm.ErrNotFound)
	}
	return nil
}

// Insert puts an input in. One that the host has takes no time.
func (m *machine) Insert(ctx context.Context, place int, in vm.Image) error {
	h, digest := m.d.h, in.Digest()
	h.mu.Lock()
	there := slices.Contains(h.stock, digest)
	h.mu.Unlock()
	if !there {
		if err := pause(ctx, h.c.Times.Insert); err != nil {
			return m.fail(vm.OpInsert, err)
		}
	}
	return m.locked(ctx, vm.OpInsert, func() error {
		if err := m.place(place); err != nil {
			return err
		}
		m.r.inputs[place] = in
		h.keep(digest)
		return nil
	})
}

// Eject takes it out.
func (m *machine) Eject(ctx context.Context, place int) error {
	if err := pause(ctx, m.d.h.c.Times.Eject); err != nil {
		return m.fail(vm.OpEject, err)
	}
	return m.locked(ctx, vm.OpEject, func() error {
		if err := m.place(place); err != nil {
			return err
		}
		delete(m.r.inputs, place)
		return nil
	})
}

// SetOwner rewrites the ownership.
func (m *machine) SetOwner(ctx context.Context, o vm.Owner) error {
	return m.locked(ctx, vm.OpSetOwner, func() error {
		m.r.owner = o
		return nil
	})
}

// Addresses waits for the guest's boot.
func (m *machine) Addresses(ctx context.Context) ([]netip.Addr, error) {
	for {
		var b *boot
		var left time.Duration
		err := m.locked(ctx, vm.OpAddresses, func() error {
			if b = m.r.boot; b == nil {
				return m.must(vm.StateRunning, vm.StatePaused)
			}
			left = time.Until(b.up)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if left <= 0 && !b.fault.Silent {
			h := fnv.New32a()
			h.Write([]byte(m.r.id))
			n := h.Sum32()
			return []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}, nil
		}
		if b.fault.Silent {
			left = time.Hour // it never gets one
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-b.ended:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return nil, m.fail(vm.OpAddresses, context.Cause(ctx))
		}
	}
}

// Console gives the last n bytes.
func (m *machine) Console(ctx context.Context, n int) ([]byte, error) {
	var b []byte
	err := m.locked(ctx, vm.OpConsole, func() error {
		b = m.r.tail(max(n, 0))
		return nil
	})
	return b, err
}

// Suspend freezes the guest.
func (m *machine) Suspend(ctx context.Context) error {
	return m.changing(ctx, vm.OpSuspend, m.d.h.c.Times.Suspend,
		func() error { return m.must(vm.StateRunning) },
		func() error {
			if err := m.must(vm.StateRunning); err != nil {
				return err
			}
			m.r.state = vm.StatePaused
			m.r.boot.gate = make(chan struct{})
			return nil
		})
}

// Resume thaws it.
func (m *machine) Resume(ctx context.Context) error {
	return m.changing(ctx, vm.OpResume, m.d.h.c.Times.Resume,
		func() error { return m.must(vm.StatePaused) },
		func() error {
			if err := m.must(vm.StatePaused); err != nil {
				return err
			}
			m.r.state = vm.StateRunning
			close(m.r.boot.gate)
			m.r.boot.gate = nil
			return nil
		})
}

// Screenshot writes a black picture.
func (m *machine) Screenshot(ctx context.Context, w io.Writer) (string, error) {
	if err := m.locked(ctx, vm.OpScreenshot, func() error { return m.must(vm.StateRunning, vm.StatePaused) }); err != nil {
		return "", err
	}
	if err := png.Encode(w, image.NewGray(image.Rect(0, 0, 80, 25))); err != nil {
		return "", m.fail(vm.OpScreenshot, err)
	}
	return "image/png", nil
}
