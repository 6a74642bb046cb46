package dialin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Driver is the list of workers and their connections. Use Open; it is safe for
// concurrent use. Whoever opened it closes it.
type Driver struct {
	c      Config
	began  time.Time
	door   chan struct{} // one place for each connection on its way in
	closed context.Context
	close  context.CancelFunc
	work   sync.WaitGroup

	mu sync.Mutex
	// mu protects the following fields, and those of the workers.
	closing bool
	workers map[string]*worker
	order   []*worker
	refused int64
}

// worker is one that may connect.
type worker struct {
	Worker
	entering bool  // somebody is let in as it
	line     *line // nil: it is not connected
	last     error // why it is not
	refused  int64
}

// line is one connection of a worker that was let in.
type line struct {
	channel *vm.Channel
	from    string
	since   time.Time
	over    chan struct{} // closed when it is gone and all were told
}

// Open makes a driver for the workers. It does no I/O: connections are given to
// Serve and Admit.
func Open(c Config) (*Driver, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	d := &Driver{c: c, began: time.Now(), door: make(chan struct{}, c.MostPending), workers: map[string]*worker{}}
	d.closed, d.close = context.WithCancel(context.Background())
	for _, w := range c.Workers {
		d.workers[w.Name] = &worker{Worker: w}
		d.order = append(d.order, d.workers[w.Name])
	}
	return d, nil
}

func (d *Driver) fail(op string, id vm.ID, err error) error {
	return &vm.OpError{Op: op, Driver: d.c.Name, ID: id, Err: err}
}

// HostID is Config.Name.
func (d *Driver) HostID() string { return d.c.Name }

// Create answers errors.ErrUnsupported: workers are started by hand.
func (d *Driver) Create(_ context.Context, s vm.Spec) (vm.Machine, error) {
	return nil, d.fail(vm.OpCreate, vm.ID(s.Name), fmt.Errorf("workers that dial in are started by hand: %w", errors.ErrUnsupported))
}

// Open gives a worker, whether it is connected or not.
func (d *Driver) Open(ctx context.Context, id vm.ID) (vm.Machine, error) {
	if err := d.check(ctx, vm.OpOpen, id); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.workers[string(id)]
	if w == nil {
		return nil, d.fail(vm.OpOpen, id, vm.ErrNotFound)
	}
	return &machine{driver: d, worker: w}, nil
}

// List gives all workers in the order of Config.Workers, connected or not.
func (d *Driver) List(ctx context.Context) ([]vm.Info, error) {
	if err := d.check(ctx, vm.OpList, ""); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]vm.Info, len(d.order))
	for i, w := range d.order {
		all[i] = d.info(w)
	}
	return all, nil
}

// Refused is how many connections were refused, for whatever reason.
func (d *Driver) Refused() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// Close ends all connections and waits for the driver's goroutines. Workers go on
// and may dial again.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	d.close()
	d.work.Wait()
	return nil
}

func (d *Driver) check(ctx context.Context, op string, id vm.ID) error {
	if d.closed.Err() != nil {
		return d.fail(op, id, vm.ErrClosed)
	}
	if ctx.Err() != nil {
		return d.fail(op, id, context.Cause(ctx))
	}
	return nil
}

// begin starts a goroutine that Close waits for; false: the driver is closing.
func (d *Driver) begin(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return false
	}
	d.work.Go(f)
	return true
}
