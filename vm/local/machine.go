package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// machine is a handle: all that is known is in the folder, so that every
// process sees the same.
type machine struct {
	d  *Driver
	id vm.ID
	// incarnation is what the handle was made for: a folder of that name with
	// another one is another machine.
	incarnation string
}

var (
	_ vm.Driver    = (*Driver)(nil)
	_ vm.Machine   = (*machine)(nil)
	_ vm.Waiter    = (*machine)(nil)
	_ vm.Attacher  = (*machine)(nil)
	_ vm.Owned     = (*machine)(nil)
	_ vm.Addresser = (*machine)(nil)
	_ vm.Consoler  = (*machine)(nil)
	_ vm.Messenger = (*machine)(nil)
	_ vm.Suspender = (*machine)(nil)
)

func (m *machine) ID() vm.ID { return m.id }

func (m *machine) dir() string { return filepath.Join(m.d.root, string(m.id)) }

func (m *machine) path(name string) string { return filepath.Join(m.dir(), name) }

// spec reads what the machine is; vm.ErrNotFound when it is gone, also when
// another incarnation has its name.
func (m *machine) spec() (specRecord, error) {
	s, err := m.d.readSpec(m.id)
	if err == nil && m.incarnation != "" && s.Incarnation != m.incarnation {
		return s, fmt.Errorf("%w: that name is incarnation %q now, not %q", vm.ErrNotFound, s.Incarnation, m.incarnation)
	}
	return s, err
}

// Info looks at the folder and at the keeper.
func (m *machine) Info(ctx context.Context) (vm.Info, error) {
	_, end, err := m.d.begin(ctx)
	if err != nil {
		return vm.Info{}, m.d.fail("info", m.id, err)
	}
	defer end()
	info, err := m.look()
	return info, m.d.fail("info", m.id, err)
}

func (m *machine) look() (vm.Info, error) {
	spec, err := m.spec()
	if err != nil {
		return vm.Info{}, err
	}
	info := vm.Info{ID: m.id, Template: spec.Template, Created: spec.Created, Details: map[string]string{
		"isolation": "none", "folder": m.dir(), "mark": markVar + "=" + spec.Mark,
	}}
	if err := readRecord(m.path(ownerFile), &info.Owner); err != nil {
		return vm.Info{}, m.gone(err)
	}
	st, err := m.status()
	if err != nil {
		return vm.Info{}, m.gone(err)
	}
	info.State = st.state
	if st.run.Keeper.PID != 0 && st.end == nil {
		info.Details["keeper"] = strconv.Itoa(st.run.Keeper.PID)
		info.Details["agent"] = strconv.Itoa(st.run.Agent.PID)
		info.Details["harness"] = strconv.Itoa(st.run.Harness)
	}
	if st.end != nil {
		end := vm.End{Kind: st.end.Kind, Detail: st.end.Detail}
		if end.Console, err = consoleTail(spec.Console, vm.ConsoleTail); err != nil {
			return vm.Info{}, m.gone(err)
		}
		info.End = &end
	}
	return info, nil
}

// gone turns the error of a read into vm.ErrNotFound when the machine was
// removed under it.
func (m *machine) gone(err error) error {
	if _, serr := m.spec(); errors.Is(serr, vm.ErrNotFound) {
		return serr
	}
	return err
}

// status is what the records and the keeper say of the last run.
type status struct {
	state vm.State
	run   runRecord  // zero: it never ran, or not since the computer's start
	end   *endRecord // nil: it runs or never ran
	// abroad: it runs in another PID namespace, and cannot be reached from here.
	abroad bool
}

func (m *machine) status() (status, error) {
	var st status
	m.d.mu.Lock()
	starting, own := m.d.starts[m.id], m.d.runs[m.id] != nil
	m.d.mu.Unlock()
	err := readRecord(m.path(runFile), &st.run)
	if errors.Is(err, fs.ErrNotExist) {
		if st.state = vm.StateDefined; starting {
			st.state = vm.StateStarting
		}
		return st, nil
	}
	if err != nil {
		return st, err
	}
	hostRun, pids, err := where()
	if err != nil {
		return st, err
	}
	// The keeper writes the end before it lets the lock go: look in the other
	// order.
	alive, err := keeperAlive(m.dir())
	if err != nil {
		return st, err
	}
	st.abroad = alive && st.run.PIDs != pids
	switch {
	case starting, alive && !st.abroad && st.run.Agent.PID == 0:
		st.state = vm.StateStarting
		return st, nil
	case st.abroad:
		st.state = vm.StateRunning
		return st, nil
	case alive:
		st.state = vm.StateRunning
		p, err := lookup(st.run.Agent.PID)
		if err == nil && p.procID == st.run.Agent && p.halted() {
			st.state = vm.StatePaused
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // it just ended: the keeper will say so
		}
		return st, err
	}
	st.end, err = m.readEnd(st.run.Boot)
	if err != nil {
		return st, err
	}
	if st.end == nil && own {
		st.state = vm.StateRunning // its end is being looked into: see run.supervise
		return st, nil
	}
	if st.end == nil {
		st.end = &endRecord{Boot: st.run.Boot, Kind: vm.EndCrashed, Detail: "its keeper is gone without a word: it was killed together with its harness"}
		if st.run.HostRun != hostRun {
			st.end.Detail = "the computer was restarted"
		}
	}
	if st.run.HostRun != hostRun || st.run.PIDs != pids {
		st.run = runRecord{} // its process ids mean nothing here and now
	}
	if st.state = vm.StateStopped; st.end.Kind == vm.EndCrashed {
		st.state = vm.StateCrashed
	}
	return st, nil
}

// readEnd gives the end of that run, nil when there is none yet.
func (m *machine) readEnd(boot string) (*endRecord, error) {
	var e endRecord
	err := readRecord(m.path(endFile), &e)
	if errors.Is(err, fs.ErrNotExist) || err == nil && e.Boot != boot {
		return nil, nil
	}
	return &e, err
}

// keeperAlive asks the lock that a keeper holds as long as it lives: unlike a
// process id it cannot be somebody else's.
func keeperAlive(dir string) (bool, error) {
	l, err := flock.Try(filepath.Join(dir, runLock), os.O_RDWR, syscall.LOCK_SH)
	switch {
	case errors.Is(err, flock.ErrLocked):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, l.Unlock()
}

// operate begins an operation that changes the machine's state: one at a time,
// among all processes. With wait it waits for the one in progress, else that
// is vm.ErrState.
func (m *machine) operate(ctx context.Context, what string, wait bool) (specRecord, func() error, error) {
	path := m.path(opLock)
	lock, err := flock.Try(path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) && wait {
		lock, err = flock.Wait(ctx, path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
		if errors.Is(err, flock.ErrLocked) {
			err = fmt.Errorf("waited for %s: %w", flock.ReadNote(path), err)
		}
	}
	if err != nil {
		if errors.Is(err, flock.ErrLocked) && !wait {
			err = fmt.Errorf("%w: %s is in progress", vm.ErrState, flock.ReadNote(path))
		}
		return specRecord{}, nil, m.gone(err)
	}
	// Only now: whoever had the lock before may have destroyed the machine.
	spec, err := m.spec()
	if err == nil {
		err = lock.Note(what)
	}
	if err != nil {
		return spec, nil, errors.Join(err, lock.Unlock())
	}
	return spec, lock.Unlock, nil
}
