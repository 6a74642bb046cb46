package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// run is one run of a machine that this driver started.
type run struct {
	m       *machine
	id      vm.ID
	spec    specRecord
	boot    string
	config  keeperConfig
	command *exec.Cmd // the keeper
	control *os.File  // the keeper ends the machine when this is closed
	channel *vm.Channel
	why     atomic.Pointer[string] // of a kill through this driver
	done    chan struct{}          // closed when all is over and recorded
}

// How long the driver waits for what should follow at once.
const (
	lastWords      = 5 * time.Second // the channel's bytes, when the agent is gone
	keeperFarewell = 2 * time.Second // the keeper's own end, when all others are gone
)

// supervise waits for the keeper's end, makes sure that nobody is left and that
// the end is recorded, and only then gives up the channel.
func (r *run) supervise() {
	d := r.m.d
	defer d.calls.Done()
	werr := r.command.Wait()
	if err := r.bury(werr); err != nil {
		d.log.Warn("a machine's end could not be looked after", "machine", r.id, "err", err)
	}
	// A word that the agent sent just before its end is still in the socket.
	select {
	case <-r.channel.Done():
	case <-time.After(lastWords):
	}
	if err := errors.Join(r.channel.Close(), r.control.Close()); err != nil {
		d.log.Debug("close", "machine", r.id, "err", err)
	}
	d.mu.Lock()
	if d.runs[r.id] == r {
		delete(d.runs, r.id)
	}
	d.mu.Unlock()
	close(r.done)
}

// bury does what the keeper did not live to do.
func (r *run) bury(werr error) error {
	end, err := r.m.readEnd(r.boot)
	if err == nil && end == nil {
		var rec runRecord
		if err := readRecord(r.m.path(runFile), &rec); err != nil && !errors.Is(err, fs.ErrNotExist) || rec.Boot != r.boot {
			rec = runRecord{}
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.m.d.conf.KillTimeout)
		defer cancel()
		err = newHerd(r.spec.Mark, rec).end(ctx)
		end = &endRecord{Boot: r.boot, Kind: vm.EndCrashed, Detail: fmt.Sprintf("the keeper ended without a word: %v", werr), At: time.Now().UTC()}
		if st, ok := r.command.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() && (st.Signal() == syscall.SIGKILL || st.Signal() == syscall.SIGTERM) {
			end.Kind, end.Detail = vm.EndKilled, "the keeper was ended by signal "+st.Signal().String()
		}
		if rec.Boot == "" {
			return err // it never came to run: the machine is as it was
		}
		err = errors.Join(err, r.m.writeEnd(end))
	}
	if why := r.why.Load(); why != nil && end != nil && end.Kind == vm.EndKilled && err == nil {
		end.Detail = *why
		err = r.m.writeEnd(end)
	}
	return err
}

// writeEnd records an end, unless the machine is destroyed already.
func (m *machine) writeEnd(e *endRecord) error {
	err := writeRecord(m.path(endFile), e, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// kill ends the run and waits until it is over.
func (r *run) kill(ctx context.Context, why string) error {
	r.why.CompareAndSwap(nil, &why)
	var rec runRecord
	if err := readRecord(r.m.path(runFile), &rec); err != nil && !errors.Is(err, fs.ErrNotExist) || rec.Boot != r.boot {
		rec = runRecord{}
	}
	err := slaughter(ctx, r.spec.Mark, rec)
	if err == nil && rec.Keeper.PID == 0 {
		// It was too early to have a record; it is our child, so its id is its own.
		err = r.killKeeper()
	}
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("its processes are gone, its end is not recorded yet: %w", context.Cause(ctx))
	}
}

func (r *run) killKeeper() error {
	err := r.command.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// slaughter ends all processes of a machine. The keeper comes last, so that
// those who are orphaned meanwhile go to it and are found.
func slaughter(ctx context.Context, mark string, rec runRecord) error {
	h := newHerd(mark, rec)
	if rec.Keeper.PID != 0 {
		h.spare = rec.Keeper
		if err := h.end(ctx); err != nil {
			return err
		}
		if err := farewell(ctx, rec.Keeper); err != nil {
			return err
		}
		h.spare = procID{}
	}
	return h.end(ctx)
}

// farewell gives a keeper that has nobody left the time to record the end.
func farewell(ctx context.Context, keeper procID) error {
	ctx, cancel := context.WithTimeout(ctx, keeperFarewell)
	defer cancel()
	for {
		p, err := lookup(keeper.PID)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (p.procID != keeper || p.dead() || p.stopped()) {
			return nil
		}
		if err != nil {
			return err
		}
		if sleep(ctx, 2*time.Millisecond) != nil {
			return nil // it will be killed as all others
		}
	}
}
