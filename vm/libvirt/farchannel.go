//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"fmt"
	"io"
	"sync"

	lv "libvirt.org/go/libvirt"

	"github.com/bullpen-vm/bullpen/vm"
)

// Channel opens a channel as a stream of the connection.
func (c *connection) Channel(name, channel string) (io.ReadWriteCloser, error) {
	r := &farChannel{c: c, wake: [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}, over: make(chan struct{})}
	err := c.with(name, func(d *lv.Domain) (err error) {
		if r.s, err = c.raw.NewStream(lv.STREAM_NONBLOCK); err != nil {
			return err
		}
		if err = d.OpenChannel(channel, r.s, 0); err == nil {
			if r.number, err = events.streams.add(r.s, always, r.tell); err != nil {
				_ = r.s.Abort()
			}
		}
		if err != nil {
			_ = r.s.Free()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.channels == nil {
		c.channels = map[*farChannel]bool{}
	}
	c.channels[r] = true
	return r, nil
}

// always are the events that are asked for whether anybody waits or not.
const always = lv.STREAM_EVENT_HANGUP | lv.STREAM_EVENT_ERROR

// The two sides of a farChannel.
const (
	reading = iota
	writing
)

var sideEvents = [2]lv.StreamEventType{lv.STREAM_EVENT_READABLE, lv.STREAM_EVENT_WRITABLE}

// farChannel is a channel over a stream that never blocks: libvirt's loop says
// when it can be read or written, which it is asked for only while somebody
// waits, for it says so again and again. One may read and one may write at a time.
type farChannel struct {
	c *connection
	s *lv.Stream
	// number is that of its events.
	number uintptr

	wake [2]chan struct{}
	over chan struct{} // closed by Close
	once sync.Once

	calls sync.RWMutex // read-held in calls, which never wait; held to end the stream

	mu     sync.Mutex
	wanted lv.StreamEventType
	closed bool
}

// tell is called by libvirt's loop.
func (r *farChannel) tell(e lv.StreamEventType) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for side, event := range sideEvents {
		if e&(event|always) != 0 {
			r.wanted &^= event
			select {
			case r.wake[side] <- struct{}{}:
			default:
			}
		}
	}
	left := r.wanted | always
	if e&always != 0 {
		left = 0 // said once: reads and writes fail from now on
	}
	_ = r.s.EventUpdateCallback(left) // a stream that has ended has none
}

// wait waits until a side may go on.
func (r *farChannel) wait(side int) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return fmt.Errorf("channel: %w", vm.ErrClosed)
	}
	r.wanted |= sideEvents[side]
	err := r.s.EventUpdateCallback(r.wanted | always)
	r.mu.Unlock()
	if err != nil {
		return wrap(err, false)
	}
	select {
	case <-r.wake[side]:
		return nil
	case <-r.over:
		return fmt.Errorf("channel: %w", vm.ErrClosed)
	}
}

// move does one call of the stream, whose count -2 is "not now".
func (r *farChannel) move(side int, b []byte, f func(*lv.Stream, []byte) (int, error)) (int, error) {
	for {
		n, err := 0, fmt.Errorf("channel: %w", vm.ErrClosed)
		r.calls.RLock()
		select {
		case <-r.over:
		default:
			n, err = f(r.s, b)
		}
		r.calls.RUnlock()
		if n >= 0 || err != nil {
			return n, wrap(err, false)
		}
		if err := r.wait(side); err != nil {
			return 0, err
		}
	}
}

func (r *farChannel) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return r.move(reading, b, (*lv.Stream).Recv)
}

// mostSent is what fits into one message of libvirt's protocol, with room to spare.
const mostSent = 64 << 10

func (r *farChannel) Write(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := r.move(writing, b[done:min(len(b), done+mostSent)], (*lv.Stream).Send)
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

// Close ends the stream, and whoever waits for it.
func (r *farChannel) Close() error {
	r.once.Do(func() {
		close(r.over)
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		r.calls.Lock()
		defer r.calls.Unlock()
		_ = r.s.EventRemoveCallback()
		events.streams.remove(r.number)
		_ = r.s.Abort() // it may have ended by itself
		_ = r.s.Free()
		r.c.mu.Lock()
		delete(r.c.channels, r)
		r.c.mu.Unlock()
	})
	return nil
}
