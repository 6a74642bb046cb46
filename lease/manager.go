package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Manager hands out leases on the keys of a Store. New makes one, Close ends
// it. All methods are safe for concurrent use.
type Manager struct {
	store   Store
	watcher Watcher   // nil: the store cannot wake waiters
	claimer Claimer   // nil: the store cannot find a free key by itself
	batcher Batcher   // nil: the store does one swap at a time
	mem     *MemStore // not nil: the store never blocks, so no timeouts are needed
	config  Config
	log     *slog.Logger
	owner   string
	boot    string
	timeout time.Duration // of one store operation
	clock   clock

	lockPath string // empty with NoLock
	run      *runDir

	cur atomic.Pointer[session] // nil before the first need and after a loss

	mu      *sync.Mutex       // with mem, its own: what is done to both takes one lock
	held    map[string]*Lease // held here, or being asked for at this moment
	queues  map[string]*queue // keys that somebody here waits for
	seq     uint64            // arrivals
	making  chan struct{}     // closed when the session being made is made
	former  map[string]bool   // keys of this Manager's lost sessions
	doubts  map[string]int    // keys where a swap of ours may have been done, and how often they were looked at since
	last    endings
	undone  map[*Lease]bool // released, but the record could not be deleted yet
	tidying bool
	closing bool
	stop    chan struct{} // closed by Close: waiters give up

	closed   chan struct{} // closed when Close is through
	closeErr error

	sightings sightings
	wg        sync.WaitGroup
}

// StoreID identifies the store's content; see Store.ID.
func (m *Manager) StoreID(ctx context.Context) (string, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	id, err := m.store.ID(ctx)
	if err != nil {
		return "", &OpError{Op: "store id", Err: err}
	}
	return id, nil
}

// SessionKey is the key of the present session record; empty before the first
// lease and between the loss of a session and the next lease.
func (m *Manager) SessionKey() string {
	if s := m.cur.Load(); s != nil {
		return s.key
	}
	return ""
}

// LockPath is the path of the flock file of this Manager, held locked from
// the first lease until Close; empty with Config.NoLock.
func (m *Manager) LockPath() string { return m.lockPath }

// Owner is the text that others see as the holder of this Manager's leases.
func (m *Manager) Owner() string { return m.owner }

// Acquire waits until key is free and takes it. Waiters of this Manager are
// served by priority, then in the order of their arrival. The error of a wait
// that ended with ctx says who holds the key; a store that fails is tried
// again for TTL before the wait ends with its error. A context that ends at
// the instant of the grant takes nothing with it: either the lease is
// returned, or the next waiter has its turn.
func (m *Manager) Acquire(ctx context.Context, key string, o *Options) (*Lease, error) {
	return m.acquire(ctx, "acquire", key, o, true)
}

// TryAcquire takes key if it is free now. It never waits for a holder nor
// queues, and overtakes nobody: while others of this Manager wait for the key
// it is not free. ErrHeld says by whom it is held.
func (m *Manager) TryAcquire(ctx context.Context, key string, o *Options) (*Lease, error) {
	return m.acquire(ctx, "try", key, o, false)
}

func (m *Manager) acquire(ctx context.Context, op, key string, o *Options, queueing bool) (*Lease, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	options, err := checkOptions(o)
	if err != nil {
		return nil, err
	}
	for {
		if ctx.Err() != nil {
			return nil, &OpError{Op: op, Key: key, Err: ended(ctx)}
		}
		l, err := m.newLease(ctx, key, options)
		if err != nil {
			return nil, &OpError{Op: op, Key: key, Err: err}
		}
		m.mu.Lock()
		if m.closing {
			m.mu.Unlock()
			return nil, &OpError{Op: op, Key: key, Err: ErrClosed}
		}
		if l.sess.Load().gone {
			m.mu.Unlock()
			continue
		}
		if !queueing {
			if busy := m.claimed(key); busy != nil {
				m.mu.Unlock()
				select { // it is free or held as soon as that claim has ended
				case <-busy:
				case <-ctx.Done():
				}
				continue
			}
		}
		m.seq++
		seq := m.seq
		if m.held[key] != nil || len(m.queues) > 0 && m.queues[key] != nil {
			if !queueing {
				holder := m.localHolder(key)
				m.mu.Unlock()
				return nil, &OpError{Op: op, Key: key, Holder: holder, Err: fmt.Errorf("%w: held or waited for in this process", ErrHeld)}
			}
			w := m.enqueue(key, seq, options)
			m.mu.Unlock()
			return m.wait(ctx, w, key, options)
		}
		if m.mem != nil && options.Term == 0 && m.grantInMemory(l) {
			m.mu.Unlock()
			return l, nil
		}
		m.held[key] = l
		m.mu.Unlock()

		j, err := m.ask(ctx, l, options, Record{}, time.Now())
		if err == nil {
			return l, nil
		}
		if !queueing || !errors.Is(err, ErrHeld) {
			m.mu.Lock()
			m.unmark(l)
			m.mu.Unlock()
			if errors.Is(err, errLostMeanwhile) {
				continue
			}
			return nil, &OpError{Op: op, Key: key, Holder: j.holder, Err: err}
		}
		m.mu.Lock()
		if m.closing {
			m.unmark(l)
			m.mu.Unlock()
			return nil, &OpError{Op: op, Key: key, Err: ErrClosed}
		}
		w := m.enqueue(key, seq, options) // before those who came meanwhile
		w.holder = j.holder
		m.unmark(l)
		m.mu.Unlock()
		return m.wait(ctx, w, key, options)
	}
}

