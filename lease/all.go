package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

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
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(keys[a], keys[b]) })
	for i := 1; i < len(order); i++ {
		if key := keys[order[i]]; key == keys[order[i-1]] {
			return nil, fmt.Errorf("lease: AcquireAll of %q twice, want each key once", key)
		}
	}
	leases := make([]*Lease, len(keys))
	if err := m.takeFree(ctx, keys, order, leases, o); err != nil {
		return nil, err
	}
	for n, i := range order {
		if leases[i] != nil {
			continue
		}
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

// takeFree takes what is free in one transaction of a Batcher: the keys up to
// the first one, in their order, that somebody has. What comes after that one
// would be held out of order, so it is not kept.
func (m *Manager) takeFree(ctx context.Context, keys []string, order []int, leases []*Lease, o *Options) error {
	options, err := checkOptions(o)
	if err != nil {
		return err
	}
	if m.batcher == nil || m.mem != nil || len(keys) < 2 {
		return nil
	}
	now := time.Now()
	var asked []*Lease
	var swaps []Swapping
	for _, i := range order {
		if err := checkKey(keys[i]); err != nil {
			return err
		}
		l, err := m.newLease(ctx, keys[i], options)
		if err != nil {
			return &OpError{Op: "acquire", Key: keys[i], Err: err}
		}
		m.mu.Lock()
		free := m.held[l.key] == nil && m.queues[l.key] == nil && !m.closing && !l.sess.Load().gone
		if free {
			m.held[l.key] = l
		}
		m.mu.Unlock()
		if !free {
			break
		}
		next := l.sess.Load().terms
		next.Key, next.Note, next.Since, next.Renewed = l.key, l.note, now, now
		asked = append(asked, l)
		swaps = append(swaps, Swapping{Next: next, NewToken: true})
	}
	if len(asked) == 0 {
		return nil
	}
	bounded, cancel := m.bounded(ctx)
	defer cancel()
	start := m.clock.now()
	done, err := m.batcher.SwapAll(bounded, swaps)
	if err == nil && len(done) != len(swaps) {
		err = fmt.Errorf("the store answered %d of %d swaps", len(done), len(swaps))
	}
	inOrder := true
	for n, l := range asked {
		one := err
		if err == nil {
			one = done[n].Err
		}
		if one == nil {
			one = m.grant(ctx, l, done[n].Record, start, options)
		} else if !errors.Is(one, ErrConflict) {
			m.doubt(l.key)
		}
		switch {
		case one != nil:
			inOrder = false
			m.mu.Lock()
			m.unmark(l)
			m.mu.Unlock()
		case inOrder:
			leases[order[n]] = l
		default:
			if err := l.Release(ctx); err != nil {
				m.log.Warn("lease: could not give back a key taken out of order; trying again later", "key", l.key, "err", err)
			}
		}
	}
	return nil // what went wrong goes wrong again below, where it is reported
}
