package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// describe reads a domain's description, that of its run or of its next one.
func (d *Driver) describe(ctx context.Context, name string, config bool) (*libvirtxml.Domain, error) {
	var text string
	err := d.line.use(ctx, true, func(c conn) (err error) {
		text, err = c.Description(name, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	dom := &libvirtxml.Domain{}
	if err := dom.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("the description of %s cannot be read: %w", name, err)
	}
	if dom.Devices == nil {
		dom.Devices = &libvirtxml.DomainDeviceList{}
	}
	return dom, nil
}

// farInsert plugs an input into a place, and sends it before unless it is there.
func (m *machine) farInsert(ctx context.Context, place int, in vm.Image, spec specRecord) error {
	if in.Digest() == "" {
		return errors.New("the image has no digest: it cannot be read")
	}
	name, err := inputName(in.Digest())
	if err != nil {
		return err
	}
	if in.Size() > spec.InputSize {
		return fmt.Errorf("%w: the image is %d bytes, and input disks are %d: raise Config.InputSize", vm.ErrTooLarge, in.Size(), spec.InputSize)
	}
	var pool string
	err = m.d.line.use(ctx, true, func(c conn) (err error) {
		pool, err = c.PoolPath(m.d.conf.Pool)
		return err
	})
	if err != nil {
		return fmt.Errorf("storage pool %q (Config.Pool): %w", m.d.conf.Pool, err)
	}
	for range 3 {
		stem, err := m.d.stocked(ctx, in, name)
		if err != nil {
			return err
		}
		// Used now: nobody sweeps it.
		if err := m.d.upload(ctx, stem+wholeSuffix, 0, make([]byte, 1)); err != nil && !hasCode(err, codeNoVolume) {
			return err
		}
		err = m.plug(ctx, place, filepath.Join(pool, stem+inputSuffix))
		// Who was about to sweep it may have done so until now.
		whole, _, werr := m.d.inputs(ctx)
		if werr != nil {
			return errors.Join(err, werr)
		}
		if _, there := whole[stem]; there {
			return err
		}
		if err := m.plug(ctx, place, ""); err != nil {
			return err
		}
	}
	return fmt.Errorf("the input is removed by somebody each time it was sent: %w", vm.ErrBusy)
}

// farEject empties a place.
func (m *machine) farEject(ctx context.Context, place int) error { return m.plug(ctx, place, "") }

// plug has a file, or with an empty path nothing, in a place: in the machine's
// next run and, where it runs, in this one.
func (m *machine) plug(ctx context.Context, place int, path string) (err error) {
	if !m.foreign() {
		// A lock of its own: a guest that does not let go must not keep anybody from
		// killing it.
		lock, err := flock.Wait(ctx, m.path(placeLock), os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: no folder %s", vm.ErrNotFound, m.d.dir(m.id))
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, lock.Unlock()) }()
		spec, err := readSpec(m.d.dir(m.id), string(m.id))
		if err == nil && spec.Incarnation != m.incarnation {
			err = fmt.Errorf("%w: the machine of that name is incarnation %q by now, this was %q", vm.ErrNotFound, spec.Incarnation, m.incarnation)
		}
		if err != nil {
			return err
		}
	}
	got, err := m.d.lookDomain(ctx, string(m.id))
	if err != nil {
		return err
	}
	if err := m.plugOne(ctx, place, path, false); err != nil || !active(got.state) {
		return err
	}
	return m.plugOne(ctx, place, path, true)
}

// placeTarget is a name that no other disk of the machine has.
func placeTarget(place int) string { return diskName(100 + place) }

func (m *machine) plugOne(ctx context.Context, place int, path string, live bool) error {
	have, err := m.plugged(ctx, place, live)
	if err != nil || have == path {
		return err
	}
	if have != "" {
		if err := m.unplug(ctx, place, have, live); err != nil {
			return err
		}
	}
	if path == "" {
		return nil
	}
	text, err := placeDisk(place, path)
	if err != nil {
		return err
	}
	return m.d.line.use(ctx, false, func(c conn) error { return c.Attach(string(m.id), text, live) })
}

func placeDisk(place int, path string) (string, error) {
	var dev libvirtxml.DomainDeviceList
	addDisk(&dev, path, "raw", "writeback", inputSerial(place), true, &libvirtxml.DomainDiskBackingStore{})
	dev.Disks[0].Target.Dev = placeTarget(place)
	return dev.Disks[0].Marshal()
}

// plugged gives the file in a place; empty: none.
func (m *machine) plugged(ctx context.Context, place int, live bool) (string, error) {
	x, err := m.d.describe(ctx, string(m.id), !live)
	if err != nil {
		return "", err
	}
	for _, disk := range x.Devices.Disks {
		if disk.Target != nil && disk.Target.Dev == placeTarget(place) && disk.Source != nil && disk.Source.File != nil {
			return disk.Source.File.File, nil
		}
	}
	return "", nil
}

// unplug asks until the disk is gone: of a machine that runs its guest has to let
// go of it, and one that boots may not have heard.
func (m *machine) unplug(ctx context.Context, place int, path string, live bool) error {
	text, err := placeDisk(place, path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, letGo, fmt.Errorf("the guest has not let go of input place %d within %v: its kernel must know PCI hotplug: %w", place, letGo, context.DeadlineExceeded))
	defer cancel()
	for {
		asked := m.d.line.use(ctx, false, func(c conn) error { return c.Detach(string(m.id), text, live) })
		have, err := m.plugged(ctx, place, live)
		if err != nil {
			return errors.Join(err, asked)
		}
		if have == "" {
			return nil
		}
		if asked != nil && !live {
			return asked
		}
		if err := sleep(ctx, unplugPause); err != nil {
			return errors.Join(context.Cause(ctx), asked)
		}
	}
}

const (
	// letGo bounds the wait for a guest to let go of an input, which it does when
	// its kernel has booted and answers.
	letGo = 30 * time.Second
	// unplugPause is between two askings.
	unplugPause = 200 * time.Millisecond
)
