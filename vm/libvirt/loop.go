//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	lv "libvirt.org/go/libvirt"
)

// eventLoop runs libvirt's default event loop, of which there is one in a
// process, in C, for as long as anybody has a connection.
type eventLoop struct {
	mu         sync.Mutex
	registered bool
	users      int
	stop       *atomic.Bool
	done       chan struct{}

	// embedded is the connection to the embedded driver, kept until the process
	// ends: each new one registers the driver with libvirt anew, which ends with
	// "too many drivers" at about the tenth.
	embedded *lv.Connect
	uri      string // of embedded
	sinks    sinks  // of its events: libvirt takes the same callback once a connection

	streams streamCalls
}

// reaches refuses what libvirt would refuse with a text that says nothing.
func (l *eventLoop) reaches(t target) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.embedded != nil && !t.remote() && t.kind != kindTest {
		return fmt.Errorf("this process has opened %s, after which libvirt lets it reach no daemon of this computer: use one or the other", l.uri)
	}
	return nil
}

// sinks hand one stream of events to many.
type sinks struct {
	mu  sync.Mutex
	all map[int]func(event)
	n   int
}

func (s *sinks) add(f func(event)) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[int]func(event){}
	}
	s.n++
	s.all[s.n] = f
	return s.n
}

func (s *sinks) remove(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, n)
}

// put calls all, which do not block.
func (s *sinks) put(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.all {
		f(e)
	}
}

// events is the owner of what libvirt itself keeps once for the process.
var events eventLoop

// embed gives the process's connection to the embedded driver.
func (l *eventLoop) embed(uri string) (*lv.Connect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.embedded == nil {
		t, err := parseURI(uri)
		if err == nil {
			_, err = freeEmbedded(t.root)
		}
		if err != nil {
			return nil, fmt.Errorf("domains whose start was cut short: %w", err)
		}
		c, err := lv.NewConnect(uri)
		if err != nil {
			return nil, wrap(err, false)
		}
		if _, err := listen(c, l.sinks.put); err != nil {
			_, cerr := c.Close()
			return nil, errors.Join(err, cerr)
		}
		l.embedded, l.uri = c, uri
	}
	if l.uri != uri {
		return nil, fmt.Errorf("this process has opened %s already, and libvirt allows one embedded driver a process", l.uri)
	}
	return l.embedded, nil
}

// acquire starts the loop. It must have been called before any connection is
// opened.
func (l *eventLoop) acquire() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.registered {
		if err := lv.EventRegisterDefaultImpl(); err != nil {
			return fmt.Errorf("libvirt's event loop: %w", err)
		}
		l.registered = true
	}
	if l.users++; l.users > 1 {
		return nil
	}
	stop, done := &atomic.Bool{}, make(chan struct{})
	l.stop, l.done = stop, done
	go func() {
		defer close(done)
		for !stop.Load() {
			if err := lv.EventRunDefaultImpl(); err != nil {
				return // it only fails without an implementation
			}
		}
	}()
	return nil
}

// release stops the loop with its last user.
func (l *eventLoop) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users > 0 {
		return nil
	}
	l.stop.Store(true)
	// A timer that is due at once ends the wait in which the loop may be.
	timer, err := lv.EventAddTimeout(0, func(int) {})
	if err != nil {
		return fmt.Errorf("libvirt's event loop: %w", err)
	}
	<-l.done
	return lv.EventRemoveTimeout(timer)
}

// listen asks for a connection's events.
func listen(c *lv.Connect, sink func(event)) (callback int, err error) {
	callback, err = c.DomainEventLifecycleRegister(nil, func(_ *lv.Connect, d *lv.Domain, e *lv.DomainEventLifecycle) {
		if name, err := d.GetName(); err == nil {
			sink(event{name, int(e.Event), e.Detail})
		}
	})
	return callback, wrap(err, false)
}
