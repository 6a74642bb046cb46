package dialin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// watch keeps a worker's connection alive until it ends. told is closed when others
// know that it is up.
func (d *Driver) watch(w *worker, l *line, told <-chan struct{}) {
	defer close(l.over)
	why := d.attend(w, l)
	_ = l.channel.Close()
	<-told
	d.mu.Lock()
	w.line, w.last = nil, fmt.Errorf("%s: %w", time.Now().Format(time.RFC3339), why)
	d.mu.Unlock()
	if !errors.Is(why, vm.ErrClosed) {
		d.c.Logger.Warn("dialin: a worker's connection ended", "worker", w.Name, "from", l.from, "why", why)
	}
	if d.c.Changed != nil {
		d.c.Changed(w.Name, false, why)
	}
}

// attend answers why the connection is over.
func (d *Driver) attend(w *worker, l *line) error {
	var tick <-chan time.Time
	if w.Keepalive > 0 {
		ticker := time.NewTicker(w.Keepalive)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-l.channel.Done():
			return l.channel.Err()
		case <-d.closed.Done():
			return vm.ErrClosed
		case <-tick:
			ctx, cancel := context.WithTimeoutCause(d.closed, d.c.PingTimeout, fmt.Errorf("no answer within %v", d.c.PingTimeout))
			_, err := l.channel.Ping(ctx)
			cause := context.Cause(ctx)
			cancel()
			switch {
			case d.closed.Err() != nil:
				return vm.ErrClosed
			case err != nil && cause != nil:
				return fmt.Errorf("keepalive: %w", cause)
			case err != nil:
				return fmt.Errorf("keepalive: %w", err)
			}
		}
	}
}
