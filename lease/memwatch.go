package lease

import "context"

// memWatches wakes the watchers of a MemStore. They are found by the prefixes
// of a changed key that have a length that somebody watches, so ten thousand
// watchers of single keys cost a change no more than one does.
type memWatches struct {
	n        int
	lengths  map[int]int
	byPrefix map[string]map[*memWatch]struct{}
}

type memWatch struct{ ch chan struct{} }

// Watch implements Watcher. The channel is closed when ctx ends.
func (s *MemStore) Watch(ctx context.Context, prefix string) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	w := &memWatch{ch: make(chan struct{}, 1)}
	s.mu.Lock()
	s.watches.add(prefix, w)
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watches.remove(prefix, w)
		close(w.ch)
	})
	return w.ch, nil
}

func (w *memWatches) add(prefix string, one *memWatch) {
	if w.lengths == nil {
		w.lengths = make(map[int]int)
		w.byPrefix = make(map[string]map[*memWatch]struct{})
	}
	if w.byPrefix[prefix] == nil {
		w.byPrefix[prefix] = make(map[*memWatch]struct{})
	}
	w.byPrefix[prefix][one] = struct{}{}
	w.lengths[len(prefix)]++
	w.n++
}

func (w *memWatches) remove(prefix string, one *memWatch) {
	delete(w.byPrefix[prefix], one)
	if len(w.byPrefix[prefix]) == 0 {
		delete(w.byPrefix, prefix)
	}
	if w.lengths[len(prefix)]--; w.lengths[len(prefix)] == 0 {
		delete(w.lengths, len(prefix))
	}
	w.n--
}

func (w *memWatches) tell(key string) {
	for n := range w.lengths {
		if n > len(key) {
			continue
		}
		for one := range w.byPrefix[key[:n]] {
			select {
			case one.ch <- struct{}{}:
			default: // it has not yet looked at the last one
			}
		}
	}
}
