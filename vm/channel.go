package vm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// ChannelConfig is what a driver knows of the channel that it makes.
type ChannelConfig struct {
	Driver      string // for errors and logs: the HostID or the driver's name
	Machine     ID
	HostName    string // told to the guest
	MachineID   string // told to the guest: 32 hexadecimal digits
	Incarnation string // told to the guest, and what its hello must name
	// SavedIncarnation is what the hello may name instead when the guest comes
	// out of a saved state: its memory is the parent's, and it learns its own
	// incarnation from the welcome. Secret is then the parent's too.
	SavedIncarnation string
	Secret           Secret // what the hello must carry
	Properties       map[string]string
	// Keepalive is told to the guest, which powers off when it has heard
	// nothing for that long; the channel pings at a third of it. Zero: no
	// pings, and the guest goes on for ever.
	Keepalive time.Duration
	Logger    *slog.Logger // nil: none
}

// Channel is the line to the agent in a guest, for one boot. It is drained from
// the moment it is made until its connection ends, whether anybody reads its
// streams or not: a stream nobody reads is held back by its own window and never
// stops the others, so that a guest cannot be blocked by a host that does not
// listen. Methods are safe for concurrent use.
type Channel struct {
	link *link
	id   ID           // of the machine
	hook *Interceptor // nil: the driver's own handle
}

// Greeting is the guest's word about itself once it is ready.
type Greeting struct {
	Boot  string // chosen by the agent at its start
	Agent string // program and version, for people
	// Dirty is empty when the guest bears no mark of earlier work.
	Dirty string
	// Jobs is how many jobs, commands and copies this boot had seen when it
	// said so; see ChannelStats.Opened for those since.
	Jobs    int
	Details map[string]string // kernel, the agent's user, ...
}

// ChannelStats are counters of one channel, from its making on.
type ChannelStats struct {
	Skipped   int64     // bytes that belonged to no frame
	Frames    int64     // whole frames received
	Stray     int64     // frames that fitted no open stream or no kind known
	Dropped   int64     // messages dropped because nobody took them
	Refused   int64     // hellos refused
	Opened    int64     // jobs, commands and copies that were started
	LastHeard time.Time // when the last frame came; zero: none yet
}

