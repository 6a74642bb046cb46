package dialin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

// helloBytes bounds what a stranger may say: the longest frame and as much noise.
const helloBytes = 2 * (wire.HeaderSize + wire.MaxBody)

// Serve lets workers in that connect to the listener, which it closes, until ctx
// ends (nil), the driver is closed (vm.ErrClosed) or the listener fails. Workers
// that are in stay until the driver is closed.
func (d *Driver) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	stopClosed := context.AfterFunc(d.closed, func() { _ = l.Close() })
	defer stopClosed()
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil //nolint:nilerr // that is how it was told to end
		case d.closed.Err() != nil:
			return d.fail("serve", "", vm.ErrClosed)
		default:
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			return d.fail("serve", "", err)
		}
		from := conn.RemoteAddr().String()
		if !d.begin(func() { _ = d.Admit(ctx, conn, from) }) { // the refusal is logged
			_ = conn.Close()
		}
	}
}

// Admit lets a worker in that is at the other end of conn, which it takes over in
// any case, or says why it is refused (vm.ErrRefused). It returns when the worker is
// ready; from says where the connection comes from, for people.
func (d *Driver) Admit(ctx context.Context, conn io.ReadWriteCloser, from string) error {
	select {
	case d.door <- struct{}{}:
		defer func() { <-d.door }()
	default:
		_ = conn.Close()
		return d.refuse(nil, "", from, fmt.Sprintf("%d connections are on their way in already", cap(d.door)))
	}
	ctx, cancel := context.WithTimeout(ctx, d.c.HelloTimeout)
	defer cancel()
	// A connection has no deadline that all kinds have: it is closed instead.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	stopClosed := context.AfterFunc(d.closed, func() { _ = conn.Close() })
	defer stopClosed()

	hello, said, why := d.listen(conn)
	if why != "" {
		_ = conn.Close()
		return d.refuse(nil, hello.Incarnation, from, why)
	}
	d.mu.Lock()
	w := d.workers[hello.Incarnation]
	d.mu.Unlock()
	// An unknown name is compared too, and sums have one length: the time tells
	// neither names nor lengths.
	var want [sha256.Size]byte
	if w != nil {
		want = sha256.Sum256([]byte(w.Secret.Reveal()))
	}
	got := sha256.Sum256([]byte(hello.Secret))
	switch right := subtle.ConstantTimeCompare(want[:], got[:]) == 1; {
	case w == nil:
		return turnAway(conn, "unknown name or wrong secret", d.refuse(nil, hello.Incarnation, from, "no worker has this name"))
	case !right:
		return turnAway(conn, "unknown name or wrong secret", d.refuse(w, w.Name, from, "the secret is wrong"))
	}
	old, ok := d.enter(w)
	if !ok {
		return turnAway(conn, "a connection of this name is on its way in already",
			d.refuse(w, w.Name, from, "another connection of this name is on its way in"))
	}
	defer d.entered(w)
	if old != nil {
		if d.answers(old) {
			return turnAway(conn, "a worker of this name is connected and answers",
				d.refuse(w, w.Name, from, "a worker of this name is connected from "+old.from+" and answers"))
		}
		d.c.Logger.Warn("dialin: the worker's connection does not answer and is replaced", "worker", w.Name, "was", old.from, "from", from)
		_ = old.channel.Close()
		<-old.over
	}
	return d.seat(ctx, w, said, conn, from, func() bool { return stop() && stopClosed() })
}

// listen takes the first word of a connection, and keeps what it read.
func (d *Driver) listen(conn io.Reader) (hello wire.Hello, said *bytes.Buffer, why string) {
	said = new(bytes.Buffer)
	frame, err := wire.NewReader(io.TeeReader(io.LimitReader(conn, helloBytes), said)).Next()
	switch {
	case err != nil:
		return hello, nil, fmt.Sprintf("it said no hello in %d bytes: %v", said.Len(), err)
	case frame.Stream != 0 || frame.Kind != wire.KindHello:
		return hello, nil, "its first word is no hello"
	}
	if err := wire.Decode(frame.Kind, frame.Body, &hello); err != nil {
		return hello, nil, "its hello cannot be read"
	}
	return hello, said, ""
}

// enter takes the worker's place at the door and tells who is in.
func (d *Driver) enter(w *worker) (old *line, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.entering {
		return nil, false
	}
	w.entering = true
	return w.line, true
}

func (d *Driver) entered(w *worker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.entering = false
}

func (d *Driver) answers(l *line) bool {
	ctx, cancel := context.WithTimeout(d.closed, d.c.PingTimeout)
	defer cancel()
	_, err := l.channel.Ping(ctx)
	return err == nil
}

// seat makes the channel, which hears the hello once more, and watches it. keep ends
// the bound on the connection; it answers whether it was in time.
func (d *Driver) seat(ctx context.Context, w *worker, said io.Reader, conn io.ReadWriteCloser, from string, keep func() bool) error {
	sum := sha256.Sum256([]byte(d.c.Name + "/" + w.Name))
	channel := vm.NewChannel(replayed{io.MultiReader(said, conn), conn}, vm.ChannelConfig{
		Driver: d.c.Name, Machine: vm.ID(w.Name), HostName: w.Name, MachineID: hex.EncodeToString(sum[:16]),
		Incarnation: w.Name, Secret: w.Secret, Properties: w.Properties, Keepalive: max(3*w.Keepalive, 0), Logger: d.c.Logger,
	})
	_, err := channel.Ready(ctx)
	if err == nil && !keep() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		_ = channel.Close()
		return d.refuse(w, w.Name, from, "it did not become ready: "+err.Error())
	}
	l := &line{channel: channel, from: from, since: time.Now(), over: make(chan struct{})}
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		_ = channel.Close()
		return d.fail("admit", vm.ID(w.Name), vm.ErrClosed)
	}
	w.line, w.last = l, nil
	told := make(chan struct{})
	d.work.Go(func() { d.watch(w, l, told) })
	d.mu.Unlock()
	d.c.Logger.Info("dialin: a worker connected", "worker", w.Name, "from", from)
	if d.c.Changed != nil {
		d.c.Changed(w.Name, true, nil)
	}
	close(told)
	return nil
}

// replayed is a connection whose first words are heard again.
type replayed struct {
	io.Reader
	conn io.ReadWriteCloser
}

func (r replayed) Write(p []byte) (int, error) { return r.conn.Write(p) }
func (r replayed) Close() error                { return r.conn.Close() }

// refuse counts and logs a refusal. What was said as the secret is not told.
func (d *Driver) refuse(w *worker, name, from, why string) error {
	d.mu.Lock()
	d.refused++
	n := d.refused
	if w != nil {
		w.refused++
	}
	d.mu.Unlock()
	if len(name) > 100 {
		name = name[:100] + "..."
	}
	d.c.Logger.Warn("dialin: a connection is refused", "worker", name, "from", from, "why", why, "refused", n)
	return d.fail("admit", vm.ID(name), fmt.Errorf("%w: %s", vm.ErrRefused, why))
}

// turnAway tells the one at the other end that it is refused, and waits until it
// has hung up: bytes of it that nobody read would take the refusal back on TCP.
func turnAway(conn io.ReadWriteCloser, told string, why error) error {
	defer conn.Close()
	b, err := wire.Append(nil, wire.Frame{Kind: wire.KindRefused, Body: wire.Encode(wire.Fault{Error: told})})
	if err == nil {
		_, err = conn.Write(b)
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, helloBytes)) // bounded in time by Admit
	}
	return why
}
