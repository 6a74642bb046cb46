package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/calls"
)

// run is one run of a machine that this driver started or took over.
type run struct {
	m          *machine
	id         vm.ID
	spec       specRecord
	rec        runRecord
	channel    *vm.Channel // nil: the hypervisor has no guests
	lock       *flock.Lock // of the channel
	supervised bool
	why        atomic.Pointer[string] // of a kill through this driver
	once       sync.Once
	left       chan struct{} // closed by leave
	done       chan struct{} // closed when all is over and recorded
}

// lastWords bounds the wait for the channel's bytes, when the machine is off.
const lastWords = 5 * time.Second

// trimEvery is how often a console is looked at for being too long.
const trimEvery = 2 * time.Second

func newRun(m *machine, spec specRecord, rec runRecord) *run {
	return &run{m: m, id: m.id, spec: spec, rec: rec, left: make(chan struct{}), done: make(chan struct{})}
}

// attach connects to a machine that runs, and supervises it from then on.
func (r *run) attach(ctx context.Context) error {
	d := r.m.d
	if d.target.guests() {
		var err error
		if r.channel, r.lock, err = r.m.connect(ctx, r.spec, r.rec); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.runs[r.id] = r
	d.calls.Keep() // inside a call's own, so Close is not past its wait
	d.mu.Unlock()
	r.supervised = true
	go r.supervise()
	return nil
}

const driverClosed = "the driver was closed"

// retake attaches to a machine that runs on. Close, which may have looked for runs
// before this one was there, does to it what it does to all.
func (r *run) retake(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.m.d.calls.Context(), func() { cancel(calls.ErrClosing) })()
	err := r.attach(ctx)
	if err == nil && r.m.d.calls.Closing() {
		err = errors.Join(calls.ErrClosing, r.part())
	}
	return err
}

// part ends a machine that is not to survive its driver, and gives up others.
func (r *run) part() error {
	if r.spec.OnExit == vm.Survive {
		r.leave()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.m.d.conf.KillTimeout)
	defer cancel()
	r.killNow(ctx, driverClosed)
	err := r.kill(ctx, driverClosed)
	if err != nil {
		r.leave()
		err = r.m.d.fail(vm.OpClose, r.id, err)
	}
	return err
}

// leave gives the machine up without ending it.
func (r *run) leave() { r.once.Do(func() { close(r.left) }) }

// supervise waits for the machine's end, records it, and only then gives up the
// channel.
func (r *run) supervise() {
	d := r.m.d
	defer d.calls.Done()
	if end := r.watch(); end != nil {
		if why := r.why.Load(); why != nil && (end.Kind == vm.EndKilled || end.Kind == vm.EndUnknown || end.Detail == qemuDied) {
			end.Kind, end.Detail = vm.EndKilled, *why
		}
		if err := r.m.writeEnd(r.rec.Boot, *end); err != nil {
			d.log.Warn("a machine's end could not be recorded", "machine", r.id, "err", err)
		}
		// A word that the guest sent just before its end is still on its way.
		if r.channel != nil {
			t := time.NewTimer(lastWords)
			select {
			case <-r.channel.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}
	var errs []error
	if r.channel != nil {
		errs = append(errs, r.channel.Close(), r.lock.Unlock())
	}
	if err := errors.Join(errs...); err != nil {
		d.log.Debug("close", "machine", r.id, "err", err)
	}
	d.mu.Lock()
	if d.runs[r.id] == r {
		delete(d.runs, r.id)
	}
	d.mu.Unlock()
	close(r.done)
}

// watch waits until the machine does not run. It gives nil when it is told to
// leave, or when the machine vanished.
func (r *run) watch() *vm.End {
	d := r.m.d
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		select {
		case <-r.left:
			cancel()
		case <-ctx.Done():
		}
	})
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for {
		next := d.hub.next(string(r.id))
		got, err := d.lookDomain(ctx, string(r.id))
		switch {
		case ctx.Err() != nil:
			return nil
		case hasCode(err, codeNoDomain):
			return &vm.End{Kind: vm.EndKilled, Detail: "its domain is gone"}
		case errors.Is(err, vm.ErrClosed):
			return nil
		case err != nil:
			// The connection: there will be another.
			if sleep(ctx, d.conf.Poll) != nil {
				return nil
			}
			continue
		case !active(got.state):
			end, err := d.endOf(ctx, got, d.dir(r.id), nil)
			if err != nil {
				end = vm.End{Detail: err.Error()}
			}
			return &end
		}
		poll := time.NewTimer(d.conf.Poll)
		select {
		case <-next:
		case <-poll.C:
		case <-trim.C:
		case <-ctx.Done():
		}
		poll.Stop()
		if err := trimConsole(r.spec.Console, d.conf.Console); err != nil {
			d.log.Debug("the console cannot be trimmed", "machine", r.id, "err", err)
		}
	}
}

// over waits until the run is over and recorded.
func (r *run) over(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("its end is not recorded yet: %w", context.Cause(ctx))
	}
}

// kill ends the run and waits until it is over.
func (r *run) kill(ctx context.Context, why string) error {
	r.why.CompareAndSwap(nil, &why)
	if err := r.m.d.killDomain(ctx, string(r.id)); err != nil {
		return err
	}
	return r.over(ctx)
}

// killNow ends QEMU behind libvirt's back, and reports whether it saw it end.
func (r *run) killNow(ctx context.Context, why string) bool {
	r.why.CompareAndSwap(nil, &why)
	if r.m.d.killNow(ctx, r.spec.UUID) {
		return true
	}
	r.why.CompareAndSwap(&why, nil)
	return false
}