// NewChannel takes over rw, the host's end of a connection to a guest's agent,
// and drains it at once. Close of rw must end a Read and a Write under way.
// Whoever makes the channel closes it.
func NewChannel(rw io.ReadWriteCloser, c ChannelConfig) *Channel {
	l := &link{
		c:       c,
		log:     c.Logger,
		rw:      rw,
		out:     make(chan wire.Frame),
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		refused: make(chan struct{}),
		broken:  make(chan struct{}),
		deaf:    make(chan struct{}),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		streams: map[uint32]*flow{},
		grants:  map[uint32]int64{},
		pings:   map[uint64]chan struct{}{},
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.log = l.log.With("driver", c.Driver, "machine", string(c.Machine), "incarnation", c.Incarnation)
	l.work.Add(2)
	go l.read()
	go l.write()
	return &Channel{link: l, id: c.Machine}
}

// intercepted is another handle of the same channel, behind an interceptor.
func (c *Channel) intercepted(i Interceptor, id ID) *Channel {
	inner := c
	if c.hook == nil {
		return &Channel{link: c.link, id: id, hook: &i}
	}
	// An interceptor over an interceptor: the outer one is asked first.
	outer, in := i, *inner.hook
	return &Channel{link: c.link, id: id, hook: &Interceptor{
		Call: func(ctx context.Context, op string, id ID, result any, do func(context.Context) error) error {
			return outer.Call(ctx, op, id, result, func(ctx context.Context) error { return in.Call(ctx, op, id, result, do) })
		},
	}}
}

// call does an operation behind the handle's interceptor.
func (c *Channel) call(ctx context.Context, op string, result any, do func(context.Context) error) error {
	if c.hook == nil {
		return do(ctx)
	}
	return c.hook.Call(ctx, op, c.id, result, do)
}

// Incarnation is the machine's, as the driver gave it.
func (c *Channel) Incarnation() string { return c.link.c.Incarnation }

// Done is closed when nothing more will come: the connection has ended and all
// that came before has been put on the streams.
func (c *Channel) Done() <-chan struct{} { return c.link.done }

// Err is nil until Done is closed, then why the channel has ended. It wraps
// ErrChannelEnded, ErrClosed or ErrRefused.
func (c *Channel) Err() error {
	select {
	case <-c.link.done:
		return c.link.ended(OpChannel)
	default:
		return nil
	}
}

// Stats gives the counters.
func (c *Channel) Stats() ChannelStats {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.link.stats
}

// Ready waits until the guest has said a right hello and that it is ready; it
// answers at once when it has. ErrRefused when its hello was refused and no
// other has been accepted, ErrChannelEnded when the channel ended first. The
// context is the only deadline.
func (c *Channel) Ready(ctx context.Context) (Greeting, error) {
	var g Greeting
	err := c.call(ctx, OpReady, &g, func(ctx context.Context) (err error) {
		g, err = c.link.waitReady(ctx)
		return err
	})
	return g, err
}

// Ping measures how long the guest takes to answer. It waits for the guest to
// be ready first, and that is not counted.
func (c *Channel) Ping(ctx context.Context) (time.Duration, error) {
	var took time.Duration
	err := c.call(ctx, OpPing, &took, func(ctx context.Context) (err error) {
		took, err = c.link.ping(ctx)
		return err
	})
	return took, err
}

// PowerOff asks the guest to end in an orderly way. It does not wait for the
// guest to do so, nor to be ready.
func (c *Channel) PowerOff(ctx context.Context) error {
	return c.call(ctx, OpPowerOff, nil, func(ctx context.Context) error {
		return c.link.hand(ctx, OpPowerOff, wire.Frame{Kind: wire.KindPowerOff})
	})
}

// Open opens a stream; zero: the next free one. The guest must be ready
// (ErrState). A number in use is ErrState too; it is free again when the guest
// has ended what it did on it. Whoever opens a stream closes it.
func (c *Channel) Open(stream uint32) (*Stream, error) {
	var s *Stream
	err := c.call(context.Background(), OpOpenStream, nil, func(context.Context) error {
		f, err := c.link.open(stream)
		if err != nil {
			return err
		}
		s = &Stream{channel: c, flow: f}
		return nil
	})
	if err == nil && s == nil {
		err = c.link.fail(OpOpenStream, errors.New("the interceptor answered neither a stream nor an error"))
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the connection and waits for the channel's goroutines. It is
// idempotent.
func (c *Channel) Close() error {
	return c.call(context.Background(), OpCloseChannel, nil, func(context.Context) error { return c.link.close() })
}

// link is a channel's connection, shared by its handles.
type link struct {
	c   ChannelConfig
	log *slog.Logger
	rw  io.ReadWriteCloser

	out     chan wire.Frame // handed to the writer
	wake    chan struct{}   // tells the writer of welcome, refusal, cancels and grants
	ready   chan struct{}   // closed when the guest is ready
	refused chan struct{}   // closed at the first hello that is refused
	broken  chan struct{}   // closed when a second hello ended what ran
	deaf    chan struct{}   // closed when the writer has ended
	closing chan struct{}   // closed by Close
	done    chan struct{}   // closed when the reader has ended
	work    sync.WaitGroup  // reader and writer

	mu sync.Mutex
	// mu protects the following fields.
	phase    phase
	boot     string // of the accepted hello
	greeting Greeting
	welcome  []byte // a body that waits for the writer; nil: none
	refusal  []byte // likewise
	cancels  []uint32
	grants   map[uint32]int64
	streams  map[uint32]*flow
	next     uint32
	pings    map[uint64]chan struct{}
	pinged   uint64
	stats    ChannelStats
	closed   bool
	err      error // why the channel has ended
}

// fail makes an error of this channel.
func (l *link) fail(op string, err error) error {
	return &OpError{Op: op, Driver: l.c.Driver, ID: l.c.Machine, Err: err}
}

// ended is why the channel has ended, as the error of an operation.
func (l *link) ended(op string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return l.fail(op, ErrChannelEnded)
	}
	return l.fail(op, l.err)
}

// gaveUp makes an error of a wait whose context ended.
func (l *link) gaveUp(ctx context.Context, op, what string, since time.Time) error {
	return l.fail(op, fmt.Errorf("%s after %v: %w", what, time.Since(since).Round(time.Millisecond), causeOf(ctx)))
}

// causeOf is the context's error together with its cause where that is another
// one, so that both can be tested for.
func causeOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w (%w)", err, cause)
}

func (l *link) close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	if l.err == nil {
		l.err = ErrClosed
	}
	l.mu.Unlock()
	if first {
		close(l.closing)
		if err := l.rw.Close(); err != nil {
			l.log.Debug("channel: close of the connection", "error", err)
		}
	}
	l.work.Wait()
	return nil
}

