package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/bullpen-vm/bullpen/internal/daemon"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

const claimers = 64

// claimKeys are as many as there are clients: one is always free for each.
func claimKeys() (keys []string) {
	for n := range claimers {
		keys = append(keys, fmt.Sprintf("host/h1/slot/%02d", n))
	}
	return keys
}

// withPostgres calls f with a server of its own and as many connections as clients.
func withPostgres(ctx context.Context, f func(db *sql.DB) error) (err error) {
	s, err := daemon.PostgreSQL(ctx)
	if err != nil {
		return err
	}
	defer func() { err = keep(err, s.Close()) }()
	db, err := sql.Open("pgx", s.Address)
	if err != nil {
		return err
	}
	defer func() { err = keep(err, db.Close()) }()
	db.SetMaxOpenConns(2*claimers + 2)
	db.SetMaxIdleConns(2*claimers + 2)
	return f(db)
}

// claimRounds has all clients claim and give back n times, and gives how long each
// claim took and the whole by the number of claims.
func claimRounds(ctx context.Context, n int, claim func(ctx context.Context, client int) (giveBack func() error, err error)) (took []time.Duration, each time.Duration, err error) {
	all := make([][]time.Duration, claimers)
	errs := make([]error, claimers)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range claimers {
		wg.Go(func() {
			for range n {
				began := time.Now()
				back, err := claim(ctx, c)
				if err != nil {
					errs[c] = err
					return
				}
				all[c] = append(all[c], time.Since(began))
				if err := back(); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	took = slices.Concat(all...)
	return took, time.Since(start) / time.Duration(max(len(took), 1)), errors.Join(errs...)
}

// storeClaims are claims of the Store.
func storeClaims(ctx context.Context, db *sql.DB) (func(context.Context, int) (func() error, error), func() error, error) {
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.Postgres{Connections: claimers}})
	if err != nil {
		return nil, nil, err
	}
	keys := claimKeys()
	next := lease.Record{Session: "session/1", Owner: "peerbench", TTL: time.Minute, Since: time.Now(), Renewed: time.Now()}
	return func(ctx context.Context, _ int) (func() error, error) {
		for {
			rec, err := store.Claim(ctx, keys, next)
			if errors.Is(err, lease.ErrConflict) {
				continue // one that is being given back was passed by
			}
			return func() error { return store.Delete(ctx, rec) }, err
		}
	}, store.Close, nil
}

// rawClaims are what one writes by hand: a row that is free, skipping what others
// have locked, and the same texts in it.
func rawClaims(ctx context.Context, db *sql.DB) (func(context.Context, int) (func() error, error), error) {
	if _, err := db.ExecContext(ctx, "CREATE TABLE raw (key text PRIMARY KEY, holder bigint NOT NULL DEFAULT 0, data text NOT NULL DEFAULT '') WITH (fillfactor = 70)"); err != nil {
		return nil, err
	}
	for _, key := range claimKeys() {
		if _, err := db.ExecContext(ctx, "INSERT INTO raw (key) VALUES ($1)", key); err != nil {
			return nil, err
		}
	}
	data := strings.Repeat("x", 150)
	return func(ctx context.Context, client int) (func() error, error) {
		for {
			var key string
			err := db.QueryRowContext(ctx, "UPDATE raw SET holder = $1, data = $2 WHERE key = (SELECT key FROM raw WHERE holder = 0 ORDER BY key LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING key",
				client+1, data).Scan(&key)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			return func() error {
				_, err := db.ExecContext(ctx, "UPDATE raw SET holder = 0, data = '' WHERE key = $1 AND holder = $2", key, client+1)
				return err
			}, err
		}
	}, nil
}

func claimTail(ctx context.Context, full bool) (value float64, note string, err error) {
	n := 30
	if full {
		n = 300
	}
	err = withPostgres(ctx, func(db *sql.DB) error {
		claim, end, err := storeClaims(ctx, db)
		if err != nil {
			return err
		}
		defer func() { err = keep(err, end()) }()
		if _, _, err := claimRounds(ctx, 5, claim); err != nil { // connections
			return err
		}
		took, each, err := claimRounds(ctx, n, claim)
		if err != nil {
			return err
		}
		slices.Sort(took)
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		value = float64(p99) / float64(p50)
		note = fmt.Sprintf("p50 %v, p99 %v, %.0f claims/s", short(p50), short(p99), float64(time.Second)/float64(each))
		return nil
	})
	return value, note, err
}

func claimRate(ctx context.Context, full bool) (value float64, note string, err error) {
	n, rounds := 15, 7
	if full {
		n, rounds = 60, 21
	}
	err = withPostgres(ctx, func(db *sql.DB) error {
		ours, end, err := storeClaims(ctx, db)
		if err != nil {
			return err
		}
		defer func() { err = keep(err, end()) }()
		raw, err := rawClaims(ctx, db)
		if err != nil {
			return err
		}
		rate := func(claim func(context.Context, int) (func() error, error)) func(context.Context) (time.Duration, error) {
			return func(ctx context.Context) (time.Duration, error) {
				_, each, err := claimRounds(ctx, n, claim)
				return each, err
			}
		}
		value, note, err = pairs(ctx, rounds, rate(ours), rate(raw))
		return err
	})
	return value, note, err
}
