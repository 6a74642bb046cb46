package fake

import (
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

// helloEvery is how often a guest says hello until it is welcomed.
const helloEvery = time.Second

// agent is the guest's side of one connection.
type agent struct {
	b        *boot
	line     *end
	write    sync.Mutex    // one frame at a time
	welcomed chan struct{} // closed at the first welcome

	mu      sync.Mutex
	streams map[uint32]*stream
}

// serve speaks with the host until the connection or the boot ends.
func (b *boot) serve(line *end) {
	a := &agent{b: b, line: line, welcomed: make(chan struct{}), streams: map[uint32]*stream{}}
	if !b.fault.Silent {
		b.spawn(a.hello)
	}
	var alive *time.Timer // the dead man's switch
	keep := b.h.c.Keepalive
	if keep > 0 {
		alive = time.AfterFunc(keep, func() {
			b.finish(vm.End{Kind: vm.EndPoweredOff, Detail: "heard nothing from the host for " + keep.String()})
		})
		// It goes on counting when the connection ends, until the boot does.
		b.spawn(func() {
			<-b.ended
			alive.Stop()
		})
	}
	r := wire.NewReader(line)
	for {
		f, err := r.Next()
		if err != nil {
			break
		}
		b.running()
		if alive != nil {
			alive.Reset(keep)
		}
		if b.ctx.Err() != nil {
			break
		}
		a.take(f)
	}
	_ = line.Close() // in memory: it cannot fail
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.streams {
		s.cut()
	}
}

// send writes one frame. Errors are the connection's end, which serve sees.
func (a *agent) send(stream uint32, k wire.Kind, body []byte) {
	a.b.running()
	p, err := wire.Append(nil, wire.Frame{Stream: stream, Kind: k, Body: body})
	if err != nil {
		p, _ = wire.Append(nil, wire.Frame{Stream: stream, Kind: wire.KindFault, Body: wire.Encode(wire.Fault{Error: err.Error()})})
	}
	a.write.Lock()
	defer a.write.Unlock()
	_, _ = a.line.Write(p)
}

// hello says hello until it is welcomed.
func (a *agent) hello() {
	b := a.b
	if pause(b.ctx, time.Until(b.up)) != nil {
		return
	}
	h := wire.Hello{Version: wire.Version, Secret: b.secret.Reveal(), Incarnation: b.inc, Boot: b.name, Agent: "fake"}
	if b.fault.WrongHello {
		h.Secret += "wrong"
	}
	if b.fault.OtherHello {
		h.Incarnation += "-other"
	}
	for {
		if n := b.fault.Noise; n > 0 {
			a.write.Lock()
			_, _ = a.line.Write(make([]byte, n))
			a.write.Unlock()
		}
		a.send(0, wire.KindHello, wire.Encode(h))
		t := time.NewTimer(helloEvery)
		select {
		case <-a.welcomed:
			t.Stop()
			return
		case <-b.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// take does what one frame asks.
func (a *agent) take(f wire.Frame) {
	b := a.b
	if f.Stream == 0 {
		switch f.Kind {
		case wire.KindWelcome:
			select {
			case <-a.welcomed:
				return
			default:
				close(a.welcomed)
			}
			a.ready()
		case wire.KindRefused:
			b.finish(vm.End{Kind: vm.EndPoweredOff, Detail: "its hello was refused"})
		case wire.KindPing:
			if !b.fault.Deaf {
				a.send(0, wire.KindPong, f.Body)
			}
		case wire.KindPowerOff:
			if !b.fault.Deaf {
				b.h.mu.Lock()
				if b.r.boot == b {
					b.powerOff()
				}
				b.h.mu.Unlock()
			}
		}
		return
	}
	if b.fault.Deaf {
		return
	}
	switch f.Kind {
	case wire.KindGo, wire.KindExec, wire.KindPut, wire.KindGet:
		a.begin(f)
	default:
		a.mu.Lock()
		s := a.streams[f.Stream]
		a.mu.Unlock()
		if s != nil {
			s.take(f)
		}
	}
}

// ready says what the guest knows of itself.
func (a *agent) ready() {
	b := a.b
	b.h.mu.Lock()
	r := wire.Ready{Dirty: b.r.memory.dirty, Jobs: b.r.memory.jobs, Details: map[string]string{"kernel": "fake"}}
	b.h.mu.Unlock()
	if b.fault.Dirty != "" {
		r.Dirty = b.fault.Dirty
	}
	a.send(0, wire.KindReady, wire.Encode(r))
	if b.fault.SecondBoot {
		a.send(0, wire.KindHello, wire.Encode(wire.Hello{
			Version: wire.Version, Secret: b.secret.Reveal(), Incarnation: b.inc, Boot: b.name + "-again", Agent: "fake",
		}))
	}
}

// begin starts a job, a command or a copy.
func (a *agent) begin(f wire.Frame) {
	a.mu.Lock()
	if a.streams[f.Stream] != nil {
		a.mu.Unlock()
		a.send(f.Stream, wire.KindFault, wire.Encode(wire.Fault{Error: "the stream is in use"}))
		return
	}
	s := newStream(a, f.Stream)
	a.streams[f.Stream] = s
	a.mu.Unlock()
	var run func(*stream, []byte) (wire.Kind, any)
	switch f.Kind {
	case wire.KindGo:
		a.b.touch("a job ran")
		run = a.job
	case wire.KindExec:
		a.b.touch("a command ran")
		run = a.exec
	case wire.KindPut:
		a.b.touch("files were copied to it")
		run = a.put
	default:
		a.b.touch("files were copied from it")
		run = a.get
	}
	a.b.spawn(func() {
		kind, last := run(s, f.Body)
		a.mu.Lock()
		delete(a.streams, s.id)
		a.mu.Unlock()
		s.cut()
		if a.b.ctx.Err() == nil {
			a.send(s.id, kind, wire.Encode(last))
		}
	})
}