// open makes a stream.
func (l *link) open(n uint32) (*flow, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return nil, l.fail(OpOpenStream, l.err)
	case l.phase != phaseReady:
		return nil, l.fail(OpOpenStream, fmt.Errorf("%w: the guest is not ready", ErrState))
	case n == 0:
		for n == 0 || l.streams[n] != nil {
			l.next++
			n = l.next
		}
	case l.streams[n] != nil:
		return nil, l.fail(OpOpenStream, fmt.Errorf("%w: stream %d is in use", ErrState, n))
	}
	f := newFlow(n)
	l.streams[n] = f
	return f, nil
}

// waitReady waits for the guest's Ready.
func (l *link) waitReady(ctx context.Context) (Greeting, error) {
	since := time.Now()
	refused := l.refused
	for waiting := true; waiting; {
		select {
		case <-l.ready:
			waiting = false
		case <-refused:
			l.mu.Lock()
			accepted := l.phase != phaseNew
			l.mu.Unlock()
			if !accepted {
				return Greeting{}, l.fail(OpReady, ErrRefused)
			}
			refused = nil // an impostor's; the right one is on its way
		case <-l.broken:
			return Greeting{}, l.ended(OpReady)
		case <-l.done:
			return Greeting{}, l.ended(OpReady)
		case <-ctx.Done():
			return Greeting{}, l.notReady(ctx, since)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return Greeting{}, l.fail(OpReady, l.err)
	}
	return l.greeting, nil
}

// notReady says how far the guest came.
func (l *link) notReady(ctx context.Context, since time.Time) error {
	l.mu.Lock()
	phase, skipped := l.phase, l.stats.Skipped
	l.mu.Unlock()
	what := "the guest was welcomed but is not ready"
	if phase == phaseNew {
		what = fmt.Sprintf("no hello from the guest (%d bytes came that are no frames)", skipped)
	}
	return l.gaveUp(ctx, OpReady, what, since)
}

// ping sends a ping and waits for its pong.
func (l *link) ping(ctx context.Context) (time.Duration, error) {
	if _, err := l.waitReady(ctx); err != nil {
		return 0, err
	}
	pong := make(chan struct{})
	l.mu.Lock()
	l.pinged++
	n := l.pinged
	l.pings[n] = pong
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.pings, n)
		l.mu.Unlock()
	}()
	start := time.Now()
	if err := l.hand(ctx, OpPing, wire.Frame{Kind: wire.KindPing, Body: binary.LittleEndian.AppendUint64(nil, n)}); err != nil {
		return 0, err
	}
	select {
	case <-pong:
		return time.Since(start), nil
	case <-l.broken:
		return 0, l.ended(OpPing)
	case <-l.done:
		return 0, l.ended(OpPing)
	case <-ctx.Done():
		return 0, l.gaveUp(ctx, OpPing, "no answer from the guest", start)
	}
}

// entropy for one welcome, in bytes.
const entropySize = 64

func newEntropy() []byte {
	b := make([]byte, entropySize)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the program instead
	return b
}