// newLease gives a lease that is not yet asked for, under the live session or
// under a fixed term of its own.
func (m *Manager) newLease(ctx context.Context, key string, o Options) (*Lease, error) {
	mono := m.clock.mono()
	now := m.clock.at(mono)
	l := &Lease{m: m, key: key, note: o.Note, since: m.clock.wall(mono)}
	if o.Term > 0 {
		l.sess.Store(newTerm(m, l, o))
		return l, nil
	}
	s := m.cur.Load()
	if s == nil || !s.check(now) {
		var err error
		if s, err = m.session(ctx); err != nil {
			return nil, err
		}
	}
	l.sess.Store(s)
	return l, nil
}

// unmark takes l, which was not granted, out of held. Called with mu held.
func (m *Manager) unmark(l *Lease) {
	if m.held[l.key] == l {
		delete(m.held, l.key)
	}
	m.wake(l.key)
}

// localHolder describes the lease that is held here on key. Called with mu
// held.
func (m *Manager) localHolder(key string) Record {
	l := m.held[key]
	if l == nil || l.token.Load() == 0 {
		return Record{}
	}
	return Record{Key: key, Token: l.token.Load(), Owner: m.owner, Note: l.note, Since: time.Unix(0, l.since)}
}

// errLostMeanwhile: the session was lost while a lease was asked for.
var errLostMeanwhile = fmt.Errorf("%w: the session was lost while it was asked for", ErrLost)

// ask makes l, which is marked in held, the holder of its key if the store and
// the rules about dead holders allow it. cur is what the caller believes to be
// stored. ErrHeld comes with a judgement of who holds it and when to look
// again; after any other error it is not known what the store did, and the key
// is looked after.
func (m *Manager) ask(ctx context.Context, l *Lease, o Options, cur Record, now time.Time) (judgement, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	var j judgement
	for range mostConflicts {
		if !cur.Zero() && !m.isLeftover(l, cur) {
			var err error
			if j, err = m.judge(ctx, cur); err != nil {
				return j, err
			}
			if !j.free {
				return j, ErrHeld
			}
			m.log.Info("lease: taking over", "key", l.key, "from", cur.Owner, "token", cur.Token, "because", j.why)
		}
		next := l.sess.Load().terms
		next.Key, next.Note = l.key, l.note
		next.Since, next.Renewed = now, now
		start := m.clock.at(int64(now.Sub(m.clock.base)))
		rec, err := m.store.Swap(ctx, cur, next, true)
		switch {
		case err == nil:
			if j.free && !cur.Zero() {
				m.succeeded(cur, j.why)
			}
			return j, m.grant(ctx, l, rec, start, o)
		case errors.Is(err, ErrConflict):
			cur = rec
			now = time.Now()
		default:
			m.doubt(l.key)
			return j, err
		}
	}
	return judgement{holder: cur, until: m.clock.mono()}, ErrHeld
}

// mostConflicts is how often a swap is tried again at once after others came
// first.
const mostConflicts = 4

// grant makes l the holder, unless it was lost or the Manager was closed while
// the store was asked.
func (m *Manager) grant(ctx context.Context, l *Lease, rec Record, start int64, o Options) error {
	l.renewals = rec.Renewals
	l.token.Store(rec.Token)
	if o.Term > 0 {
		l.sess.Load().startTerm(start, o)
	}
	if l.state.CompareAndSwap(statePending, stateHeld) {
		return nil
	}
	ctx, cancel := m.cleanup(ctx)
	defer cancel()
	if err := m.store.Delete(ctx, rec); err != nil {
		m.log.Warn("lease: could not give back what was granted too late", "key", l.key, "token", rec.Token, "err", err)
	}
	if l.state.Load() == stateClosed {
		return ErrClosed
	}
	return errLostMeanwhile
}

// isLeftover: cur is a swap of ours whose answer was lost. While l is marked
// in held nobody else here can have made it.
func (m *Manager) isLeftover(l *Lease, cur Record) bool {
	return cur.Session != "" && cur.Session == l.sess.Load().key
}

// bounded limits one use of the store.
func (m *Manager) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.mem != nil {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, m.timeout, fmt.Errorf("the store did not answer within %v", m.timeout))
}

// cleanup is a context for giving back: it does not end with the caller's.
func (m *Manager) cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.mem != nil {
		return context.Background(), func() {}
	}
	return m.bounded(context.WithoutCancel(ctx))
}
