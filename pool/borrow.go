package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
)

// OpenHandle opens a guest that another process lends by Guest.Handle. It is
// used like one that was acquired, for commands, copies and jobs (pool/runner),
// snapshots and screenshots where its machine has them; Hold, Detach, saving and
// ownership are its lender's. Its Context ends when
// the lender ends or has lost or released the guest; calls fail then with
// ErrLenderGone, ErrReleased or the lease's error.
//
// Release gives the handle back, not the guest: that stays its lender's, which
// is told when the reason says that the machine is broken, and destroys it
// then at its own Release. ErrHandle when the text is no handle, ErrReleased
// when its guest was released, ErrLenderGone when nobody answers.
func OpenHandle(ctx context.Context, text string) (*Guest, error) {
	fail := func(err error) (*Guest, error) { return nil, &OpError{Op: "open handle", Err: err} }
	h, err := parseHandle(text)
	if err != nil {
		return fail(err)
	}
	l := &borrowed{handle: h, text: text, conns: map[net.Conn]struct{}{}, done: make(chan struct{})}
	var a answer
	conn, _, err := l.ask(ctx, request{Op: askAttach}, &a)
	if err == nil && a.Facts == nil {
		l.drop(conn)
		err = fmt.Errorf("%w: the answer says nothing of the guest", loan.ErrFormat)
	}
	if err != nil {
		return fail(err)
	}
	f := a.Facts
	l.facts = *f
	g := &Guest{
		want: Want{Job: f.Job}, name: f.Name, token: h.Token, fence: l.check, properties: f.Properties,
		queued: f.Queued, boot: f.Boot, values: ctx, loan: l,
	}
	g.raw = &farMachine{l: l}
	l.attached = conn
	go func() {
		defer close(l.done)
		l.over(l.listen(conn))
		g.end(l.check())
	}()
	return g, nil
}

// borrowed is what a process has of a guest that another one lends it.
type borrowed struct {
	handle   handle
	text     string
	facts    facts
	attached net.Conn
	done     chan struct{} // closed when the attachment is over

	mu    sync.Mutex
	err   error // why it is over
	conns map[net.Conn]struct{}
	ch    *vm.Channel
}

// check is the fence of a borrowed guest, beside the lender's own.
func (l *borrowed) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// listen waits for the lender's last word on the guest.
func (l *borrowed) listen(conn net.Conn) error {
	defer l.drop(conn)
	var m move
	if _, err := loan.Read(conn, &m); err != nil {
		return fmt.Errorf("%w: %w", ErrLenderGone, err)
	}
	if err := m.Err.Err(codes); err != nil {
		return err
	}
	return ErrLenderGone
}

// over ends the loan, once, for a reason, and whatever goes on by it.
func (l *borrowed) over(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	conns := l.conns
	l.conns = nil
	ch := l.ch
	l.ch = nil
	l.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
	if ch != nil {
		_ = ch.Close()
	}
}

// giveBack is Release: the lender is told the reason, and nothing goes on.
func (l *borrowed) giveBack(reason error) error {
	lost := l.check()
	if lost == nil && IsBroken(reason) {
		_ = l.attached.SetWriteDeadline(time.Now().Add(time.Second))
		_ = loan.Write(l.attached, move{Reason: reason.Error(), Broken: true}, nil)
	}
	l.over(ErrReleased)
	<-l.done
	if lost != nil && !errors.Is(lost, ErrReleased) {
		return lost
	}
	return nil
}

// dial connects to the lender. The connection is the caller's to drop.
func (l *borrowed) dial(ctx context.Context) (net.Conn, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", l.handle.Socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
	}
	l.mu.Lock()
	lost := l.err
	if lost == nil {
		l.conns[conn] = struct{}{}
	}
	l.mu.Unlock()
	if lost != nil {
		_ = conn.Close()
		return nil, lost
	}
	return conn, nil
}

// ask asks the lender for something and takes the answer; a nil: there is none to
// wait for. The connection is the caller's to drop; it is nil with an error.
func (l *borrowed) ask(ctx context.Context, r request, a *answer) (net.Conn, []byte, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.Version, r.Key, r.Token, r.Secret = handleVersion, l.handle.Key, l.handle.Token, l.handle.Secret
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var payload []byte
	err = loan.Write(conn, r, nil)
	if err == nil && a != nil {
		payload, err = loan.Read(conn, a)
	}
	stopped := stop()
	switch {
	case err == nil && a != nil && a.Err != nil:
		err = a.Err.Err(codes)
	case err == nil && !stopped:
		err = context.Cause(ctx)
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
	}
	if err != nil {
		l.drop(conn)
		return nil, nil, err
	}
	return conn, payload, nil
}

// why is why the loan is over where that is known, else err.
func (l *borrowed) why(err error) error {
	if over := l.check(); over != nil {
		return over
	}
	return err
}

// confirm adds to an error what the lender says of the guest: a connection may
// break before the word arrives that the guest is not held any more.
func (l *borrowed) confirm(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), firstWord)
	defer cancel()
	var a answer
	conn, _, lost := l.ask(ctx, request{Op: askCheck}, &a)
	if lost == nil {
		l.drop(conn)
		return err
	}
	if errors.Is(err, lost) {
		return err
	}
	return fmt.Errorf("%w: %w", lost, err)
}

func (l *borrowed) drop(conn net.Conn) {
	_ = conn.Close()
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
}

// farLink is the connection of a relayed channel.
type farLink struct {
	net.Conn
	l *borrowed
}

func (f *farLink) Close() error {
	f.l.drop(f.Conn)
	return nil
}

var _ io.ReadWriteCloser = (*farLink)(nil)
