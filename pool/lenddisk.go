package pool

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
)

// lendable are the capabilities of a machine that a borrower may have: what is
// left out is its lender's.
const lendable = vm.CanWait | vm.CanAttach | vm.CanAddress | vm.CanConsole | vm.CanMessage | vm.CanSuspend |
	vm.CanSnapshot | vm.CanScreenshot

// attach keeps a borrower told, and listens to its reason for giving the guest
// back.
func (s *service) attach() error {
	g := s.guest
	queued, boot := g.Phases()
	err := loan.Write(s.conn, answer{Facts: &facts{
		Name: g.name, Host: g.Host(), Template: g.Template(), Job: g.Job(), Labels: g.Labels(), Properties: g.properties,
		Queued: queued, Boot: boot, Capabilities: vm.Capabilities(g.Machine()) & lendable,
	}}, nil)
	if err != nil {
		return err
	}
	ctx := g.Context()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			var m move
			if _, err := loan.Read(s.conn, &m); err != nil {
				return
			}
			if m.Broken {
				g.reported.Store(&reported{m.Reason})
			}
		}
	}()
	select {
	case <-ctx.Done():
		_ = loan.Write(s.conn, move{Err: loan.Tell(context.Cause(ctx), codes)}, nil)
	case <-gone:
	}
	_ = s.conn.Close()
	<-gone
	return nil
}

// reported is a borrower's word that the machine is broken.
type reported struct{ why string }

func (r *reported) Error() string {
	return "machine is broken, says a process that it was lent to: " + r.why
}
func (r *reported) BrokenMachine() bool { return true }

// channel relays the machine's channel.
func (s *service) channel(r request) error {
	ctx, cancel := s.during()
	defer cancel(nil)
	m := s.guest.Machine()
	c, ok := vm.As[vm.Messenger](m)
	if !ok {
		return fmt.Errorf("machine %s has no channel: %w", m.ID(), errors.ErrUnsupported)
	}
	ch, err := c.Channel(ctx)
	if err != nil {
		return because(ctx, err)
	}
	if err := loan.Write(s.conn, answer{Incarnation: ch.Incarnation()}, nil); err != nil {
		return nil
	}
	err = vm.Relay(ctx, ch, s.conn, vm.RelayConfig{Incarnation: ch.Incarnation(), Secret: vm.Secret(r.Channel)})
	if err != nil {
		s.pool.config.Logger.Debug("pool: lending: channel", "machine", s.guest.name, "error", err)
	}
	return nil
}

// disk serves one open job disk.
func (s *service) disk(r request) error {
	ctx, cancel := s.during()
	defer cancel(nil)
	m := s.guest.Machine()
	c, ok := vm.As[vm.Attacher](m)
	if !ok {
		return fmt.Errorf("machine %s takes no disks: %w", m.ID(), errors.ErrUnsupported)
	}
	disk, err := c.JobDisk(ctx, r.N)
	if err != nil {
		return because(ctx, err)
	}
	defer disk.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	if err := loan.Write(s.conn, answer{Size: disk.Size()}, nil); err != nil {
		return nil
	}
	for {
		var q move
		payload, err := loan.Read(s.conn, &q)
		if err != nil {
			return nil
		}
		var back move
		var out []byte
		switch q.What {
		case moveRead:
			out = make([]byte, min(max(q.N, 0), loan.MaxPayload))
			back.N, err = disk.ReadAt(out, q.Off)
			out = out[:back.N]
		case moveWrite:
			back.N, err = disk.WriteAt(payload, q.Off)
		case moveSync:
			err = disk.Sync(ctx)
		default:
			err = fmt.Errorf("pool: lending: %q is not known: %w", clip(q.What), errors.ErrUnsupported)
		}
		back.Err = loan.Tell(because(ctx, err), codes)
		if loan.Write(s.conn, back, out) != nil {
			return nil
		}
	}
}

// insert puts a borrower's image into a place. Its bytes are asked for as the
// driver reads them, none when it has the image already.
func (s *service) insert(r request) error {
	ctx, cancel := s.during()
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	m := s.guest.Machine()
	err := with(m, func(c vm.Attacher) error {
		return c.Insert(ctx, r.N, &farImage{r: r, turn: make(chan struct{}, 1), conn: s.conn})
	})
	_ = loan.Write(s.conn, move{What: moveDone, Err: loan.Tell(because(ctx, err), codes)}, nil)
	return nil
}

// screenshot tells a picture of the machine's screen as the driver writes it.
func (s *service) screenshot() error {
	ctx, cancel := s.during()
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	gone := make(chan struct{})
	go func() { // the borrower says nothing more: what can be read is its end
		defer close(gone)
		_, _ = s.conn.Read(make([]byte, 1))
		cancel(errBorrower)
	}()
	var media string
	err := with(s.guest.Machine(), func(c vm.Screenshotter) (err error) {
		media, err = c.Screenshot(ctx, dataWriter{s.conn})
		return err
	})
	_ = loan.Write(s.conn, move{What: moveDone, Media: media, Err: loan.Tell(because(ctx, err), codes)}, nil)
	_ = s.conn.Close()
	<-gone
	return nil
}

// dataWriter makes moves of what is written.
type dataWriter struct{ conn io.Writer }

func (w dataWriter) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(len(b), n+loan.MaxPayload)]
		if err := loan.Write(w.conn, move{What: moveData}, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// farImage is a borrower's image.
type farImage struct {
	r    request
	turn chan struct{} // who may use the connection
	conn io.ReadWriter
}

func (f *farImage) Size() int64    { return f.r.Size }
func (f *farImage) Digest() string { return f.r.Digest }

func (f *farImage) ReadAt(b []byte, off int64) (n int, err error) {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	for n < len(b) {
		part := min(len(b)-n, loan.MaxPayload)
		if err := loan.Write(f.conn, move{What: moveRead, Off: off + int64(n), N: part}, nil); err != nil {
			return n, err
		}
		var m move
		got, err := loan.Read(f.conn, &m)
		if err != nil {
			return n, err
		}
		if len(got) > part {
			return n, fmt.Errorf("%w: %d bytes for %d", loan.ErrFormat, len(got), part)
		}
		n += copy(b[n:], got)
		if err := m.Err.Err(codes); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.EOF // as io.ReaderAt has it
			}
			return n, err
		}
		if len(got) < part {
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, nil
}
