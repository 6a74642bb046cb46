package sqlstore

import (
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

// taken remembers keys that this Store has claimed, or is claiming, so that its next
// claim does not have the server look at each of them: the first that is free is then
// among the first that are asked for, and claims that run at once do not meet at one
// row. It is never relied on. What it leaves out is at most passed by while others
// are free: a record that somebody else has ended is noticed when it is renewed, or
// after a third of its TTL, which is when it should have been. The zero value is
// ready.
type taken struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// choose gives those of keys, in their order, that are not known to be taken, and
// has the first of them taken until its claim is settled. It gives none when all are:
// somebody else may have ended one of them.
func (t *taken) choose(keys []string, patience time.Duration) (free []string) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, key := range keys {
		if until, ok := t.until[key]; !ok || now.After(until) {
			if free == nil {
				free = make([]string, 0, len(keys)-i)
			}
			free = append(free, key)
		}
	}
	if len(free) > 0 {
		t.set(free[0], now.Add(patience))
	}
	return free
}

// settle is told what became of a claim of what choose gave: the key that was
// claimed, or "".
func (t *taken) settle(free []string, got string, ttl time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(free) > 0 && free[0] != got {
		delete(t.until, free[0])
	}
	if got != "" {
		t.set(got, time.Now().Add(ttl/3))
	}
}

func (t *taken) set(key string, until time.Time) {
	if t.until == nil || len(t.until) >= mostKept {
		t.until = make(map[string]time.Time)
	}
	t.until[key] = until
}

// swapped is told of swaps of records that may have been claimed here.
func (t *taken) swapped(rec lease.Record, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.until[rec.Key]; !ok {
		return
	}
	if err != nil {
		delete(t.until, rec.Key)
	} else {
		t.until[rec.Key] = time.Now().Add(rec.TTL / 3)
	}
}

func (t *taken) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.until, key)
}
