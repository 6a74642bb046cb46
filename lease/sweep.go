package lease

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
)

// Sweep frees the leases under prefix whose holders are proven gone, and
// removes dead sessions, and returns the records that it freed. It never waits: what is
// not proven is left, and the sightings that it takes count for the next call
// and for those who wait. Each removal is a compare-and-swap on what was
// judged, so a holder that renews meanwhile keeps its lease.
func (m *Manager) Sweep(ctx context.Context, prefix string) ([]Record, error) {
	fail := func(err error) ([]Record, error) { return nil, &OpError{Op: "sweep", Key: prefix, Err: err} }
	own := m.SessionKey()
	records, err := m.list(ctx, prefix)
	if err != nil {
		return fail(err)
	}
	// The sessions are listed after the leases: each lease was written after
	// its session, so one whose session is not here has none any more.
	sessions, err := m.list(ctx, sessionPrefix)
	if err != nil {
		return fail(err)
	}
	now := m.clock.mono()
	errs := make([]error, len(sessions)+len(records))
	m.together(len(sessions), func(i int) {
		srec := sessions[i]
		if srec.Key == own {
			return
		}
		if _, err := m.judgeSession(ctx, srec, now, false); err != nil {
			errs[i] = &OpError{Op: "sweep", Key: srec.Key, Holder: srec, Err: err}
		}
	})
	gone := make([]bool, len(records))
	m.together(len(records), func(i int) {
		rec := records[i]
		if strings.HasPrefix(rec.Key, sessionPrefix) || rec.Session != "" && rec.Session == own {
			return
		}
		ok, err := m.sweepOne(ctx, rec)
		if err != nil {
			errs[len(sessions)+i] = &OpError{Op: "sweep", Key: rec.Key, Holder: rec, Err: err}
		} else if ok {
			gone[i] = true
			m.wakeUp(rec.Key)
		}
	})
	var freed []Record
	for i, rec := range records {
		if gone[i] {
			freed = append(freed, rec)
		}
	}
	return freed, errors.Join(errs...)
}

// sweepers is how many removals are on their way at once: stores put what comes
// together into one commit.
const sweepers = 64

// together calls f with 0 to n-1, several at a time where the store may block, and
// returns when all have returned.
func (m *Manager) together(n int, f func(i int)) {
	if m.mem != nil || n < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, sweepers) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

func (m *Manager) sweepOne(ctx context.Context, rec Record) (bool, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	j, err := m.judge(ctx, rec)
	if err != nil || !j.free {
		return false, err
	}
	err = m.store.Delete(ctx, rec)
	if errors.Is(err, ErrConflict) {
		return false, nil // somebody was faster
	}
	if err == nil {
		m.succeeded(rec, j.why)
		m.log.Info("lease: freed", "key", rec.Key, "from", rec.Owner, "token", rec.Token, "because", j.why)
	}
	return err == nil, err
}

func (m *Manager) list(ctx context.Context, prefix string) ([]Record, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	return m.store.List(ctx, prefix)
}
