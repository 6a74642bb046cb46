package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/jackc/puddle/v2"

	"github.com/bullpen-vm/bullpen/lease"
)

func leaseBars() []bar {
	return append([]bar{
		{pkg: "lease", name: "grant among 100k leases, to puddle among as many", most: 2, stretch: 1, measure: leaseGrant},
		{pkg: "lease", name: "bytes of each of 100k leases", most: 300, stretch: 150, unit: " B", measure: leaseBytes},
		{pkg: "lease", name: "Check, to time.Now", most: 1.5, stretch: 0.7, measure: leaseCheck},
	}, durableLeaseBars()...)
}

// manager opens a Manager on a store in memory; end closes it and removes its
// folder.
func manager() (m *lease.Manager, end func() error, err error) {
	dir, err := os.MkdirTemp("", "peerbench")
	if err != nil {
		return nil, nil, err
	}
	m, err = lease.New(lease.Config{Store: lease.NewMemStore(), Owner: "peerbench", Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	return m, func() error {
		err := m.Close(context.Background())
		if gone := os.RemoveAll(dir); err == nil {
			err = gone
		}
		return err
	}, nil
}

func puddlePool(size int32) (*puddle.Pool[int], error) {
	return puddle.NewPool(&puddle.Config[int]{
		Constructor: func(context.Context) (int, error) { return 1, nil }, Destructor: func(int) {}, MaxSize: size,
	})
}

// crowd is how many others are held meanwhile.
const crowd = 100_000

func crowdKey(i int) string { return "host/h1/slot/" + strconv.Itoa(i) }

func leaseGrant(ctx context.Context, full bool) (value float64, note string, err error) {
	m, end, err := manager()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	peers, err := puddlePool(crowd + 8)
	if err != nil {
		return 0, "", err
	}
	defer peers.Close()
	for i := range crowd {
		l, err := m.Acquire(ctx, crowdKey(i), nil)
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, l.Release(context.WithoutCancel(ctx))) }()
		r, err := peers.Acquire(ctx)
		if err != nil {
			return 0, "", err
		}
		defer r.Release() // before the pool is closed
	}
	n, rounds := 20_000, 15
	if full {
		n, rounds = 100_000, 31
	}
	return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
		return each(n, func() error {
			l, err := m.Acquire(ctx, "host/h2/slot/0", nil)
			if err != nil {
				return err
			}
			return l.Release(ctx)
		})
	}, func(ctx context.Context) (time.Duration, error) {
		return each(n, func() error {
			r, err := peers.Acquire(ctx)
			if err != nil {
				return err
			}
			r.Release()
			return nil
		})
	})
}

func leaseBytes(ctx context.Context, _ bool) (value float64, note string, err error) {
	const n = crowd
	keys := make([]string, n)
	for i := range keys {
		keys[i] = crowdKey(i)
	}
	held := make([]*lease.Lease, n)
	m, end, err := manager()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	before := reachable()
	for i, key := range keys {
		if held[i], err = m.Acquire(ctx, key, nil); err != nil {
			return 0, "", err
		}
	}
	after := reachable()
	for _, l := range held {
		if err := l.Release(ctx); err != nil {
			return 0, "", err
		}
	}
	return float64(after-before) / n, "handle, Manager and MemStore together", nil
}

func leaseCheck(ctx context.Context, _ bool) (value float64, note string, err error) {
	m, end, err := manager()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	l, err := m.Acquire(ctx, "k", nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, l.Release(ctx)) }()
	allocs, err := allocations(10_000, l.Check)
	if err != nil || allocs >= 0.01 {
		return 0, "", errors.Join(fmt.Errorf("Check allocates %.2f times, want never", allocs), err)
	}
	const n = 200_000
	return pairs(ctx, 15, func(context.Context) (time.Duration, error) {
		return timed(func() error {
			for range n {
				if err := l.Check(); err != nil {
					return err
				}
			}
			return nil
		})
	}, func(context.Context) (time.Duration, error) {
		return timed(func() error {
			var last time.Time // so that the readings are not left out
			for range n {
				last = time.Now()
			}
			if last.IsZero() {
				return errors.New("the clock stands still")
			}
			return nil
		})
	})
}

// keep gives the first error.
func keep(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
