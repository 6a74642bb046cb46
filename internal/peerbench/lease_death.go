package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"database/sql"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// leaseDeath has 10k holders with a session each, which renew no more, and a Manager
// that sees it. What counts is how long after TTL and margin all of their keys are
// granted anew, to 64 clients, each grant on the disk.
func leaseDeath(ctx context.Context, _ bool) (value float64, note string, err error) {
	dir, err := scratch()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, os.RemoveAll(dir)) }()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "leases.db"))
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, db.Close()) }()
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{Look: -1}})
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, store.Close()) }()
	const (
		holders     = 10_000
		ttl, margin = 6 * time.Second, time.Second
	)
	name := func(what string, n int) string { return fmt.Sprintf("%s/%05d", what, n) }
	for from := 0; from < holders; from += 250 {
		var swaps []lease.Swapping
		for n := from; n < from+250; n++ {
			s := lease.Record{Key: name("session", n), Owner: name("holder", n), TTL: ttl, Margin: margin, Since: time.Now(), Renewed: time.Now()}
			l := s
			l.Key, l.Session = name("slot", n), s.Key
			swaps = append(swaps, lease.Swapping{Next: s, NewToken: true}, lease.Swapping{Next: l, NewToken: true})
		}
		done, err := store.SwapAll(ctx, swaps)
		if err != nil {
			return 0, "", err
		}
		for _, d := range done {
			if d.Err != nil {
				return 0, "", d.Err
			}
		}
	}
	m, err := lease.New(lease.Config{Store: store, Owner: "peerbench", TTL: ttl, Margin: margin, NoLock: true})
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, m.Close(context.WithoutCancel(ctx))) }()
	mine, err := m.Acquire(ctx, "mine", nil) // the session is there when they die
	if err != nil {
		return 0, "", err
	}
	if freed, err := m.Sweep(ctx, "slot/"); err != nil || len(freed) > 0 {
		return 0, "", errors.Join(fmt.Errorf("%d were freed at once, want none", len(freed)), err)
	}
	seen := time.Now() // by then all were seen for the last time
	select {
	case <-time.After(time.Until(seen.Add(ttl + margin))):
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	}
	const clients = 64
	held := make([]*lease.Lease, holders)
	errs := make([]error, clients)
	var next atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < holders; n = int(next.Add(1)) - 1 {
				l, err := m.TryAcquire(ctx, name("slot", n), nil)
				if held[n] = l; err != nil && errs[c] == nil {
					errs[c] = err
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(seen) - ttl - margin
	for c := range clients {
		wg.Go(func() {
			for n := c; n < holders; n += clients {
				if held[n] != nil {
					_ = held[n].Release(ctx) // not measured
				}
			}
		})
	}
	wg.Wait()
	return took.Seconds(), fmt.Sprintf("after TTL and margin, %v a grant", short(took/holders)), errors.Join(errors.Join(errs...), mine.Release(ctx))
}
