package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// RelayConfig is what a relay says in its hello: what the ChannelConfig at the
// other end wants to hear.
type RelayConfig struct {
	Incarnation string
	Secret      Secret
}

// Relay plays the guest's part on rw, at whose other end somebody has made a
// channel with NewChannel, such as another process: what is asked for there is
// done on c, with c's interceptors. Streams are copied with their flow control, so
// one that nobody reads holds up no other.
//
// It takes over rw and returns when ctx, rw or c has ended, after what the guest
// said last was handed on, what still ran on it was killed in the guest, and rw
// was closed. The error says what ended it; nil when rw ended. Close of rw must
// end a Read and a Write under way.
func Relay(ctx context.Context, c *Channel, rw io.ReadWriteCloser, o RelayConfig) error {
	r := &relay{c: c, rw: rw, out: make(chan []byte), legs: map[uint32]*leg{}}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.ctx, func() { _ = rw.Close() }) // ends read and write
	r.wg.Go(r.write)
	r.wg.Go(r.read)
	r.wg.Go(func() {
		_ = r.say(0, wire.KindHello, wire.Encode(wire.Hello{
			Version: wire.Version, Secret: o.Secret.Reveal(), Incarnation: o.Incarnation, Boot: "relay", Agent: "relay",
		}))
	})
	r.wg.Go(r.watch)
	<-r.ctx.Done()
	if stop() {
		_ = rw.Close()
	}
	r.wg.Wait()
	r.pumps.Wait()
	if err := context.Cause(r.ctx); !errors.Is(err, errRelayed) {
		return &OpError{Op: OpChannel, ID: c.id, Err: fmt.Errorf("relay: %w", err)}
	}
	return nil
}

// errRelayed: the other end is gone, and so there is nobody to relay for.
var errRelayed = errors.New("the other end of the relay has ended")

// What one end may have asked for and not got yet, beside streams.
const (
	relayPings   = 64
	relayCancels = 8
	relayStreams = 1024
)

type relay struct {
	c      *Channel
	rw     io.ReadWriteCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    chan []byte // frames for the writer
	wg     sync.WaitGroup
	pumps  sync.WaitGroup // those that read what the guest says

	mu     sync.Mutex
	legs   map[uint32]*leg // by the other end's number
	pings  int
	closed bool // the channel has ended: no new legs
}

// leg is one stream, under the other end's number on one side and the guest's on
// the other. mu of the relay protects the fields that are not channels.
type leg struct {
	id       uint32
	stream   *Stream
	work     chan struct{} // a token: something for the guest
	writable chan struct{} // a token: credit came
	queue    []wire.Frame
	waiting  int64 // bytes of Stdin and Data in queue, or taken and not granted anew
	credit   int64 // what the other end takes
	cancels  int
	over     chan struct{}
}

