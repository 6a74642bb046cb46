package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
)

// session is one life of the channel. Its reader never waits for anything but
// the channel, and its writer sends what has no flow control first.
type session struct {
	a       *Agent
	conn    io.ReadWriteCloser
	urgent  chan wire.Frame // answers and window grants
	out     chan wire.Frame
	context context.Context // ends with the session
	end     context.CancelCauseFunc
	work    sync.WaitGroup // of commands and copies

	mu       sync.Mutex // guards what follows
	welcomed bool
	ready    bool
	closed   bool // nothing new is started
	streams  map[uint32]*stream
}

// errGone: the session has ended.
var errGone = errors.New("the channel has ended")

// serve speaks with the host until the channel ends, and closes it.
func (a *Agent) serve(conn io.ReadWriteCloser) error {
	s := &session{a: a, conn: conn, urgent: make(chan wire.Frame, 256), out: make(chan wire.Frame, 16), streams: map[uint32]*stream{}}
	s.context, s.end = context.WithCancelCause(a.context)
	var own sync.WaitGroup
	own.Go(s.write)
	own.Go(s.read)
	own.Go(s.hello)
	<-s.context.Done()
	err := context.Cause(s.context)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if errors.Is(err, errPowerOff) || a.c.Conn != nil {
		a.stop(err) // jobs end with the machine, before the channel is closed
		a.jobs.Wait()
	}
	s.work.Wait()
	if cerr := conn.Close(); cerr != nil {
		a.log.Debug("closing the channel", "err", cerr)
	}
	own.Wait()
	return err
}

// write sends frames until the session ends.
func (s *session) write() {
	var buf []byte
	for {
		var f wire.Frame
		select {
		case f = <-s.urgent:
		default:
			select {
			case f = <-s.urgent:
			case f = <-s.out:
			case <-s.context.Done():
				return
			}
		}
		var err error
		if buf, err = wire.Append(buf[:0], f); err == nil {
			_, err = s.conn.Write(buf)
		}
		if err != nil {
			s.end(fmt.Errorf("guest: writing to the channel: %w", err))
			return
		}
	}
}

// send queues a frame behind others and waits for its place.
func (s *session) send(stream uint32, k wire.Kind, body []byte) error {
	select {
	case s.out <- wire.Frame{Stream: stream, Kind: k, Body: body}:
		return nil
	case <-s.context.Done():
		return errGone
	}
}

// try queues a frame if there is a place. Hosts that do not read lose news, and
// never hold up a job.
func (s *session) try(to chan wire.Frame, stream uint32, k wire.Kind, body []byte) {
	select {
	case to <- wire.Frame{Stream: stream, Kind: k, Body: body}:
	default:
	}
}

// hello says hello until the host has answered.
func (s *session) hello() {
	s.a.mu.Lock()
	incarnation := s.a.incarnation
	s.a.mu.Unlock()
	body := wire.Encode(wire.Hello{Version: wire.Version, Secret: s.a.c.Secret, Incarnation: incarnation,
		Boot: s.a.boot, Agent: s.a.c.Agent})
	for {
		s.mu.Lock()
		answered := s.welcomed
		s.mu.Unlock()
		if answered {
			return
		}
		if len(s.out) == 0 { // one that is still in the queue is enough
			s.try(s.out, 0, wire.KindHello, body)
		}
		if !pause(s.context, s.a.c.HelloInterval) {
			return
		}
	}
}

// read takes frames until the channel ends.
func (s *session) read() {
	r := wire.NewReader(s.conn)
	for {
		f, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("guest: reading from the channel: %w", err)
			}
			s.end(err)
			return
		}
		s.a.hear()
		if f.Stream == 0 {
			s.machine(f)
		} else {
			s.dispatch(f)
		}
		if s.context.Err() != nil {
			return
		}
	}
}

