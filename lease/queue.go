package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// queue holds the waiters for one key, the next one first: a heap by priority,
// then arrival. Its methods are called with Manager.mu held.
type queue struct{ heap []*waiter }

type waiter struct {
	priority int
	seq      uint64
	index    int
	note     string
	since    int64         // monotonic
	wake     chan struct{} // has a value when it is worth looking again
	holder   Record        // who was seen to hold the key; guarded by Manager.mu
}

func (w *waiter) before(o *waiter) bool {
	if w.priority != o.priority {
		return w.priority > o.priority
	}
	return w.seq < o.seq
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (q *queue) set(i int, w *waiter) { q.heap[i], w.index = w, i }

func (q *queue) up(i int) {
	w := q.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !w.before(q.heap[parent]) {
			break
		}
		q.set(i, q.heap[parent])
		i = parent
	}
	q.set(i, w)
}

func (q *queue) down(i int) {
	w := q.heap[i]
	for {
		child := 2*i + 1
		if child >= len(q.heap) {
			break
		}
		if child+1 < len(q.heap) && q.heap[child+1].before(q.heap[child]) {
			child++
		}
		if !q.heap[child].before(w) {
			break
		}
		q.set(i, q.heap[child])
		i = child
	}
	q.set(i, w)
}

func (q *queue) push(w *waiter) {
	q.heap = append(q.heap, w)
	w.index = len(q.heap) - 1
	q.up(w.index)
}

func (q *queue) remove(w *waiter) {
	i, last := w.index, len(q.heap)-1
	moved := q.heap[last]
	q.heap[last] = nil
	q.heap = q.heap[:last]
	if i != last {
		q.set(i, moved)
		q.down(i)
		q.up(moved.index)
	}
}

// enqueue puts a new waiter into the queue of key. Called with mu held.
func (m *Manager) enqueue(key string, seq uint64, o Options) *waiter {
	w := &waiter{priority: o.Priority, seq: seq, note: o.Note, since: m.clock.mono(), wake: make(chan struct{}, 1)}
	q := m.queues[key]
	if q == nil {
		q = new(queue)
		m.queues[key] = q
	}
	q.push(w)
	return w
}

// leave takes a waiter out, however its wait ended, and gives the turn to the
// next one: nothing that it was told is lost with it.
func (m *Manager) leave(key string, w *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[key]
	q.remove(w)
	if len(q.heap) == 0 {
		delete(m.queues, key)
		return
	}
	q.heap[0].signal()
}

// wake tells the first waiter for key to look. Called with mu held.
func (m *Manager) wake(key string) {
	if q := m.queues[key]; q != nil {
		q.heap[0].signal()
	}
}

func (m *Manager) wakeUp(key string) {
	m.mu.Lock()
	m.wake(key)
	m.mu.Unlock()
}

// firstPoll is the first pause between two looks at a key; it doubles up to
// Config.Poll.
const firstPoll = 10 * time.Millisecond

