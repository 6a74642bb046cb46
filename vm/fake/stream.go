package fake

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// errCut ends the writing on a stream whose connection or machine has ended.
var errCut = errors.New("fake: the channel has ended")

// stream is the guest's side of one job, command or copy.
type stream struct {
	a      *agent
	id     uint32
	ctx    context.Context // ends when it is interrupted, killed or cut
	cancel context.CancelFunc
	killed chan struct{} // closed when it is killed, or the machine ends

	mu sync.Mutex
	// mu protects the following fields.
	change *sync.Cond
	credit int64
	in     []byte // Stdin or Data
	taken  int64  // of it, not granted anew
	eof    bool
	dead   bool
}

func newStream(a *agent, id uint32) *stream {
	s := &stream{a: a, id: id, credit: wire.InitialWindow, killed: make(chan struct{})}
	s.change = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(a.b.ctx)
	return s
}

// cut ends everything that waits on the stream.
func (s *stream) cut() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dead {
		s.dead = true
		close(s.killed)
		s.change.Broadcast()
	}
}

// take takes what the host sends on the stream. It never waits.
func (s *stream) take(f wire.Frame) {
	switch f.Kind {
	case wire.KindCancel:
		var c wire.Cancel
		if wire.Decode(f.Kind, f.Body, &c) == nil && c.Kill {
			s.cut()
		}
		s.cancel()
	case wire.KindStdin, wire.KindData:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.in = append(s.in, f.Body...)
		s.eof = s.eof || len(f.Body) == 0
		s.change.Broadcast()
	case wire.KindWindow:
		var w wire.Window
		if wire.Decode(f.Kind, f.Body, &w) == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.credit += w.Bytes
			s.change.Broadcast()
		}
	}
}

// Read gives what the host sent, and grants it more.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	for len(s.in) == 0 && !s.eof && !s.dead {
		s.change.Wait()
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	s.taken += int64(n)
	var again int64
	if s.taken >= wire.InitialWindow/2 {
		again, s.taken = s.taken, 0
	}
	dead, eof := s.dead, s.eof
	s.mu.Unlock()
	if again > 0 {
		s.a.send(s.id, wire.KindWindow, wire.Encode(wire.Window{Bytes: again}))
	}
	switch {
	case n > 0:
		return n, nil
	case eof:
		return 0, io.EOF
	case dead:
		return 0, errCut
	}
	return 0, nil
}

// write sends bytes of a kind as the host's window allows.
func (s *stream) write(k wire.Kind, p []byte) (int, error) {
	const most = 32 << 10
	done := 0
	for done < len(p) {
		s.mu.Lock()
		for s.credit == 0 && !s.dead {
			s.change.Wait()
		}
		if s.dead {
			s.mu.Unlock()
			return done, errCut
		}
		n := min(len(p)-done, most, int(s.credit))
		s.credit -= int64(n)
		s.mu.Unlock()
		s.a.send(s.id, k, p[done:done+n])
		done += n
	}
	return done, nil
}

// output is one kind of a stream's output as a writer.
type output struct {
	s *stream
	k wire.Kind
}

func (o output) Write(p []byte) (int, error) { return o.s.write(o.k, p) }
