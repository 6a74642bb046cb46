package vm

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// Stream is one job, one command or one copy on a channel. Methods are safe for
// concurrent use.
type Stream struct {
	channel *Channel
	flow    *flow
}

// maxWaiting bounds the messages that wait on a stream for somebody to take
// them, in bytes with what each costs to keep. Beyond it new ones are dropped:
// they are news for people, and the truth is on the disk.
const maxWaiting = 1 << 20

// keeping is what a waiting frame costs beside its body, roughly, in bytes.
const keeping = 64

// maxSeparate is how many frames may wait as they came. Beyond it, bytes of a
// kind are joined, so that a guest that sends single bytes costs no more memory
// than its window.
const maxSeparate = 1024

// flow is a stream's state. The link's mu protects all fields that are not
// channels.
type flow struct {
	id       uint32
	readable chan struct{} // a token: there is something for Recv
	writable chan struct{} // a token: there is something for Send

	queue   []wire.Frame
	waiting int   // bytes of the messages in queue, with their keeping
	allowed int64 // what the guest may still send of Stdout, Stderr and Data
	taken   int64 // what was taken of it and not granted anew
	credit  int64 // what may be sent of Stdin and Data
	eof     bool  // the end of Data came
	started bool  // the guest was told to do something
	over    bool  // the guest's last word came, or nothing more will
	closed  bool
	err     error // the guest broke the rules
	ended   bool  // the last word was taken
}

