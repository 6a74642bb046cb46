package pool

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
)

// lender serves guests to other processes. It begins with the first
// Guest.Handle.
type lender struct {
	mu       sync.Mutex
	listener net.Listener     // nil: none yet
	lent     map[string]*lent // by secret
	gone     []string         // secrets of guests that are over, the oldest first
}

// remembered is how many handles that are over a pool knows, to say so.
const remembered = 1024

// maxSocket is the longest path of a Unix socket that every system takes, in
// bytes, with its end.
const maxSocket = 104

// firstWord is how long a connection may take to say what it wants.
const firstWord = 10 * time.Second

// lent is one guest that others may use.
type lent struct {
	guest  *Guest
	key    string
	token  uint64
	secret string
}

// listen gives the pool's socket.
func (d *lender) listen(ctx context.Context, p *Pool) (net.Listener, error) {
	d.mu.Lock()
	old := d.listener
	d.mu.Unlock()
	if old != nil {
		return old, nil
	}
	lock := p.leases.LockPath()
	if lock == "" {
		return nil, errors.New("its lease manager has no run directory for the socket (lease.Config.NoLock is set)")
	}
	path := filepath.Join(filepath.Dir(lock), "p"+uuid.NewString()[:6])
	if len(path) >= maxSocket {
		return nil, fmt.Errorf("the path of the socket %s has %d bytes, want less than %d: set lease.Config.Dir to a shorter one", path, len(path), maxSocket)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// Nobody else gets at it before: the run directory is this user's alone.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// add makes a guest known and sees to it that the listener, or the one that
// another call made meanwhile, is served. It answers nil when the guest is not
// held any more.
func (d *lender) add(p *Pool, l net.Listener, n *lent) net.Listener {
	var surplus net.Listener
	defer func() { // after the locks
		if surplus != nil {
			_ = surplus.Close()
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	live := n.guest.unit.guest == n.guest && n.guest.unit.state == held
	if d.listener != l && (d.listener != nil || !live) {
		surplus = l
	}
	if !live {
		return nil
	}
	if d.listener == nil {
		d.listener, d.lent = l, map[string]*lent{}
		// The pool has a unit, so nobody waits for the group yet.
		stop := context.AfterFunc(p.hard, func() { _ = l.Close() })
		p.wg.Go(func() {
			defer stop()
			d.serve(p, l)
		})
	}
	if d.lent[n.secret] == nil {
		d.lent[n.secret] = n
		p.wg.Go(func() {
			<-n.guest.Context().Done()
			d.forget(n.secret)
		})
	}
	return d.listener
}

func (d *lender) forget(secret string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lent, secret)
	d.gone = append(d.gone, secret)
	if len(d.gone) > remembered {
		d.gone = d.gone[1:]
	}
}

// serve takes connections until the listener is closed, and waits for them.
func (d *lender) serve(p *Pool, l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	pause := time.Millisecond
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files
			p.config.Logger.Warn("pool: lending: accept", "pool", p.config.Name, "error", err)
			if !sleep(p.hard, pause) {
				return
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		all.Go(func() { d.handle(p, conn) })
	}
}

// find gives the guest that a request is about.
func (d *lender) find(r request) (*lent, error) {
	if r.Version != handleVersion {
		return nil, fmt.Errorf("%w: it is of version %d, want %d: both processes need the same Bullpen", ErrHandle, r.Version, handleVersion)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	same := func(secret string) bool {
		return subtle.ConstantTimeCompare([]byte(secret), []byte(r.Secret)) == 1
	}
	for _, n := range d.lent {
		if same(n.secret) && n.key == r.Key && n.token == r.Token {
			return n, nil
		}
	}
	for _, s := range d.gone {
		if same(s) {
			return nil, ErrReleased
		}
	}
	return nil, fmt.Errorf("%w: key, token or secret is wrong", ErrHandle)
}

// handle serves one connection to its end.
func (d *lender) handle(p *Pool, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(p.hard, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(firstWord))
	var r request
	if _, err := loan.Read(conn, &r); err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	n, err := d.find(r)
	if err != nil {
		p.config.Logger.Warn("pool: a handle was refused", "pool", p.config.Name, "key", clip(r.Key), "token", r.Token, "error", err)
		_ = loan.Write(conn, answer{Err: loan.Tell(err, codes)}, nil)
		return
	}
	s := &service{pool: p, lent: n, guest: n.guest, conn: conn}
	if err := s.do(r); err != nil {
		_ = conn.SetWriteDeadline(time.Now().Add(firstWord))
		_ = loan.Write(conn, answer{Err: loan.Tell(err, codes)}, nil)
	}
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// service is one connection of one borrower.
type service struct {
	pool  *Pool
	lent  *lent
	guest *Guest
	conn  net.Conn
}

// do does what the request asks for. An error is told to the borrower by the
// caller: it ends what could be told before it.
func (s *service) do(r request) error {
	g := s.guest
	if err := g.check(); err != nil {
		return err
	}
	switch r.Op {
	case askAttach:
		return s.attach()
	case askChannel:
		return s.channel(r)
	case askDisk:
		return s.disk(r)
	case askInsert:
		return s.insert(r)
	case askScreenshot:
		return s.screenshot()
	}
	// The borrower says nothing more: what can be read is its end.
	ctx, cancel := s.during()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = s.conn.Read(make([]byte, 1))
		cancel(errBorrower)
	}()
	a, payload, err := s.ask(ctx, r)
	if err == nil {
		_ = loan.Write(s.conn, a, payload)
	} else {
		err = because(ctx, err)
		_ = loan.Write(s.conn, answer{Err: loan.Tell(err, codes)}, nil)
	}
	_ = s.conn.Close()
	<-gone
	cancel(nil)
	return nil
}

// errBorrower: nobody waits for the answer any more.
var errBorrower = errors.New("the borrower of the guest is gone")

// during is a context of something that lasts no longer than the guest is held.
func (s *service) during() (context.Context, context.CancelCauseFunc) {
	return context.WithCancelCause(s.guest.Context())
}

// ask does one simple operation.
func (s *service) ask(ctx context.Context, r request) (a answer, payload []byte, err error) {
	m := s.guest.Machine()
	switch r.Op {
	case askCheck:
	case askInfo:
		var i vm.Info
		i, err = m.Info(ctx)
		a.Info = &i
	case askStart:
		err = m.Start(ctx)
	case askStop:
		err = m.Stop(ctx)
	case askKill:
		err = m.Kill(ctx)
	case askDestroy:
		err = m.Destroy(ctx)
	case askWait:
		err = with(m, func(c vm.Waiter) error {
			e, err := c.Wait(ctx)
			a.End = &e
			return err
		})
	case askConsole:
		err = with(m, func(c vm.Consoler) error {
			payload, err = c.Console(ctx, min(max(r.N, 0), loan.MaxPayload))
			return err
		})
	case askAddresses:
		err = with(m, func(c vm.Addresser) error {
			all, err := c.Addresses(ctx)
			for _, x := range all {
				a.Addresses = append(a.Addresses, x.String())
			}
			return err
		})
	case askEject:
		err = with(m, func(c vm.Attacher) error { return c.Eject(ctx, r.N) })
	case askSuspend:
		err = with(m, func(c vm.Suspender) error { return c.Suspend(ctx) })
	case askSnapshot:
		err = with(m, func(c vm.Snapshotter) error { return c.Snapshot(ctx, r.Name) })
	case askRevert:
		err = with(m, func(c vm.Snapshotter) error { return c.Revert(ctx, r.Name) })
	case askSnapshots:
		err = with(m, func(c vm.Snapshotter) error {
			a.Names, err = c.Snapshots(ctx)
			return err
		})
	case askDeleteSnapshot:
		err = with(m, func(c vm.Snapshotter) error { return c.DeleteSnapshot(ctx, r.Name) })
	case askResume:
		err = with(m, func(c vm.Suspender) error { return c.Resume(ctx) })
	default:
		err = fmt.Errorf("pool: lending: %q is not known: %w", clip(r.Op), errors.ErrUnsupported)
	}
	return a, payload, err
}

// with does something with a capability of a machine.
func with[T any](m vm.Machine, do func(T) error) error {
	c, ok := vm.As[T](m)
	if !ok {
		return fmt.Errorf("machine %s cannot: %w", m.ID(), errors.ErrUnsupported)
	}
	return do(c)
}
