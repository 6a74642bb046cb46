package vm

import (
	"context"
	"errors"
	"io"
	"log/slog"
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
