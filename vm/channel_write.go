package vm

import (
	"context"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// write sends what is handed to it, and what the reader wants said, until the
// channel ends. All that waits for it is bounded: one welcome, one refusal, one
// grant a stream, and senders that wait themselves.
func (l *link) write() {
	defer l.work.Done()
	defer close(l.deaf)
	var tick <-chan time.Time
	ready := l.ready
	if l.c.Keepalive <= 0 {
		ready = nil
	}
	var buf []byte
	for {
		buf = l.control(buf[:0])
		if len(buf) == 0 {
			select {
			case f := <-l.out:
				var err error
				if buf, err = wire.Append(buf, f); err != nil {
					l.log.Error("channel: a frame cannot be sent", "error", err) // lengths are checked by Send
					continue
				}
			case <-l.wake:
				continue
			case <-ready:
				ready = nil
				t := time.NewTicker(max(l.c.Keepalive/3, time.Millisecond))
				defer t.Stop()
				tick = t.C
				continue
			case <-tick:
				buf, _ = wire.Append(buf, wire.Frame{Kind: wire.KindPing})
			case <-l.closing:
				return
			case <-l.done:
				return
			}
		}
		if _, err := l.rw.Write(buf); err != nil {
			// What the guest said before may still be on its way: the reader
			// goes on until its own end.
			l.log.Debug("channel: write", "error", err)
			return
		}
	}
}

// control takes what the reader and the streams want said.
func (l *link) control(buf []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	say := func(stream uint32, k wire.Kind, body []byte) {
		b, err := wire.Append(buf, wire.Frame{Stream: stream, Kind: k, Body: body})
		if err != nil {
			// Only a welcome with properties beyond all measure can get here.
			l.log.Error("channel: a message is too long to be sent", "kind", k, "error", err)
			return
		}
		buf = b
	}
	if l.welcome != nil {
		say(0, wire.KindWelcome, l.welcome)
		l.welcome = nil
	}
	if l.refusal != nil {
		say(0, wire.KindRefused, l.refusal)
		l.refusal = nil
	}
	for _, id := range l.cancels {
		say(id, wire.KindCancel, wire.Encode(wire.Cancel{Kill: true}))
	}
	l.cancels = l.cancels[:0]
	for id, n := range l.grants {
		say(id, wire.KindWindow, wire.Encode(wire.Window{Bytes: n}))
	}
	clear(l.grants)
	return buf
}

// hand gives a frame to the writer. It waits while the guest does not read.
func (l *link) hand(ctx context.Context, op string, f wire.Frame) error {
	since := time.Now()
	select {
	case <-l.done:
		return l.ended(op)
	case <-l.deaf:
		return l.unwritable(op)
	default:
	}
	select {
	case l.out <- f:
		return nil
	case <-l.done:
		return l.ended(op)
	case <-l.deaf:
		return l.unwritable(op)
	case <-ctx.Done():
		return l.gaveUp(ctx, op, "the guest does not read its channel", since)
	}
}

func (l *link) unwritable(op string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.fail(op, l.err)
	}
	return l.fail(op, fmt.Errorf("%w: it cannot be written to", ErrChannelEnded))
}