// wait waits in the queue for key. Only the first waiter looks at the store:
// when it is woken, when the store's watcher says so, when the holder's time
// is over, and every poll.
func (m *Manager) wait(ctx context.Context, w *waiter, key string, o Options) (*Lease, error) {
	defer m.leave(key, w)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	var watch <-chan struct{}
	var trouble int64 // since when the store fails; 0: it does not
	pause := min(firstPoll, m.config.Poll)
	look := true
	for {
		turn, l, j, err := m.attempt(ctx, w, key, o, look)
		now := m.clock.mono()
		switch {
		case l != nil:
			return l, nil
		case errors.Is(err, errLostMeanwhile):
			continue
		case errors.Is(err, ErrClosed) || err != nil && ctx.Err() != nil:
			return nil, m.waitError(w, key, err)
		case err == nil || errors.Is(err, ErrHeld):
			trouble = 0
		case trouble == 0:
			trouble = max(now, 1)
			m.log.Warn("lease: the store fails while a key is waited for; trying on", "key", key, "err", err)
		case now-trouble > int64(m.config.TTL):
			return nil, m.waitError(w, key, err)
		}

		var tick <-chan time.Time
		if turn {
			if watch == nil && m.watcher != nil {
				watch = m.watchKey(watchCtx, key)
			}
			// Not all at once, and not later than there can be news.
			d := pause*3/4 + rand.N(pause/2+1)
			if left := time.Duration(j.until - now); left > 0 && left < d {
				d = left
			}
			pause = min(2*pause, m.config.Poll)
			timer.Reset(d)
			tick = timer.C
		}
		look = true
		select {
		case <-w.wake:
			look = false
			pause = min(firstPoll, m.config.Poll)
		case _, ok := <-watch:
			if !ok {
				watch = nil
			}
		case <-tick:
		case <-ctx.Done():
			return nil, m.waitError(w, key, ended(ctx))
		case <-m.stop:
			return nil, m.waitError(w, key, ErrClosed)
		}
		timer.Stop()
	}
}

// attempt asks for key when it is w's turn.
func (m *Manager) attempt(ctx context.Context, w *waiter, key string, o Options, look bool) (turn bool, _ *Lease, j judgement, _ error) {
	turn, l, err := m.turn(ctx, w, key, o)
	if err != nil || !turn {
		return err != nil, nil, j, err
	}
	j, err = m.askAgain(ctx, l, o, look)
	if err == nil {
		return true, l, j, nil
	}
	m.mu.Lock()
	w.holder = j.holder
	if m.held[key] == l {
		delete(m.held, key)
	}
	if first := m.queues[key].heap[0]; first != w {
		first.signal() // came meanwhile with a higher priority
	}
	m.mu.Unlock()
	return true, nil, j, err
}

// turn marks key for w when w is the first and nobody here has it.
func (m *Manager) turn(ctx context.Context, w *waiter, key string, o Options) (bool, *Lease, error) {
	for {
		m.mu.Lock()
		mine := m.queues[key].heap[0] == w && m.held[key] == nil
		closing := m.closing
		m.mu.Unlock()
		if closing {
			return false, nil, ErrClosed
		}
		if !mine {
			return false, nil, nil
		}
		l, err := m.newLease(ctx, key, o)
		if err != nil {
			return false, nil, err
		}
		m.mu.Lock()
		mine = m.queues[key].heap[0] == w && m.held[key] == nil && !m.closing
		gone := l.sess.Load().gone
		if mine && !gone {
			m.held[key] = l
		}
		m.mu.Unlock()
		if mine && gone {
			continue
		}
		return mine, l, nil
	}
}

// askAgain asks for a key that was held before, looking first when it probably
// still is: a load is cheaper than a swap that fails.
func (m *Manager) askAgain(ctx context.Context, l *Lease, o Options, look bool) (judgement, error) {
	var cur Record
	if look {
		c, cancel := m.bounded(ctx)
		rec, err := m.store.Load(c, l.key)
		cancel()
		if err != nil {
			return judgement{}, err
		}
		cur = rec
	}
	return m.ask(ctx, l, o, cur, time.Now())
}

func (m *Manager) watchKey(ctx context.Context, key string) <-chan struct{} {
	ch, err := m.watcher.Watch(ctx, key)
	if err != nil {
		m.log.Warn("lease: cannot watch; polling", "key", key, "err", err)
		return nil
	}
	return ch
}

// waitError says who was waited for, and how long.
func (m *Manager) waitError(w *waiter, key string, err error) error {
	m.mu.Lock()
	holder := w.holder
	if local := m.localHolder(key); !local.Zero() {
		holder = local
	}
	m.mu.Unlock()
	return &OpError{Op: "acquire", Key: key, Holder: holder, Waited: time.Duration(m.clock.mono() - w.since), Err: err}
}
