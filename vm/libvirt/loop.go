//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
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
}

// events is the owner of what libvirt itself keeps once for the process.
var events eventLoop

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
