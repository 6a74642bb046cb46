package lease

import (
	"context"
	"errors"
	"fmt"
	"time"
)

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
		l, err := m.newLease(ctx, key, Options{})
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		switch {
		case m.closing:
			err = ErrClosed
		case m.held[key] != nil:
			err = fmt.Errorf("%w: held in this process", ErrHeld)
		case !l.sess.Load().gone:
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
	next := l.sess.Load().terms
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
