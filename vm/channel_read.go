package vm

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// phase is how far the handshake is.
type phase uint8

const (
	phaseNew      phase = iota // no hello was accepted
	phaseWelcomed              // one was, and the guest sets itself up
	phaseReady
)

// refusalsLogged is how many refused hellos of one channel are logged; the rest
// is only counted, so that a guest cannot fill the log.
const refusalsLogged = 10

// read takes frames until the connection ends. It never waits for anything but
// the connection.
func (l *link) read() {
	defer l.work.Done()
	r := wire.NewReader(l.rw)
	for {
		f, err := r.Next()
		l.mu.Lock()
		l.stats.Skipped = r.Skipped()
		if err != nil {
			l.end(err)
			l.mu.Unlock()
			break
		}
		l.stats.Frames++
		l.stats.LastHeard = time.Now()
		l.take(f)
		l.mu.Unlock()
	}
	close(l.done)
	// Nothing is heard any more, so nothing more is said.
	if err := l.rw.Close(); err != nil {
		l.log.Debug("channel: close of the connection", "error", err)
	}
}

// end marks everything as ended. The caller holds mu.
func (l *link) end(err error) {
	if l.err == nil {
		if err == nil || errors.Is(err, io.EOF) {
			l.err = ErrChannelEnded
		} else {
			l.err = fmt.Errorf("%w: %w", ErrChannelEnded, err)
		}
	}
	for _, f := range l.streams {
		f.stop()
	}
}

// take sorts one frame. The caller holds mu.
func (l *link) take(f wire.Frame) {
	if f.Stream != 0 {
		s := l.streams[f.Stream]
		if s == nil || l.phase != phaseReady {
			l.stats.Stray++
			return
		}
		l.takeStream(s, f)
		return
	}
	switch f.Kind {
	case wire.KindHello:
		l.hello(f.Body)
	case wire.KindReady:
		l.takeReady(f.Body)
	case wire.KindPong:
		if len(f.Body) == 8 {
			n := binary.LittleEndian.Uint64(f.Body)
			if pong := l.pings[n]; pong != nil {
				close(pong)
				delete(l.pings, n)
			}
		}
	default:
		l.stats.Stray++
	}
}

// hello accepts or refuses a hello. The caller holds mu.
func (l *link) hello(body []byte) {
	var h wire.Hello
	if err := wire.Decode(wire.KindHello, body, &h); err != nil {
		l.refuse("it cannot be read", h)
		return
	}
	switch {
	case h.Version != wire.Version:
		l.refuse(fmt.Sprintf("it speaks version %d of the protocol, want %d", h.Version, wire.Version), h)
	case subtle.ConstantTimeCompare([]byte(h.Secret), []byte(l.c.Secret.Reveal())) != 1:
		l.refuse("the secret is wrong", h)
	case h.Incarnation != l.c.Incarnation && (l.c.SavedIncarnation == "" || h.Incarnation != l.c.SavedIncarnation):
		l.refuse(fmt.Sprintf("it is of incarnation %q, want %q", clip(h.Incarnation), l.c.Incarnation), h)
	case l.phase == phaseNew:
		l.phase, l.boot = phaseWelcomed, h.Boot
		l.greeting = Greeting{Boot: h.Boot, Agent: h.Agent}
		l.sendWelcome()
	case l.phase == phaseWelcomed && h.Boot == l.boot:
		// Said again before the welcome arrived, or the welcome was lost on a
		// line that nobody had opened yet.
		l.sendWelcome()
	default:
		l.refuse("it is a second one: the guest or its agent started anew", h)
		// The agent that had been welcomed is gone, and with it all that ran.
		if l.err == nil {
			l.err = fmt.Errorf("%w: a second one came, so the guest or its agent started anew", ErrRefused)
			close(l.broken)
		}
		for _, f := range l.streams {
			f.stop()
		}
	}
}

func (l *link) sendWelcome() {
	l.welcome = wire.Encode(wire.Welcome{
		Version:     wire.Version,
		Machine:     string(l.c.Machine),
		HostName:    l.c.HostName,
		MachineID:   l.c.MachineID,
		Incarnation: l.c.Incarnation,
		Entropy:     newEntropy(),
		Clock:       time.Now(),
		Properties:  maps.Clone(l.c.Properties),
		Keepalive:   l.c.Keepalive,
	})
	l.poke()
}

func (l *link) refuse(why string, h wire.Hello) {
	l.stats.Refused++
	if l.stats.Refused == 1 {
		close(l.refused)
	}
	if l.stats.Refused <= refusalsLogged {
		// The secret that was said stays out of the log: it may be another
		// machine's right one.
		l.log.Warn("channel: hello refused", "why", why, "agent", clip(h.Agent), "boot", clip(h.Boot), "count", l.stats.Refused)
	}
	l.refusal = wire.Encode(wire.Fault{Error: "hello refused: " + why})
	l.poke()
}

// clip bounds what a guest may put into a log or an error.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

func (l *link) takeReady(body []byte) {
	var r wire.Ready
	if err := wire.Decode(wire.KindReady, body, &r); err != nil || l.phase != phaseWelcomed {
		l.stats.Stray++
		return
	}
	l.phase = phaseReady
	l.greeting.Dirty, l.greeting.Jobs, l.greeting.Details = r.Dirty, r.Jobs, r.Details
	close(l.ready)
	l.poke() // the writer starts its pings
}

// takeStream puts a frame on its stream. The caller holds mu.
func (l *link) takeStream(s *flow, f wire.Frame) {
	switch f.Kind {
	case wire.KindWindow:
		var w wire.Window
		if err := wire.Decode(f.Kind, f.Body, &w); err != nil || w.Bytes < 0 {
			l.stats.Stray++
			return
		}
		s.granted(w.Bytes)
	case wire.KindStdout, wire.KindStderr, wire.KindData:
		if again := s.data(f); again > 0 {
			l.grant(s.id, again)
		}
	case wire.KindDone, wire.KindExit, wire.KindCopied, wire.KindFault:
		s.last(f)
		delete(l.streams, s.id)
		delete(l.grants, s.id)
	default:
		if f.Kind < wire.KindMessage {
			l.stats.Stray++
		} else if !s.message(f) {
			l.stats.Dropped++
		}
	}
}

// grant lets the guest send more on a stream. The caller holds mu.
func (l *link) grant(stream uint32, n int64) {
	l.grants[stream] += n
	l.poke()
}

// poke wakes the writer.
func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
