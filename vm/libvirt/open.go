//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	lv "libvirt.org/go/libvirt"
)

// Open connects to the hypervisor, makes Config.Root, and removes the folders
// that dead harnesses left without a domain. The context bounds the connecting
// only. The caller closes the driver.
func Open(ctx context.Context, c Config) (*Driver, error) {
	var late sync.WaitGroup
	d, err := open(ctx, c, func(ctx context.Context, uri string, sink func(event), closed func(string)) (conn, error) {
		return connect(ctx, &late, uri, sink, closed)
	})
	if err != nil {
		return nil, err
	}
	d.line.linger = late.Wait
	return d, nil
}

// connect opens a connection. libvirt's call cannot be stopped: when the context
// ends first, what comes back late is closed, and late is done then.
func connect(ctx context.Context, late *sync.WaitGroup, uri string, sink func(event), closed func(string)) (conn, error) {
	quiet(uri)
	if err := events.acquire(); err != nil {
		return nil, err
	}
	type outcome struct {
		c   *connection
		err error
	}
	out := make(chan outcome)
	left := make(chan struct{})
	late.Go(func() {
		c, err := newConnection(uri, sink, closed)
		if err != nil {
			err = errors.Join(err, events.release())
		}
		select {
		case out <- outcome{c, err}:
		case <-left:
			if err == nil {
				_ = c.Close() // nobody is there to be told
			}
		}
	})
	select {
	case o := <-out:
		if o.err != nil {
			return nil, o.err
		}
		return o.c, nil
	case <-ctx.Done():
		close(left)
		return nil, context.Cause(ctx)
	}
}

// newConnection opens a connection and asks for its events.
func newConnection(uri string, sink func(event), closed func(string)) (*connection, error) {
	t, err := parseURI(uri)
	if err != nil {
		return nil, err
	}
	if t.kind == kindEmbed {
		raw, err := events.embed(uri)
		if err != nil {
			return nil, err
		}
		return &connection{raw: raw, shared: true, events: events.sinks.add(sink)}, nil
	}
	if err := events.reaches(t); err != nil {
		return nil, err
	}
	raw, err := lv.NewConnect(uri)
	if err != nil {
		return nil, wrap(err, false)
	}
	c := &connection{raw: raw}
	if c.events, err = listen(raw, sink); err != nil {
		_, cerr := raw.Close()
		return nil, errors.Join(err, cerr)
	}
	// A driver inside this process has no close callback.
	err = raw.RegisterCloseCallback(func(_ *lv.Connect, reason lv.ConnectCloseReason) {
		if reason != lv.CONNECT_CLOSE_REASON_CLIENT {
			closed(closeReason(reason))
		}
	})
	c.watched = err == nil
	// A daemon that does not answer for this long is lost, so that calls end.
	// Not possible, and not needed, inside this process.
	_ = raw.SetKeepAlive(keepAliveSeconds, keepAliveCount)
	return c, nil
}

const (
	keepAliveSeconds = 5
	keepAliveCount   = 4
)

func closeReason(r lv.ConnectCloseReason) string {
	switch r {
	case lv.CONNECT_CLOSE_REASON_EOF:
		return "libvirtd closed the connection or ended"
	case lv.CONNECT_CLOSE_REASON_KEEPALIVE:
		return "libvirtd does not answer"
	}
	return "the connection failed"
}

// quiet has an embedded driver's warnings written to its root in place of the
// harness's standard error. libvirt reads the variable once, at its first use.
func quiet(uri string) {
	const variable = "LIBVIRT_LOG_OUTPUTS"
	t, err := parseURI(uri)
	if err != nil || t.kind != kindEmbed || os.Getenv(variable) != "" {
		return
	}
	dir := filepath.Join(t.root, "log")
	if os.MkdirAll(dir, 0o755) == nil {
		_ = os.Setenv(variable, "3:file:"+filepath.Join(dir, "libvirt.log")) // or it is louder
	}
}
