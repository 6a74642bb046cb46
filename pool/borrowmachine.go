package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
)

var (
	_ vm.Machine       = (*farMachine)(nil)
	_ vm.Waiter        = (*farMachine)(nil)
	_ vm.Attacher      = (*farMachine)(nil)
	_ vm.Addresser     = (*farMachine)(nil)
	_ vm.Consoler      = (*farMachine)(nil)
	_ vm.Messenger     = (*farMachine)(nil)
	_ vm.Suspender     = (*farMachine)(nil)
	_ vm.Snapshotter   = (*farMachine)(nil)
	_ vm.Screenshotter = (*farMachine)(nil)
)

// farMachine is the machine of a borrowed guest. All is done by the lender, with
// its fence.
type farMachine struct{ l *borrowed }

// As answers for the capabilities that the lender's machine has.
func (m *farMachine) As(target any) bool {
	has := m.l.facts.Capabilities.Has
	switch t := target.(type) {
	case *vm.Machine:
		*t = m
		return true
	case *vm.Waiter:
		*t = m
		return has(vm.CanWait)
	case *vm.Attacher:
		*t = m
		return has(vm.CanAttach)
	case *vm.Addresser:
		*t = m
		return has(vm.CanAddress)
	case *vm.Consoler:
		*t = m
		return has(vm.CanConsole)
	case *vm.Messenger:
		*t = m
		return has(vm.CanMessage)
	case *vm.Suspender:
		*t = m
		return has(vm.CanSuspend)
	case *vm.Snapshotter:
		*t = m
		return has(vm.CanSnapshot)
	case *vm.Screenshotter:
		*t = m
		return has(vm.CanScreenshot)
	}
	return false
}

// once asks for something that is done with its answer.
func (m *farMachine) once(ctx context.Context, r request) (answer, []byte, error) {
	var a answer
	conn, payload, err := m.l.ask(ctx, r, &a)
	if err != nil {
		return answer{}, nil, err
	}
	m.l.drop(conn)
	return a, payload, nil
}

func (m *farMachine) do(ctx context.Context, op string) error {
	_, _, err := m.once(ctx, request{Op: op})
	return err
}

func (m *farMachine) ID() vm.ID { return vm.ID(m.l.facts.Name) }

func (m *farMachine) Start(ctx context.Context) error   { return m.do(ctx, askStart) }
func (m *farMachine) Stop(ctx context.Context) error    { return m.do(ctx, askStop) }
func (m *farMachine) Kill(ctx context.Context) error    { return m.do(ctx, askKill) }
func (m *farMachine) Destroy(ctx context.Context) error { return m.do(ctx, askDestroy) }
func (m *farMachine) Suspend(ctx context.Context) error { return m.do(ctx, askSuspend) }
func (m *farMachine) Resume(ctx context.Context) error  { return m.do(ctx, askResume) }

func (m *farMachine) Info(ctx context.Context) (vm.Info, error) {
	a, _, err := m.once(ctx, request{Op: askInfo})
	if err != nil || a.Info == nil {
		return vm.Info{}, err
	}
	return *a.Info, nil
}

func (m *farMachine) Wait(ctx context.Context) (vm.End, error) {
	a, _, err := m.once(ctx, request{Op: askWait})
	if err != nil || a.End == nil {
		return vm.End{}, err
	}
	return *a.End, nil
}

func (m *farMachine) Console(ctx context.Context, n int) ([]byte, error) {
	_, payload, err := m.once(ctx, request{Op: askConsole, N: n})
	return payload, err
}