func newFlow(id uint32) *flow {
	return &flow{
		id:       id,
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
		allowed:  wire.InitialWindow,
		credit:   wire.InitialWindow,
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stop ends the stream when nothing more will come.
func (s *flow) stop() {
	s.over = true
	signal(s.readable)
	signal(s.writable)
}

// granted adds to what may be sent. A guest cannot make it overflow.
func (s *flow) granted(n int64) {
	const most = 1 << 40
	s.credit = min(s.credit+min(n, most), most)
	signal(s.writable)
}

// data puts flow-controlled bytes on the stream and answers how many more the
// guest may send at once, because nobody will ever take these.
func (s *flow) data(f wire.Frame) int64 {
	n := int64(len(f.Body))
	if n > s.allowed {
		if s.err == nil {
			s.err = fmt.Errorf("the guest sent %d bytes beyond its window", n-s.allowed)
			s.queue = nil
			signal(s.readable)
			signal(s.writable)
		}
		return 0
	}
	if s.closed || s.err != nil {
		return n
	}
	s.allowed -= n
	if n == 0 {
		// The end of a copy; said twice it means nothing.
		if f.Kind != wire.KindData || s.eof {
			return 0
		}
		s.eof = true
	}
	if n > 0 && len(s.queue) >= maxSeparate {
		for i := len(s.queue) - 1; i >= 0; i-- {
			if s.queue[i].Kind == f.Kind {
				s.queue[i].Body = append(s.queue[i].Body, f.Body...)
				return 0
			}
		}
	}
	s.push(f)
	return 0
}

// message puts a message on the stream, or answers false: there is no room.
func (s *flow) message(f wire.Frame) bool {
	if s.closed || s.err != nil || s.waiting+len(f.Body)+keeping > maxWaiting {
		return false
	}
	s.waiting += len(f.Body) + keeping
	s.push(f)
	return true
}

// last puts the guest's last word on the stream.
func (s *flow) last(f wire.Frame) {
	if !s.closed && s.err == nil {
		s.push(f)
	}
	s.stop()
}

func (s *flow) push(f wire.Frame) {
	s.queue = append(s.queue, f)
	signal(s.readable)
}

// pop takes the next frame, and what may be granted for it.
func (s *flow) pop() (f wire.Frame, again int64) {
	f = s.queue[0]
	s.queue[0] = wire.Frame{}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil
	}
	switch f.Kind {
	case wire.KindStdout, wire.KindStderr, wire.KindData:
		s.taken += int64(len(f.Body))
		if s.taken >= wire.InitialWindow/2 && !s.over {
			again, s.taken = s.taken, 0
			s.allowed += again
		}
	default:
		if f.Kind >= wire.KindMessage {
			s.waiting -= len(f.Body) + keeping
		}
	}
	return f, again
}

// ID is the stream's number.
func (s *Stream) ID() uint32 { return s.flow.id }

// Recv gives the next frame that the guest sent on the stream, in order. After
// the guest's last word (done, exit, copied, fault) it answers io.EOF; when the
// channel ends before that word, all that came is given first and then an error
// that wraps ErrChannelEnded.
func (s *Stream) Recv(ctx context.Context) (kind uint8, body []byte, err error) {
	var f wire.Frame
	err = s.channel.call(ctx, OpRecv, &f.Body, func(ctx context.Context) (err error) {
		f, err = s.recv(ctx)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return uint8(f.Kind), f.Body, nil
}

func (s *Stream) recv(ctx context.Context) (wire.Frame, error) {
	l, f := s.channel.link, s.flow
	since := time.Now()
	for {
		l.mu.Lock()
		switch {
		case f.closed:
			l.mu.Unlock()
			return wire.Frame{}, l.fail(OpRecv, ErrClosed)
		case len(f.queue) > 0:
			got, again := f.pop()
			if len(f.queue) > 0 || f.over {
				signal(f.readable)
			}
			if again > 0 {
				l.grant(f.id, again)
			}
			if last(got.Kind) {
				f.ended = true
			}
			l.mu.Unlock()
			return got, nil
		case f.err != nil:
			signal(f.readable)
			l.mu.Unlock()
			return wire.Frame{}, l.fail(OpRecv, f.err)
		case f.ended:
			signal(f.readable)
			l.mu.Unlock()
			return wire.Frame{}, io.EOF
		case f.over:
			signal(f.readable)
			l.mu.Unlock()
			return wire.Frame{}, l.ended(OpRecv)
		}
		l.mu.Unlock()
		select {
		case <-f.readable:
		case <-ctx.Done():
			return wire.Frame{}, l.gaveUp(ctx, OpRecv, fmt.Sprintf("no word from the guest on stream %d", f.id), since)
		}
	}
}

// last reports whether a kind ends its stream.
func last(k wire.Kind) bool {
	return k == wire.KindDone || k == wire.KindExit || k == wire.KindCopied || k == wire.KindFault
}

// Send sends a frame of at most 64 KiB. Bytes for the guest's stdin or a copy
// wait for the guest to take the ones before; everything waits while the guest
// does not read its channel at all. nil means handed over, not arrived.
func (s *Stream) Send(ctx context.Context, kind uint8, body []byte) error {
	return s.channel.call(ctx, OpSend, nil, func(ctx context.Context) error { return s.send(ctx, wire.Kind(kind), body) })
}

func (s *Stream) send(ctx context.Context, kind wire.Kind, body []byte) error {
	l, f := s.channel.link, s.flow
	if len(body) > wire.MaxBody {
		return l.fail(OpSend, fmt.Errorf("%w: %d bytes in one message, at most %d", ErrTooLarge, len(body), wire.MaxBody))
	}
	var cost int64
	if kind == wire.KindStdin || kind == wire.KindData {
		cost = int64(len(body))
	}
	since := time.Now()
	for {
		l.mu.Lock()
		var err error
		switch {
		case f.closed:
			err = ErrClosed
		case f.err != nil:
			err = f.err
		case f.over && l.err != nil:
			err = l.err
		case f.over:
			err = fmt.Errorf("%w: stream %d is over", ErrState, f.id)
		case f.credit >= cost:
			f.credit -= cost
			if f.credit > 0 {
				signal(f.writable)
			}
			switch kind {
			case wire.KindGo, wire.KindExec, wire.KindPut, wire.KindGet:
				if !f.started {
					f.started = true
					l.stats.Opened++
				}
			}
			l.mu.Unlock()
			if err := l.hand(ctx, OpSend, wire.Frame{Stream: f.id, Kind: kind, Body: body}); err != nil {
				l.mu.Lock()
				f.credit += cost
				l.mu.Unlock()
				return err
			}
			return nil
		}
		if err != nil {
			signal(f.writable)
			l.mu.Unlock()
			return l.fail(OpSend, err)
		}
		l.mu.Unlock()
		select {
		case <-f.writable:
		case <-ctx.Done():
			return l.gaveUp(ctx, OpSend, fmt.Sprintf("the guest does not take what is sent on stream %d", f.id), since)
		}
	}
}

// Close gives the stream up. What still runs on it is killed in the guest; what
// the guest sends until then is dropped. It does not wait, and is idempotent.
func (s *Stream) Close() error {
	l, f := s.channel.link, s.flow
	refused := s.channel.call(context.Background(), OpCloseStream, nil, func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		f.close(l, true)
		return nil
	})
	l.mu.Lock()
	f.close(l, false)
	l.mu.Unlock()
	return refused
}

// close forgets what waits, and has the guest told where tell says so. The
// caller holds the link's mu.
func (s *flow) close(l *link, tell bool) {
	if s.closed {
		return
	}
	s.closed = true
	// What was not taken will not be: the guest may send that much more into
	// the void, so that it never blocks.
	back := s.taken
	for _, f := range s.queue {
		switch f.Kind {
		case wire.KindStdout, wire.KindStderr, wire.KindData:
			back += int64(len(f.Body))
		}
	}
	s.queue, s.waiting, s.taken = nil, 0, 0
	s.allowed += back
	switch {
	case s.over || l.err != nil:
	case !s.started:
		delete(l.streams, s.id) // the guest has never heard of it
	default:
		if back > 0 {
			l.grant(s.id, back)
		}
		if tell {
			l.cancels = append(l.cancels, s.id)
			l.poke()
		}
	}
	signal(s.readable)
	signal(s.writable)
}
