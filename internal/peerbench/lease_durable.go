package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

func durableLeaseBars() []bar {
	return []bar{
		{pkg: "lease", name: "durable acquire p50, to append and fsync", most: 1.5, stretch: 1, measure: durableAcquire},
		// The issue asks for 5 (14) times the rate: a fifth (a fourteenth) of the time each.
		{pkg: "lease", name: "64 durable acquires at once, each to one fsync", most: 1.0 / 5, stretch: 1.0 / 14, measure: durableTogether},
		{pkg: "lease", name: "8 processes on one SQLite file, p99 to p50", most: 250, stretch: 50, measure: durableCrowd},
		{pkg: "lease", name: "commits per TTL/3 with 10k leases held", most: 1, measure: durableRenewals},
		{pkg: "lease", name: "PostgreSQL, 64 clients claim, p99 to p50", most: 10, stretch: 5, measure: claimTail},
		// The issue asks for 0.8 (0.95) of the rate.
		{pkg: "lease", name: "time of such a claim, to raw SKIP LOCKED", most: 1 / 0.8, stretch: 1 / 0.95, measure: claimRate},
		{pkg: "lease", name: "10k holders die, all granted after TTL+margin", most: 1, unit: " s", measure: leaseDeath},
	}
}

// durable is a Manager over an SQLite file in dir.
func durable(ctx context.Context, dir string, ttl time.Duration) (m *lease.Manager, db *sql.DB, end func() error, err error) {
	if db, err = sql.Open("sqlite", "file:"+filepath.Join(dir, "leases.db")); err != nil {
		return nil, nil, nil, err
	}
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{Look: -1}})
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	if m, err = lease.New(lease.Config{Store: store, Owner: "peerbench", TTL: ttl, NoLock: true}); err != nil {
		return nil, nil, nil, errors.Join(err, store.Close(), db.Close())
	}
	return m, db, func() error {
		return errors.Join(m.Close(context.Background()), store.Close(), db.Close())
	}, nil
}

// scratch is a folder in the working directory: folders for temporary files may be
// in memory, where fsync costs nothing.
func scratch() (string, error) { return os.MkdirTemp(".", ".peerbench") }

// appends gives the times of n appends of 128 bytes, each synced.
func appends(dir string, n int) ([]time.Duration, error) {
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []time.Duration
	line := make([]byte, 128)
	for i := range n {
		line[i%128]++
		took, err := timed(func() error {
			if _, err := f.Write(line); err != nil {
				return err
			}
			return f.Sync()
		})
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	return all, nil
}

// acquired gives the times of n acquires; the releases are not timed.
func acquired(ctx context.Context, m *lease.Manager, key string, n int) ([]time.Duration, error) {
	var all []time.Duration
	for range n {
		var l *lease.Lease
		took, err := timed(func() (err error) {
			l, err = m.Acquire(ctx, key, nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, took)
		if err := l.Release(ctx); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func durableAcquire(ctx context.Context, full bool) (value float64, note string, err error) {
	dir, err := scratch()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, os.RemoveAll(dir)) }()
	m, _, end, err := durable(ctx, dir, 0)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	rounds := 7
	if full {
		rounds = 21
	}
	const n = 150
	return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
		all, err := acquired(ctx, m, "host/h1/slot/0", n)
		return median(all), err
	}, func(context.Context) (time.Duration, error) {
		all, err := appends(dir, n)
		return median(all), err
	})
}

func durableTogether(ctx context.Context, full bool) (value float64, note string, err error) {
	dir, err := scratch()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, os.RemoveAll(dir)) }()
	m, _, end, err := durable(ctx, dir, 0)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	rounds := 7
	if full {
		rounds = 21
	}
	const clients, each = 64, 40
	return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
		var wg sync.WaitGroup
		errs := make([]error, clients)
		held := make([][]*lease.Lease, clients)
		start := time.Now()
		for c := range clients {
			wg.Go(func() {
				for i := range each {
					l, err := m.Acquire(ctx, fmt.Sprintf("c/%d/%d", c, i), nil)
					if err != nil {
						errs[c] = err
						return
					}
					held[c] = append(held[c], l)
				}
			})
		}
		wg.Wait()
		took := time.Since(start) / (clients * each)
		for c := range clients {
			wg.Go(func() {
				for _, l := range held[c] {
					errs[c] = keep(errs[c], l.Release(ctx))
				}
			})
		}
		wg.Wait()
		return took, errors.Join(errs...)
	}, func(context.Context) (time.Duration, error) {
		return timed1(func() ([]time.Duration, error) { return appends(dir, 300) })
	})
}

// timed1 gives the mean of what call gives.
func timed1(call func() ([]time.Duration, error)) (time.Duration, error) {
	all, err := call()
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	return sum / time.Duration(max(len(all), 1)), err
}

func durableRenewals(ctx context.Context, full bool) (value float64, note string, err error) {
	dir, err := scratch()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, os.RemoveAll(dir)) }()
	const ttl = 6 * time.Second
	m, db, end, err := durable(ctx, dir, ttl)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	const clients, each = 100, 100
	var wg sync.WaitGroup
	errs := make([]error, clients)
	held := make([][each]*lease.Lease, clients)
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				if held[c][i], errs[c] = m.Acquire(ctx, fmt.Sprintf("c/%d/%d", c, i), nil); errs[c] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, "", err
	}
	commits := func() (n int, err error) {
		err = db.QueryRowContext(ctx, "SELECT commits FROM bullpen_meta").Scan(&n)
		return n, err
	}
	before, err := commits()
	if err != nil {
		return 0, "", err
	}
	periods := 3
	if full {
		periods = 10
	}
	select {
	case <-time.After(time.Duration(periods) * ttl / 3):
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	}
	after, err := commits()
	for c := range clients {
		wg.Go(func() {
			for _, l := range held[c] {
				errs[c] = keep(errs[c], l.Release(ctx))
			}
		})
	}
	wg.Wait()
	err = keep(err, errors.Join(errs...))
	// One period may begin and end within the time: with jitter there is one more.
	return float64(max(after-before-1, 0)) / float64(periods), fmt.Sprintf("%d commits in %d periods of %v", after-before, periods, ttl/3), err
}