func (m *farMachine) Addresses(ctx context.Context) ([]netip.Addr, error) {
	a, _, err := m.once(ctx, request{Op: askAddresses})
	if err != nil {
		return nil, err
	}
	all := make([]netip.Addr, len(a.Addresses))
	for i, s := range a.Addresses {
		if all[i], err = netip.ParseAddr(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (m *farMachine) Eject(ctx context.Context, place int) error {
	_, _, err := m.once(ctx, request{Op: askEject, N: place})
	return err
}

// Channel gives the relayed channel, the same one while it lasts.
func (m *farMachine) Channel(ctx context.Context) (*vm.Channel, error) {
	l := m.l
	l.mu.Lock()
	ch := l.ch
	l.mu.Unlock()
	if ch != nil {
		select {
		case <-ch.Done():
		default:
			return ch, nil
		}
	}
	secret := rand.Text()
	var a answer
	conn, _, err := l.ask(ctx, request{Op: askChannel, Channel: secret}, &a)
	if err != nil {
		return nil, err
	}
	fresh := vm.NewChannel(&farLink{conn, l}, vm.ChannelConfig{
		Driver: "lent", Machine: m.ID(), Incarnation: a.Incarnation, Secret: vm.Secret(secret),
	})
	l.mu.Lock()
	lost, other := l.err, l.ch
	if lost == nil && (other == nil || other == ch) {
		l.ch = fresh
		l.mu.Unlock()
		if other != nil {
			_ = other.Close()
		}
		return fresh, nil
	}
	l.mu.Unlock()
	_ = fresh.Close() // over, or another call was first
	return other, lost
}

// JobDisk opens a job disk at the lender's.
func (m *farMachine) JobDisk(ctx context.Context, n int) (vm.JobDisk, error) {
	var a answer
	conn, _, err := m.l.ask(ctx, request{Op: askDisk, N: n}, &a)
	if err != nil {
		return nil, err
	}
	return &farDisk{l: m.l, conn: conn, size: a.Size, turn: make(chan struct{}, 1)}, nil
}

// Insert serves the image's bytes to the lender.
func (m *farMachine) Insert(ctx context.Context, place int, in vm.Image) error {
	l := m.l
	fail := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
	}
	conn, _, err := l.ask(ctx, request{Op: askInsert, N: place, Digest: in.Digest(), Size: in.Size()}, nil)
	if err != nil {
		return err
	}
	defer l.drop(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		var q move
		if _, err := loan.Read(conn, &q); err != nil {
			return fail(err)
		}
		if q.What == moveDone || q.Err != nil {
			return q.Err.Err(codes)
		}
		b := make([]byte, min(max(q.N, 0), loan.MaxPayload))
		n, err := in.ReadAt(b, q.Off)
		if n == len(b) {
			err = nil
		}
		if err := loan.Write(conn, move{Err: loan.Tell(err, codes)}, b[:n]); err != nil {
			return fail(err)
		}
	}
}

// farDisk is an open job disk at the lender's.
type farDisk struct {
	l    *borrowed
	conn net.Conn
	size int64
	turn chan struct{} // who may use the connection
}

func (d *farDisk) Size() int64 { return d.size }

func (d *farDisk) Close() error {
	d.l.drop(d.conn)
	return nil
}

// move asks for one thing.
func (d *farDisk) move(m move, payload []byte) (move, []byte, error) {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if err := loan.Write(d.conn, m, payload); err != nil {
		return move{}, nil, d.l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
	}
	var back move
	out, err := loan.Read(d.conn, &back)
	if err != nil {
		return move{}, nil, d.l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
	}
	return back, out, back.Err.Err(codes)
}

func (d *farDisk) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		part := min(len(b)-n, loan.MaxPayload)
		_, out, err := d.move(move{What: moveRead, Off: off + int64(n), N: part}, nil)
		n += copy(b[n:], out)
		if errors.Is(err, io.EOF) {
			err = io.EOF // as io.ReaderAt has it
		}
		if err == nil && len(out) < part {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if n == len(b) && err == io.EOF { //nolint:errorlint // as it was set above
				err = nil
			}
			return n, err
		}
	}
	return n, nil
}

func (d *farDisk) WriteAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		part := min(len(b)-n, loan.MaxPayload)
		back, _, err := d.move(move{What: moveWrite, Off: off + int64(n)}, b[n:n+part])
		n += min(max(back.N, 0), part)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Sync has no context at the lender's but the guest's.
func (d *farDisk) Sync(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = d.conn.Close() })
	_, _, err := d.move(move{What: moveSync}, nil)
	if !stop() && err != nil {
		return context.Cause(ctx)
	}
	return err
}
