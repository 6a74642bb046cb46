package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// TryAny takes the first of keys that is free now, in their order. Like
// TryAcquire it does not wait for holders. ErrHeld when none is free.
func (m *Manager) TryAny(ctx context.Context, keys []string, o *Options) (*Lease, error) {
	if len(keys) == 0 {
		return nil, errors.New("lease: TryAny of no keys, want at least one")
	}
	var last error
	for _, key := range keys {
		l, err := m.acquire(ctx, "try", key, o, false)
		if err == nil || !errors.Is(err, ErrHeld) {
			return l, err
		}
		last = err
	}
	if len(keys) == 1 {
		return nil, last
	}
	return nil, fmt.Errorf("lease: none of %d keys is free, the last: %w", len(keys), last)
}

// AcquireAll takes all of keys or none, and gives the leases in their order.
// It waits for one key after the other in the order of their names, keeping
// what it has, so that calls cannot wait for each other in a circle, and has
// its place in every queue, so that it is never starved. Who already holds one
// of the keys waits for itself until ctx ends.
func (m *Manager) AcquireAll(ctx context.Context, keys []string, o *Options) ([]*Lease, error) {
	order := make([]int, len(keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case keys[a] < keys[b]:
			return -1
		case keys[a] > keys[b]:
			return 1
		}
		return 0
	})
	for i := 1; i < len(order); i++ {
		if key := keys[order[i]]; key == keys[order[i-1]] {
			return nil, fmt.Errorf("lease: AcquireAll of %q twice, want each key once", key)
		}
	}
	leases := make([]*Lease, len(keys))
	for n, i := range order {
		l, err := m.Acquire(ctx, keys[i], o)
		if err == nil {
			leases[i] = l
			err = firstLost(leases)
		}
		if err != nil {
			for _, l := range leases {
				if l != nil {
					err = errors.Join(err, l.Release(ctx))
				}
			}
			return nil, fmt.Errorf("lease: %d of %d keys: %w", n, len(keys), err)
		}
	}
	return leases, nil
}

// firstLost tells of a lease that was lost while the others were waited for.
func firstLost(leases []*Lease) error {
	for _, l := range leases {
		if l != nil {
			if err := l.Check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Adopt takes over the lease that was granted on key under token, by this
// Manager's lost session, by a process that is dead, or for a fixed term to
// somebody who passed the token on. It gets a new token. What the former
// holder still does is fenced off by that.
//
// When the former owner is proven alive, or its session is seen renewed, the
// answer is ErrHeld; when neither life nor death can be proven, Adopt waits
// for the record's TTL and margin. ErrConflict says that the record is
// another's, ErrLost that there is none any more.
func (m *Manager) Adopt(ctx context.Context, key string, token uint64) (*Lease, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	began := m.clock.mono()
	fail := func(holder Record, err error) (*Lease, error) {
		waited := time.Duration(m.clock.mono() - began)
		return nil, &OpError{Op: "adopt", Key: key, Token: token, Holder: holder, Waited: waited, Err: err}
	}
	var session string // of the first look
	var seen int64
	for first := true; ; first = false {
		l, err := m.mark(ctx, key)
		if err != nil {
			return fail(Record{}, err)
		}
		j, err := m.adoptOnce(ctx, l, token)
		if err == nil {
			return l, nil
		}
		m.mu.Lock()
		m.unmark(l)
		m.mu.Unlock()
		if errors.Is(err, errLostMeanwhile) {
			continue
		}
		if !errors.Is(err, errWait) {
			return fail(j.holder, err)
		}
		if j.alive || !first && (j.holder.Session != session || j.seen != seen) {
			return fail(j.holder, fmt.Errorf("%w: its owner is alive", ErrHeld))
		}
		session, seen = j.holder.Session, j.seen
		timer := time.NewTimer(min(max(time.Duration(j.until-m.clock.mono()), 0), m.config.Poll))
		select {
		case <-timer.C:
		case <-ctx.Done():
			err = ended(ctx)
		case <-m.stop:
			err = ErrClosed
		}
		timer.Stop()
		if !errors.Is(err, errWait) {
			return fail(j.holder, err)
		}
	}
}

var errWait = errors.New("not proven dead yet")

// mark makes a lease on key that nobody else here can ask for meanwhile.
func (m *Manager) mark(ctx context.Context, key string) (*Lease, error) {
	for {
		l, err := m.newLease(ctx, key, Options{}, time.Now())
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		switch {
		case m.closing:
			err = ErrClosed
		case m.held[key] != nil:
			err = fmt.Errorf("%w: held in this process", ErrHeld)
		case !l.sess.gone:
			m.held[key] = l
			m.mu.Unlock()
			return l, nil
		}
		m.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// adoptOnce looks at the record once. errWait: not yet.
func (m *Manager) adoptOnce(ctx context.Context, l *Lease, token uint64) (judgement, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	rec, err := m.store.Load(ctx, l.key)
	j := judgement{holder: rec}
	switch {
	case err != nil:
		return j, err
	case rec.Zero():
		return j, fmt.Errorf("%w: there is no record any more", ErrLost)
	case rec.Token != token:
		return j, ErrConflict
	}
	m.mu.Lock()
	former := m.former[rec.Session]
	m.mu.Unlock()
	if rec.Session != "" && !former {
		if j, err = m.judge(ctx, rec); err != nil {
			return j, err
		}
		if !j.free {
			return j, errWait
		}
	}
	l.note = rec.Note
	now := time.Now()
	next := l.sess.terms
	next.Key, next.Note, next.Since, next.Renewed = l.key, l.note, now, now
	got, err := m.store.Swap(ctx, rec, next, true)
	if err != nil {
		if !errors.Is(err, ErrConflict) {
			m.doubt(l.key)
		}
		return judgement{holder: got}, err
	}
	return j, m.grant(ctx, l, got, m.clock.now(), Options{})
}
