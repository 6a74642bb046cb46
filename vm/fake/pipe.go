package fake

import (
	"io"
	"sync"
)

// pipeSize is how much a pipe holds before its writer waits, in bytes: as little
// as a kernel's, so that whoever does not drain blocks the other side here too.
const pipeSize = 64 << 10

// half is one direction of a connection.
type half struct {
	mu     sync.Mutex
	change sync.Cond
	buf    []byte
	closed bool // by either end
}

// end is one end of a connection. Closing it ends both directions, but the other
// end can still read what was written before.
type end struct{ in, out *half }

func newPipe() (a, b *end) {
	x, y := &half{}, &half{}
	x.change.L, y.change.L = &x.mu, &y.mu
	return &end{x, y}, &end{y, x}
}

func (e *end) Read(p []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.closed {
		h.change.Wait()
	}
	if len(h.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.buf)
	if h.buf = h.buf[n:]; len(h.buf) == 0 {
		h.buf = nil
	}
	h.change.Broadcast()
	return n, nil
}

func (e *end) Write(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for done < len(p) {
		for len(h.buf) >= pipeSize && !h.closed {
			h.change.Wait()
		}
		if h.closed {
			return done, io.ErrClosedPipe
		}
		n := min(len(p)-done, pipeSize-len(h.buf))
		h.buf = append(h.buf, p[done:done+n]...)
		done += n
		h.change.Broadcast()
	}
	return done, nil
}

func (e *end) Close() error {
	for _, h := range []*half{e.in, e.out} {
		h.mu.Lock()
		h.closed = true
		h.change.Broadcast()
		h.mu.Unlock()
	}
	return nil
}