// watch ends the relay when the channel does, once all of it was handed on.
func (r *relay) watch() {
	select {
	case <-r.ctx.Done():
		return
	case <-r.c.Done():
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.pumps.Wait()
	r.flush()
	r.cancel(r.c.Err())
}

// write sends what is handed to it.
func (r *relay) write() {
	for {
		select {
		case b := <-r.out:
			if len(b) == 0 {
				continue
			}
			if _, err := r.rw.Write(b); err != nil {
				r.cancel(errRelayed)
				return
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// flush returns when all that was said before is written.
func (r *relay) flush() {
	select {
	case r.out <- nil:
	case <-r.ctx.Done():
	}
}

func (r *relay) say(stream uint32, k wire.Kind, body []byte) error {
	b, err := wire.Append(nil, wire.Frame{Stream: stream, Kind: k, Body: body})
	if err != nil {
		return err
	}
	select {
	case r.out <- b:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// read takes the other end's frames. It waits for nothing but them.
func (r *relay) read() {
	in := wire.NewReader(r.rw)
	welcomed := false
	for {
		f, err := in.Next()
		if err != nil {
			r.cancel(errRelayed)
			return
		}
		switch {
		case f.Stream != 0:
			r.take(f)
		case f.Kind == wire.KindWelcome && !welcomed:
			welcomed = true
			r.wg.Go(r.ready)
		case f.Kind == wire.KindRefused:
			var why wire.Fault
			_ = wire.Decode(f.Kind, f.Body, &why)
			r.cancel(fmt.Errorf("%w: %s", ErrRefused, clip(why.Error)))
		case f.Kind == wire.KindPing:
			r.ping(f.Body)
		case f.Kind == wire.KindPowerOff:
			r.wg.Go(func() { _ = r.c.PowerOff(r.ctx) })
		}
	}
}

// ready says that the guest is, with all that was done on it before.
func (r *relay) ready() {
	g, err := r.c.Ready(r.ctx)
	if err != nil {
		r.cancel(err)
		return
	}
	_ = r.say(0, wire.KindReady, wire.Encode(wire.Ready{
		Dirty: g.Dirty, Jobs: g.Jobs + int(r.c.Stats().Opened), Details: g.Details,
	}))
}

func (r *relay) ping(body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pings >= relayPings {
		return
	}
	r.pings++
	r.wg.Go(func() {
		_, err := r.c.Ping(r.ctx)
		r.mu.Lock()
		r.pings--
		r.mu.Unlock()
		if err == nil {
			_ = r.say(0, wire.KindPong, body)
		}
	})
}

// take sorts a frame of a stream.
func (r *relay) take(f wire.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.legs[f.Stream]
	if l == nil {
		switch f.Kind {
		case wire.KindGo, wire.KindExec, wire.KindPut, wire.KindGet:
			r.open(f)
		}
		return // else it is late
	}
	switch f.Kind {
	case wire.KindWindow:
		var w wire.Window
		if err := wire.Decode(f.Kind, f.Body, &w); err == nil && w.Bytes > 0 {
			const most = 1 << 40
			l.credit = min(l.credit+min(w.Bytes, most), most)
			signal(l.writable)
		}
	case wire.KindCancel: // not behind what the guest does not take
		if l.cancels < relayCancels {
			l.cancels++
			r.wg.Go(func() { _ = l.stream.Send(r.ctx, uint8(f.Kind), f.Body) })
		}
	case wire.KindStdin, wire.KindData:
		if l.waiting += int64(len(f.Body)); l.waiting > wire.InitialWindow {
			r.cancel(fmt.Errorf("the other end sent %d bytes beyond its window", l.waiting-wire.InitialWindow))
			return
		}
		l.push(f)
	}
}

// push queues a frame for the guest. Small ones are joined, so that single bytes
// cost no more memory than the window. The caller holds mu.
func (l *leg) push(f wire.Frame) {
	if n := len(l.queue); n > 0 && len(f.Body) > 0 {
		last := &l.queue[n-1]
		if last.Kind == f.Kind && len(last.Body) > 0 && len(last.Body)+len(f.Body) <= wire.MaxBody {
			last.Body = append(last.Body, f.Body...)
			signal(l.work)
			return
		}
	}
	l.queue = append(l.queue, f)
	signal(l.work)
}

// open begins a leg. The caller holds mu.
func (r *relay) open(f wire.Frame) {
	refuse := func(why string) {
		r.wg.Go(func() { _ = r.say(f.Stream, wire.KindFault, wire.Encode(wire.Fault{Error: why})) })
	}
	if r.closed {
		return // the connection ends with it
	}
	if len(r.legs) >= relayStreams {
		refuse(fmt.Sprintf("%d streams are open", len(r.legs)))
		return
	}
	s, err := r.c.Open(0)
	if err != nil {
		refuse(err.Error())
		return
	}
	l := &leg{
		id: f.Stream, stream: s, credit: wire.InitialWindow, over: make(chan struct{}),
		work: make(chan struct{}, 1), writable: make(chan struct{}, 1),
	}
	r.legs[f.Stream] = l
	l.push(f)
	r.wg.Go(func() { r.feed(l) })
	r.pumps.Go(func() { r.pump(l) })
}

// feed hands the other end's frames to the guest, in order.
func (r *relay) feed(l *leg) {
	var took int64
	for {
		r.mu.Lock()
		var f wire.Frame
		some := len(l.queue) > 0
		if some {
			f, l.queue = l.queue[0], l.queue[1:]
		}
		r.mu.Unlock()
		if !some {
			select {
			case <-l.work:
				continue
			case <-l.over:
				return
			case <-r.ctx.Done():
				return
			}
		}
		if err := l.stream.Send(r.ctx, uint8(f.Kind), f.Body); err != nil {
			// The stream is over, which the pump sees as well: its last word
			// frees whoever waits for a grant.
			return
		}
		if f.Kind != wire.KindStdin && f.Kind != wire.KindData {
			continue
		}
		if took += int64(len(f.Body)); took < wire.InitialWindow/2 {
			continue
		}
		r.mu.Lock()
		l.waiting -= took
		r.mu.Unlock()
		if r.say(l.id, wire.KindWindow, wire.Encode(wire.Window{Bytes: took})) != nil {
			return
		}
		took = 0
	}
}

// pump hands the guest's frames to the other end, to the last one.
func (r *relay) pump(l *leg) {
	defer l.stream.Close()
	defer close(l.over)
	defer r.drop(l)
	for {
		kind, body, err := l.stream.Recv(r.ctx)
		k := wire.Kind(kind)
		switch {
		case err == nil:
		case r.ctx.Err() != nil || channelLost(err) || errors.Is(err, io.EOF):
			return
		default: // a fence, or a guest that broke the rules
			r.drop(l)
			_ = r.say(l.id, wire.KindFault, wire.Encode(wire.Fault{Error: err.Error()}))
			return
		}
		switch k {
		case wire.KindStdout, wire.KindStderr, wire.KindData:
			err = r.bytes(l, k, body)
		default:
			if last(k) {
				r.drop(l) // its number is free again at the other end
			}
			err = r.say(l.id, k, body)
		}
		if err != nil {
			return
		}
	}
}

// drop forgets a leg; frames for it are late from now on.
func (r *relay) drop(l *leg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.legs[l.id] == l {
		delete(r.legs, l.id)
	}
}

// bytes hands flow-controlled bytes on, as the other end takes them.
func (r *relay) bytes(l *leg, k wire.Kind, body []byte) error {
	if len(body) == 0 {
		return r.say(l.id, k, nil)
	}
	for len(body) > 0 {
		r.mu.Lock()
		n := min(int64(len(body)), wire.MaxBody, l.credit)
		l.credit -= n
		r.mu.Unlock()
		if n == 0 {
			select {
			case <-l.writable:
				continue
			case <-r.ctx.Done():
				return context.Cause(r.ctx)
			}
		}
		if err := r.say(l.id, k, body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}
