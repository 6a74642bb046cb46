package calls

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/bullpen-vm/bullpen/vm"
)

// ErrClosing is the cause of contexts that Close ended.
var ErrClosing = fmt.Errorf("the driver was closed meanwhile: %w", vm.ErrClosed)

// Gate lets calls in until it is closed. New makes it; it is safe for concurrent
// use.
type Gate struct {
	context context.Context // ends when Close begins
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // calls and what they left; added to under mu while not closed, or inside a call
	done   chan struct{}  // closed when Close is through
	err    error          // of Close
}

// New makes a gate that is open.
func New() *Gate {
	g := &Gate{done: make(chan struct{})}
	g.context, g.cancel = context.WithCancel(context.Background())
	return g
}

// Enter enters a call: the context it gives ends with Close too. Each call has to
// leave by the function it was given. vm.ErrClosed after Close.
func (g *Gate) Enter(ctx context.Context) (context.Context, func(), error) {
	if err := context.Cause(ctx); err != nil {
		return ctx, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ctx, nil, vm.ErrClosed
	}
	g.work.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.context, func() { cancel(ErrClosing) })
	return ctx, func() {
		stop()
		cancel(nil)
		g.work.Done()
	}, nil
}

// Keep has Close wait for work that outlives its call, in which Keep is called,
// until Done.
func (g *Gate) Keep() { g.work.Add(1) }

// Done ends what Keep began.
func (g *Gate) Done() { g.work.Done() }

// Context ends when Close begins.
func (g *Gate) Context() context.Context { return g.context }

// Closing reports whether Close has begun. Who has made something known first and
// asks then either sees it, or Close's function sees what was made.
func (g *Gate) Closing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// Close lets nobody in any more, ends the contexts of calls, and does first, waits
// for all calls and what they left, and does last. Whoever closes again waits for
// that and gets the same answer.
func (g *Gate) Close(first, last func() error) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		<-g.done
		return g.err
	}
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	defer close(g.done)
	err := first()
	g.work.Wait()
	g.err = errors.Join(err, last())
	return g.err
}