// machine takes a frame of stream 0.
func (s *session) machine(f wire.Frame) {
	switch f.Kind {
	case wire.KindWelcome:
		var w wire.Welcome
		if err := wire.Decode(f.Kind, f.Body, &w); err != nil {
			s.a.log.Warn("welcome not understood", "err", err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.welcomed && !s.closed {
			s.welcomed = true
			s.work.Go(func() { s.welcome(w) })
		}
	case wire.KindRefused:
		var fault wire.Fault
		if err := wire.Decode(f.Kind, f.Body, &fault); err != nil {
			fault.Error = err.Error()
		}
		s.end(fmt.Errorf("%w: %s", ErrRefused, fault.Error))
	case wire.KindPing:
		s.try(s.urgent, 0, wire.KindPong, f.Body)
	case wire.KindPowerOff:
		s.end(errPowerOff)
	default:
		s.a.log.Debug("frame not understood", "kind", f.Kind)
	}
}

// welcome gets the machine ready and says so.
func (s *session) welcome(w wire.Welcome) {
	a := s.a
	var failed []error
	hook := func(name string, set bool, do func() error) {
		if !set {
			return
		}
		if err := do(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	hook("reseed", a.c.Reseed != nil, func() error { return a.c.Reseed(w.Entropy) })
	hook("clock", a.c.SetClock != nil && !w.Clock.IsZero(), func() error { return a.c.SetClock(w.Clock) })
	hook("host name", a.c.SetHostName != nil && w.HostName != "", func() error { return a.c.SetHostName(w.HostName) })
	hook("machine id", a.c.SetMachineID != nil && w.MachineID != "", func() error { return a.c.SetMachineID(w.MachineID) })
	ready := wire.Ready{Dirty: a.dirty(), Details: a.c.Details}
	if err := errors.Join(failed...); err != nil {
		// Not ready in the sense that counts: the host must not use it.
		ready.Dirty = "not set up: " + err.Error()
		a.log.Error("the machine could not be set up", "err", err)
	}
	a.mu.Lock()
	ready.Jobs = a.seen
	a.keepalive, a.heard = w.Keepalive, time.Now()
	a.props = w.Properties
	if w.Incarnation != "" {
		a.incarnation = w.Incarnation // a guest out of a saved state learns its own
	}
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	if err := s.send(0, wire.KindReady, wire.Encode(ready)); err != nil {
		a.log.Debug("ready was not said", "err", err)
	}
}

// dispatch takes a frame of a job, command or copy.
func (s *session) dispatch(f wire.Frame) {
	s.mu.Lock()
	st, known := s.streams[f.Stream]
	ready, count := s.ready, len(s.streams)
	s.mu.Unlock()
	if known {
		st.take(f)
		return
	}
	var run func(*stream, []byte)
	jobs := false
	switch f.Kind {
	case wire.KindGo:
		run, jobs = s.a.runJob, true
	case wire.KindExec:
		run = s.a.runCommand
	case wire.KindPut:
		run = s.a.runPut
	case wire.KindGet:
		run = s.a.runGet
	default:
		return // late words to a stream that has ended
	}
	if !ready || count >= maxStreams {
		why := "the guest is not ready"
		if ready {
			why = fmt.Sprintf("%d jobs, commands and copies are running, which is the most", count)
		}
		s.try(s.urgent, f.Stream, wire.KindFault, wire.Encode(wire.Fault{Error: why}))
		return
	}
	parent, group := s.context, &s.work
	if jobs {
		parent, group = s.a.context, &s.a.jobs
	}
	st = newStream(parent, s, f.Stream)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		st.cancel(errGone)
		return
	}
	s.streams[f.Stream] = st
	group.Go(func() {
		defer st.cancel(nil)
		defer st.forget()
		if err := s.a.soil(); err != nil {
			st.fault(err)
			return
		}
		run(st, f.Body)
	})
}

// progress tells news of a job.
func (st *stream) progress(p diskio.Progress) {
	st.s.try(st.s.out, st.id, wire.KindMessage, p.Encode())
}
