package lease

import (
	"context"
	"time"
)

// DefaultMissing is when a holder counts as missing.
const DefaultMissing = time.Hour

// Missing tells of holders of keys under prefix that show no sign of life: it
// calls each of notify once when that has lasted for after (0: an hour), and
// again only for another holder or after the same one came back and went away
// again. The leases of this Manager are not looked at: they have Done; nor are
// fixed terms, which nobody renews.
//
// It blocks until ctx ends or the Manager is closed, and returns why. The
// functions are called one after the other by the caller's goroutine.
func (m *Manager) Missing(ctx context.Context, prefix string, after time.Duration, notify ...func(Holding)) error {
	if after <= 0 {
		after = DefaultMissing
	}
	pause := min(max(after/10, m.config.Poll), 30*time.Second)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	type grant struct {
		key   string
		token uint64
	}
	since := make(map[grant]int64) // without a sign of life
	told := make(map[grant]bool)
	for {
		holdings, err := m.Inspect(ctx, prefix)
		if err != nil {
			// Not knowing who holds what is not the same as nobody being there.
			if ctx.Err() != nil {
				return ended(ctx)
			}
			m.log.Warn("lease: cannot look for missing holders", "prefix", prefix, "err", err)
		} else {
			now := m.clock.mono()
			present := make(map[grant]bool, len(holdings))
			for _, h := range holdings {
				if h.Record.Session == "" || h.Mine { // a fixed term has no signs of life
					continue
				}
				g := grant{h.Key, h.Record.Token}
				present[g] = true
				from, ok := since[g]
				if gone := h.Orphan || h.Known && h.Dead; !gone || !ok {
					from = now - int64(h.Seen)
				}
				since[g] = from
				if quiet := time.Duration(now - from); quiet < after {
					delete(told, g)
				} else if !told[g] {
					told[g] = true
					h.Seen = quiet
					for _, f := range notify {
						f(h)
					}
				}
			}
			for g := range since {
				if !present[g] {
					delete(since, g)
					delete(told, g)
				}
			}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ended(ctx)
		case <-m.stop:
			return ErrClosed
		}
	}
}
