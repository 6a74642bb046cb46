package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// line keeps one connection to the hypervisor, and makes it anew when it was
// lost: a connection that libvirtd dropped never works again.
type line struct {
	uri  string
	dial dial
	hub  *hub
	log  *slog.Logger
	wait time.Duration // how long use waits for a new connection

	context context.Context // ends with close
	cancel  context.CancelFunc
	work    sync.WaitGroup // the goroutine that connects
	// linger waits for attempts to connect that were given up; may be nil.
	linger func()

	mu      sync.Mutex
	present conn          // nil while there is none
	number  int           // of the connection: how many there were
	changed chan struct{} // closed when there is a connection again
	asked   chan struct{} // somebody waits: reconnect shortens its pause
	why     error         // of the loss
	using   sync.WaitGroup
}

// The pauses between attempts to connect.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

func newLine(uri string, dial dial, hub *hub, wait time.Duration, log *slog.Logger) *line {
	l := &line{uri: uri, dial: dial, hub: hub, wait: wait, log: log, changed: make(chan struct{}), asked: make(chan struct{}, 1)}
	l.context, l.cancel = context.WithCancel(context.Background())
	return l
}

// open makes the first connection.
func (l *line) open(ctx context.Context) error {
	c, err := l.connect(ctx, 1)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.present, l.number = c, 1
	return nil
}

func (l *line) connect(ctx context.Context, number int) (conn, error) {
	return l.dial(ctx, l.uri, l.hub.put, func(reason string) { l.lost(number, errors.New(reason)) })
}

// use calls f with a connection. Where that was lost meanwhile, f is called
// again with the next if again says so.
func (l *line) use(ctx context.Context, again bool, f func(conn) error) error {
	for {
		c, number, err := l.take(ctx)
		if err != nil {
			return err
		}
		err = f(c)
		l.using.Done()
		if !isLost(err) {
			return err
		}
		l.lost(number, err)
		if !again {
			return err
		}
	}
}

// take waits for a connection. The caller says using.Done when it is through.
func (l *line) take(ctx context.Context) (conn, int, error) {
	began := time.Now()
	t := time.NewTimer(l.wait)
	defer t.Stop()
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, 0, err
		}
		l.mu.Lock()
		if l.context.Err() != nil {
			l.mu.Unlock()
			return nil, 0, vm.ErrClosed
		}
		if l.present != nil {
			l.using.Add(1)
			c, n := l.present, l.number
			l.mu.Unlock()
			return c, n, nil
		}
		changed, why := l.changed, l.why
		l.mu.Unlock()
		select {
		case l.asked <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.context.Done():
		case <-t.C:
			return nil, 0, fmt.Errorf("%w: no connection to %s for %v: %w", vm.ErrHostLost, l.uri, time.Since(began).Round(time.Millisecond), why)
		}
	}
}

// lost notes that a connection does not work any more, and has another made.
func (l *line) lost(number int, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number != l.number || l.present == nil || l.context.Err() != nil {
		return // known already
	}
	old := l.present
	l.present, l.why = nil, why
	l.log.Warn("the connection to the hypervisor was lost", "uri", l.uri, "err", why)
	l.work.Go(func() { l.reconnect(old) })
}

// reconnect tries until it succeeds or the line is closed.
func (l *line) reconnect(old conn) {
	if err := old.Close(); err != nil {
		l.log.Debug("close of a lost connection", "err", err)
	}
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		c, err := l.connect(l.context, l.number+1) // nobody else changes it now
		l.mu.Lock()
		switch {
		case err != nil:
			l.why = err
			l.mu.Unlock()
		case l.context.Err() != nil:
			l.mu.Unlock()
			if err := c.Close(); err != nil {
				l.log.Debug("close", "err", err)
			}
			return
		default:
			l.present, l.number = c, l.number+1
			close(l.changed)
			l.changed = make(chan struct{})
			l.mu.Unlock()
			l.log.Info("connected to the hypervisor again", "uri", l.uri, "after", time.Since(began).Round(time.Millisecond))
			l.hub.wakeAll()
			return
		}
		select {
		case <-l.asked:
			// Who has begun to wait now must not wait out a pause that grew
			// while nobody did.
			pause = firstPause
		default:
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-l.asked:
			pause = firstPause
			if sleep(l.context, firstPause) != nil {
				t.Stop()
				return
			}
		case <-l.context.Done():
		}
		if t.Stop(); l.context.Err() != nil {
			return
		}
	}
}

// stop has use answer vm.ErrClosed from now on.
func (l *line) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
}

// close releases the connection, when all calls have ended.
func (l *line) close() error {
	l.stop()
	l.work.Wait()
	l.using.Wait()
	l.mu.Lock()
	c := l.present
	l.present = nil
	l.mu.Unlock()
	var err error
	if c != nil {
		err = c.Close()
	}
	if l.linger != nil {
		l.linger()
	}
	return err
}
