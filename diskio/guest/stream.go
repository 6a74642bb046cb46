package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// pieceSize is how many bytes of output one frame carries at the most.
const pieceSize = 32 << 10

// stream is one job, command or copy.
type stream struct {
	s       *session
	id      uint32
	context context.Context
	cancel  context.CancelCauseFunc
	// interrupted and killed are closed when the host asks for it.
	interrupted, killed chan struct{}

	readable, writable chan struct{} // something below has changed

	mu      sync.Mutex // guards what follows
	queue   [][]byte   // bytes from the host
	allowed int64      // that the host may still send
	eof     bool
	copying bool
	taken   int64 // read and not yet granted again
	credit  int64 // bytes that may be sent
}

func newStream(ctx context.Context, s *session, id uint32) *stream {
	st := &stream{s: s, id: id, interrupted: make(chan struct{}), killed: make(chan struct{}),
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
		allowed: wire.InitialWindow, credit: wire.InitialWindow}
	st.context, st.cancel = context.WithCancelCause(ctx)
	return st
}

// last says the stream's last word. The number is free before it is said: the
// host may use it again at once.
func (st *stream) last(k wire.Kind, v any) {
	st.forget()
	st.say(k, wire.Encode(v))
}

// fault is the last word where what was asked cannot be done.
func (st *stream) fault(err error) {
	st.last(wire.KindFault, wire.Fault{Error: err.Error()})
}

// forget frees the stream's number.
func (st *stream) forget() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.s.streams[st.id] == st {
		delete(st.s.streams, st.id)
	}
}

// say sends a message that has no flow control; without a host it is lost.
func (st *stream) say(k wire.Kind, body []byte) {
	if err := st.s.send(st.id, k, body); err != nil {
		st.s.a.log.Info("not said to the host", "stream", st.id, "kind", k, "err", err)
	}
}

// take handles a frame from the host. It does not wait.
func (st *stream) take(f wire.Frame) {
	switch f.Kind {
	case wire.KindCancel:
		var c wire.Cancel
		if err := wire.Decode(f.Kind, f.Body, &c); err != nil {
			st.s.a.log.Warn("cancel not understood", "err", err)
			return
		}
		st.stop(c.Kill)
	case wire.KindWindow:
		var w wire.Window
		if err := wire.Decode(f.Kind, f.Body, &w); err != nil || w.Bytes <= 0 {
			st.s.a.log.Warn("window not understood", "err", err, "bytes", w.Bytes)
			return
		}
		st.mu.Lock()
		st.credit += min(w.Bytes, 1<<40)
		st.mu.Unlock()
		wake(st.writable)
	case wire.KindStdin, wire.KindData:
		st.mu.Lock()
		switch {
		case st.eof:
		case len(f.Body) == 0:
			st.eof = true
		case int64(len(f.Body)) > st.allowed:
			st.cancel(fmt.Errorf("the host sent %d bytes where %d were allowed", len(f.Body), st.allowed))
		default:
			st.allowed -= int64(len(f.Body))
			st.queue = append(st.queue, f.Body)
		}
		st.mu.Unlock()
		wake(st.readable)
	}
}

// stop asks what runs to end, or kills it.
func (st *stream) stop(kill bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	closeOnce(st.interrupted)
	if kill {
		closeOnce(st.killed)
	}
	if st.copying {
		st.cancel(errCancelled)
	}
}

// copies says that there is no process to stop: a cancel ends the stream.
func (st *stream) copies() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.copying = true
	select {
	case <-st.interrupted:
		st.cancel(errCancelled)
	default:
	}
}

// closeOnce closes c; the caller holds the lock under which it is closed.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Read gives bytes from the host, and grants as many again once they are read.
func (st *stream) Read(b []byte) (int, error) {
	for {
		st.mu.Lock()
		if len(st.queue) > 0 {
			n := copy(b, st.queue[0])
			if st.queue[0] = st.queue[0][n:]; len(st.queue[0]) == 0 {
				st.queue = st.queue[1:]
			}
			st.taken += int64(n)
			grant := int64(0)
			if st.taken >= wire.InitialWindow/4 {
				grant, st.taken = st.taken, 0
				st.allowed += grant
			}
			st.mu.Unlock()
			if grant > 0 {
				if err := st.s.send(st.id, wire.KindWindow, wire.Encode(wire.Window{Bytes: grant})); err != nil {
					return n, err
				}
			}
			return n, nil
		}
		eof := st.eof
		st.mu.Unlock()
		if eof {
			return 0, io.EOF
		}
		select {
		case <-st.readable:
		case <-st.context.Done():
			return 0, context.Cause(st.context)
		}
	}
}

// writer sends bytes of one kind as the host allows.
type writer struct {
	st   *stream
	kind wire.Kind
}

func (w writer) Write(b []byte) (int, error) {
	st, done := w.st, 0
	for done < len(b) {
		st.mu.Lock()
		n := int(min(st.credit, int64(len(b)-done), pieceSize))
		st.credit -= int64(n)
		st.mu.Unlock()
		if n == 0 {
			select {
			case <-st.writable:
				continue
			case <-st.context.Done():
				return done, context.Cause(st.context)
			}
		}
		if err := st.s.send(st.id, w.kind, append([]byte(nil), b[done:done+n]...)); err != nil {
			return done, err
		}
		done += n
	}
	// Several writers of a stream share its credit and one wake-up.
	wake(st.writable)
	return done, nil
}

// errCancelled: the host has cancelled the stream.
var errCancelled = errors.New("cancelled")
