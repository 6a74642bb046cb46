package sqlstore

import (
	"context"
	"strings"
	"sync"
)

// watches wakes those who wait for keys. The zero value is ready.
type watches struct {
	mu    sync.Mutex
	ended bool
	all   map[*watch]struct{}
	some  chan struct{} // closed when there is one; nil: nobody asks for that
}

type watch struct {
	prefix string
	ch     chan struct{}
}

func (w *watches) add(ctx context.Context, prefix string) (<-chan struct{}, error) {
	one := &watch{prefix: prefix, ch: make(chan struct{}, 1)}
	w.mu.Lock()
	if w.ended {
		w.mu.Unlock()
		return nil, ErrClosed
	}
	if w.all == nil {
		w.all = make(map[*watch]struct{})
	}
	w.all[one] = struct{}{}
	if w.some != nil {
		close(w.some)
		w.some = nil
	}
	w.mu.Unlock()
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, here := w.all[one]; here {
			delete(w.all, one)
			close(one.ch)
		}
	})
	return one.ch, nil
}

// tell wakes those who watch key.
func (w *watches) tell(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if strings.HasPrefix(key, one.prefix) {
			one.wake()
		}
	}
}

// tellAll wakes everybody: it is not known what has changed.
func (w *watches) tellAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		one.wake()
	}
}

func (one *watch) wake() {
	select {
	case one.ch <- struct{}{}:
	default: // it has not yet looked at the last one
	}
}

// any gives a channel that is closed when there is a watch; nil when there is
// one now.
func (w *watches) any() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) > 0 {
		return nil
	}
	if w.some == nil {
		w.some = make(chan struct{})
	}
	return w.some
}

func (w *watches) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for one := range w.all {
		close(one.ch)
	}
	clear(w.all)
}
