package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// message is what master and worker say to each other: a line of JSON on a socket
// pair that only they have. Each is acknowledged when the other side has taken it.
type message struct {
	Seq  uint64 `json:"seq,omitempty"`
	Ack  uint64 `json:"ack,omitempty"` // of that message; nothing else is in it
	Kind string `json:"kind,omitempty"`

	Config string   `json:"config,omitempty"` // hello: the path of slave_config
	Handle string   `json:"handle,omitempty"` // hello: opens the appliance
	Group  string   `json:"group,omitempty"`  // run
	Tests  []string `json:"tests,omitempty"`  // run, collected
	Event  *event   `json:"event,omitempty"`
	Error  string   `json:"error,omitempty"`  // collected, done
	Faulty bool     `json:"faulty,omitempty"` // it is the machine's
}

// The kinds of messages.
const (
	sayHello     = "hello"     // master: who you are
	sayCollect   = "collect"   // master: list the tests
	sayRun       = "run"       // master: run a group
	sayStop      = "stop"      // master: end the test that runs, and the group
	sayShutdown  = "shutdown"  // master: end
	sayReady     = "ready"     // worker: I am here
	sayCollected = "collected" // worker: the listing
	sayEvent     = "event"     // worker: news of a test
	sayDone      = "done"      // worker: the group is over
)

// errLink: the other side is gone.
var errLink = errors.New("the other side is gone")

// link is one end. Send may be called from several goroutines, receive from one.
type link struct {
	conn net.Conn

	mu    sync.Mutex
	seq   uint64
	acks  map[uint64]chan struct{}
	wrong error

	received chan message
	over     chan struct{} // closed when nothing more comes
}

// newLink begins to receive, in a goroutine of its own that ends with the
// connection. Close it.
func newLink(conn net.Conn) *link {
	l := &link{conn: conn, acks: map[uint64]chan struct{}{}, received: make(chan message, 16), over: make(chan struct{})}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.received)
	defer close(l.over)
	d := json.NewDecoder(l.conn)
	for {
		var m message
		err := d.Decode(&m)
		l.mu.Lock()
		if err != nil {
			l.wrong = fmt.Errorf("%w: %w", errLink, err)
			if errors.Is(err, io.EOF) {
				l.wrong = errLink
			}
			l.mu.Unlock()
			return
		}
		if m.Ack != 0 {
			if c := l.acks[m.Ack]; c != nil {
				close(c)
				delete(l.acks, m.Ack)
			}
			l.mu.Unlock()
			continue
		}
		l.mu.Unlock()
		l.received <- m
	}
}

// Send says something and waits until the other side has taken it.
func (l *link) Send(ctx context.Context, m message) error {
	taken := make(chan struct{})
	l.mu.Lock()
	l.seq++
	m.Seq = l.seq
	l.acks[m.Seq] = taken
	err := l.write(m)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-taken:
		return nil
	case <-l.over:
		return l.err()
	case <-ctx.Done():
		return fmt.Errorf("%s was not acknowledged: %w", m.Kind, context.Cause(ctx))
	}
}

// write is called with mu held: lines are whole. A side that does not read is cut off
// by the other's Close.
func (l *link) write(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errLink, err)
	}
	return nil
}

// Receive gives the next message and acknowledges it.
func (l *link) Receive(ctx context.Context) (message, error) {
	select {
	case m, ok := <-l.received:
		if !ok {
			return m, l.err()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return m, l.write(message{Ack: m.Seq})
	case <-ctx.Done():
		return message{}, context.Cause(ctx)
	}
}

func (l *link) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong
}

// Close cuts the connection and waits for the goroutine; what was not received is
// dropped.
func (l *link) Close() {
	_ = l.conn.Close() // nothing is written through it any more
	for range l.received {
	}
}
