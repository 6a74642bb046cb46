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

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// machine is a handle; it holds nothing.
type machine struct {
	d  *Driver
	id vm.ID
	// incarnation is that of the machine which this handle is for; empty for a
	// domain that is not ours.
	incarnation string
	// extra are capabilities that not every machine of this driver has; see
	// extras.
	extra vm.Set
}

// ID is the domain's name.
func (m *machine) ID() vm.ID { return m.id }

func (m *machine) path(name string) string { return filepath.Join(m.d.dir(m.id), name) }

// lookDomain looks at a domain.
func (d *Driver) lookDomain(ctx context.Context, name string) (domain, error) {
	var got domain
	err := d.line.use(ctx, true, func(c conn) (err error) {
		got, err = c.Look(name)
		return err
	})
	return got, err
}

// Open finds a domain, whoever made it.
func (d *Driver) Open(ctx context.Context, id vm.ID) (vm.Machine, error) {
	m, err := do(ctx, d, vm.OpOpen, id, nil, func(ctx context.Context) (*machine, error) {
		got, err := d.lookDomain(ctx, string(id))
		if err != nil {
			return nil, err
		}
		// What a foreign domain has, its hypervisor will say.
		m := &machine{d: d, id: id, extra: vm.CanAddress | vm.CanScreenshot}
		if rec := d.recordOf(got); rec != nil {
			m.incarnation, m.extra = rec.Incarnation, rec.extras()
		}
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// List looks at every domain.
func (d *Driver) List(ctx context.Context) ([]vm.Info, error) {
	return do(ctx, d, vm.OpList, "", nil, func(ctx context.Context) ([]vm.Info, error) {
		if err := d.removeLeftovers(ctx); err != nil {
			return nil, err
		}
		var all []domain
		err := d.line.use(ctx, true, func(c conn) (err error) {
			all, err = c.List()
			return err
		})
		if err != nil {
			return nil, err
		}
		infos := make([]vm.Info, 0, len(all))
		for _, got := range all {
			info, err := d.info(ctx, got)
			if err != nil {
				return nil, d.fail(vm.OpList, vm.ID(got.name), err)
			}
			infos = append(infos, info)
		}
		return infos, nil
	})
}

// Info looks at the domain and at what is recorded of its runs.
func (m *machine) Info(ctx context.Context) (vm.Info, error) {
	return do(ctx, m.d, vm.OpInfo, m.id, nil, m.look)
}

func (m *machine) look(ctx context.Context) (vm.Info, error) {
	got, err := m.d.lookDomain(ctx, string(m.id))
	if err != nil {
		return vm.Info{}, err
	}
	return m.d.info(ctx, got)
}

// recordOf reads a domain's metadata. One that is damaged is nobody's: it is
// told, and never touched.
func (d *Driver) recordOf(got domain) *record {
	rec, err := decodeRecord(got.record)
	if err != nil {
		d.log.Warn("a domain is taken for a foreign one", "domain", got.name, "err", err)
	}
	return rec
}

// info puts together what libvirt and the records say.
func (d *Driver) info(ctx context.Context, got domain) (vm.Info, error) {
	i := vm.Info{ID: vm.ID(got.name), Details: map[string]string{"uri": d.conf.URI}}
	rec := d.recordOf(got)
	if rec == nil {
		i.Details["foreign"] = "it has no metadata of bullpen's"
		if i.State = stateOf(got, true); i.State == vm.StateStopped {
			end := endOf(got, d.hub.of(got.name), nil)
			i.End = &end
		}
		return i, nil
	}
	i.Template, i.Owner, i.Created = rec.Template, rec.Owner, rec.Created
	i.Details["accelerator"], i.Details["accelerator_why"] = rec.Accelerator, rec.Why
	dir := rec.Dir
	last, err := readRun(dir)
	if err != nil {
		return i, err
	}
	d.mu.Lock()
	starting := d.starts[i.ID]
	d.mu.Unlock()
	ran := last != nil
	if d.target.remote() && !ran {
		ran = got.reason != offUnknown // another computer's starts are not recorded here
	}
	if i.State = stateOf(got, ran); starting {
		i.State = vm.StateStarting
	}
	if i.State != vm.StateStopped && i.State != vm.StateCrashed {
		return i, nil
	}
	end, err := d.endOf(ctx, got, dir, last)
	if err != nil {
		return i, err
	}
	if end.Kind == vm.EndCrashed {
		i.State = vm.StateCrashed
	}
	i.End = &end
	return i, nil
}

// endOf gives the end of a machine's last run: the recorded one, or what can be
// known now.
func (d *Driver) endOf(ctx context.Context, got domain, dir string, last *runRecord) (vm.End, error) {
	var tail []byte
	if spec, err := readSpec(dir, got.name); err == nil {
		if tail, err = d.consoleTail(ctx, spec, vm.ConsoleTail); err != nil {
			d.log.Debug("the console cannot be read", "machine", got.name, "err", err)
		}
	}
	if last != nil {
		rec, err := readEnd(dir, last.Boot)
		if err != nil {
			return vm.End{}, err
		}
		if rec != nil {
			return vm.End{Kind: rec.Kind, Detail: rec.Detail, Console: tail}, nil
		}
	}
	end := endOf(got, d.hub.of(got.name), tail)
	end.Console = tail
	return end, nil
}

// foreign reports whether this computer has no folder of the machine's: it is not
// ours, or on another computer and was made by a third.
func (m *machine) foreign() bool {
	if m.incarnation == "" {
		return true
	}
	if !m.d.target.remote() {
		return false
	}
	_, err := os.Lstat(m.d.dir(m.id))
	return errors.Is(err, fs.ErrNotExist)
}

// operate begins an operation that changes the machine's state: one at a time,
// among all processes of this computer. With wait it waits for the one in
// progress, else that is vm.ErrState.
func (m *machine) operate(ctx context.Context, what string, wait bool) (specRecord, func() error, error) {
	if m.foreign() {
		// libvirt's own locks have to do.
		return specRecord{Name: string(m.id)}, func() error { return nil }, nil
	}
	path := m.path(opLock)
	lock, err := flock.Try(path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) {
		if !wait {
			return specRecord{}, nil, fmt.Errorf("%w: %s is in progress", vm.ErrState, flock.ReadNote(path))
		}
		if lock, err = flock.Wait(ctx, path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX); errors.Is(err, flock.ErrLocked) {
			err = fmt.Errorf("waited for %s: %w", flock.ReadNote(path), err)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// The folder went first, or was never on this computer.
		return specRecord{}, nil, fmt.Errorf("%w: no folder %s", vm.ErrNotFound, m.d.dir(m.id))
	}
	if err != nil {
		return specRecord{}, nil, err
	}
	// Only now: whoever had the lock before may have destroyed the machine.
	spec, err := readSpec(m.d.dir(m.id), string(m.id))
	if err == nil && spec.Incarnation != m.incarnation {
		err = fmt.Errorf("%w: the machine of that name is incarnation %q by now, this was %q", vm.ErrNotFound, spec.Incarnation, m.incarnation)
	}
	if err == nil {
		err = lock.Note(what)
	}
	if err != nil {
		return spec, nil, errors.Join(err, lock.Unlock())
	}
	return spec, lock.Unlock, nil
}

// writeEnd records how a run ended, unless that is recorded or the machine is
// destroyed already.
func (m *machine) writeEnd(boot string, end vm.End) error {
	have, err := readEnd(m.d.dir(m.id), boot)
	if err != nil || have != nil {
		return err
	}
	err = writeBrief(m.path(endFile), endRecord{Boot: boot, Kind: end.Kind, Detail: end.Detail, At: time.Now().UTC()})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
