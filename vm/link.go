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
			return Greeting{}, l.endedNew()
		case <-l.done:
			return Greeting{}, l.endedNew()
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

// endedNew says why a channel ended before the guest was ready: a guest that was
// refused may hang up at once.
func (l *link) endedNew() error {
	l.mu.Lock()
	accepted := l.phase != phaseNew
	l.mu.Unlock()
	select {
	case <-l.refused:
		if !accepted {
			return l.fail(OpReady, ErrRefused)
		}
	default:
	}
	return l.ended(OpReady)
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
