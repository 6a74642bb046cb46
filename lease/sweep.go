package lease

import (
	"context"
	"errors"
	"strings"
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
	var errs []error
	for _, srec := range sessions {
		if srec.Key == own {
			continue
		}
		if _, err := m.judgeSession(ctx, srec, now, false); err != nil {
			errs = append(errs, &OpError{Op: "sweep", Key: srec.Key, Holder: srec, Err: err})
		}
	}
	var freed []Record
	for _, rec := range records {
		if strings.HasPrefix(rec.Key, sessionPrefix) || rec.Session != "" && rec.Session == own {
			continue
		}
		ok, err := m.sweepOne(ctx, rec)
		if err != nil {
			errs = append(errs, &OpError{Op: "sweep", Key: rec.Key, Holder: rec, Err: err})
		} else if ok {
			freed = append(freed, rec)
			m.wakeUp(rec.Key)
		}
	}
	return freed, errors.Join(errs...)
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
		m.log.Info("lease: freed", "key", rec.Key, "from", rec.Owner, "token", rec.Token, "because", j.why)
	}
	return err == nil, err
}

func (m *Manager) list(ctx context.Context, prefix string) ([]Record, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	return m.store.List(ctx, prefix)
}
