package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/bullpen-vm/bullpen/lease"
)

// Store is a lease.Store over a database; also a Watcher, a Batcher and a
// Claimer. Open makes one. All methods are safe for concurrent use and bounded by
// their context, the waits on other processes also by the dialect's limits.
type Store struct {
	b       backend
	watches watches

	once     sync.Once
	closeErr error
}

// backend is what the dialects differ in.
type backend interface {
	id() string
	load(ctx context.Context, key string) (lease.Record, error)
	list(ctx context.Context, prefix string) ([]lease.Record, error)
	swapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error)
	remove(ctx context.Context, prev lease.Record) error
	claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error)
	close() error
}

var (
	_ lease.Store   = (*Store)(nil)
	_ lease.Watcher = (*Store)(nil)
	_ lease.Batcher = (*Store)(nil)
	_ lease.Claimer = (*Store)(nil)
)

// Open makes or migrates the tables, verifies what is in them and gives the
// Store. It waits for others who write at the moment, as long as ctx and the
// dialect's limits let it. Errors are ErrDamaged, ErrNewer, ErrBusy, or the
// driver's. Close the Store before db.
func Open(ctx context.Context, db *sql.DB, c Config) (*Store, error) {
	if db == nil {
		return nil, errors.New("sqlstore: db is nil, want an open *sql.DB")
	}
	if c.Dialect == nil {
		return nil, errors.New("sqlstore: Config.Dialect is nil, want SQLite{} or Postgres{}")
	}
	if err := c.Dialect.check(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := new(Store)
	var err error
	switch d := c.Dialect.(type) {
	case SQLite:
		s.b, err = openSQLite(ctx, db, d.withDefaults(), c.Logger, &s.watches)
	case Postgres:
		s.b, err = openPostgres(ctx, db, d.withDefaults(), c.Logger, &s.watches)
	default:
		err = fmt.Errorf("sqlstore: Config.Dialect is a %T, want SQLite{} or Postgres{}", d)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// enoughConnections refuses a db on which the Store would wait for itself.
func enoughConnections(db *sql.DB, need int) error {
	if most := db.Stats().MaxOpenConnections; most > 0 && most < need {
		return fmt.Errorf("sqlstore: db allows %d open connections, want %d or more, or no limit (SetMaxOpenConns)", most, need)
	}
	return nil
}

// Close ends the Store: what is queued is finished, watches end. It blocks until
// all goroutines have ended, is idempotent, and leaves db open. Close the
// lease.Manager first.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.closeErr = s.b.close()
		s.watches.end()
	})
	return s.closeErr
}

// ID implements lease.Store: it was drawn at random when the tables were made.
func (s *Store) ID(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", ended(ctx)
	}
	return s.b.id(), nil
}

// Load implements lease.Store.
func (s *Store) Load(ctx context.Context, key string) (lease.Record, error) {
	if !storable(key) {
		return lease.Record{}, nil // it can never have been stored
	}
	return s.b.load(ctx, key)
}

// Swap implements lease.Store. Two swaps of one key that are on their way at once
// have one winner; errors other than ErrConflict leave open whether it was done.
func (s *Store) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	out, err := s.SwapAll(ctx, []lease.Swapping{{Prev: prev, Next: next, NewToken: newToken}})
	if err != nil {
		return lease.Record{}, err
	}
	return out[0].Record, out[0].Err
}

// SwapAll implements lease.Batcher: one transaction.
func (s *Store) SwapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	own := make([]lease.Swapping, len(swaps))
	copy(own, swaps)
	for i := range own {
		if err := checkRecord(&own[i].Next); err != nil {
			return nil, err
		}
	}
	out, err := s.b.swapAll(ctx, own)
	for i := range out {
		if out[i].Err == nil {
			s.watches.tell(out[i].Record.Key)
		}
	}
	return out, err
}

// Delete implements lease.Store.
func (s *Store) Delete(ctx context.Context, prev lease.Record) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if !storable(prev.Key) {
		return nil
	}
	err := s.b.remove(ctx, prev)
	if err == nil {
		s.watches.tell(prev.Key)
	}
	return err
}

// List implements lease.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]lease.Record, error) {
	if !storable(prefix) {
		return nil, nil
	}
	return s.b.list(ctx, prefix)
}

// Claim implements lease.Claimer.
func (s *Store) Claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
	if ctx.Err() != nil {
		return lease.Record{}, ended(ctx)
	}
	for _, key := range keys {
		if !storable(key) {
			return lease.Record{}, fmt.Errorf("sqlstore: key is %q, want UTF-8 without NUL", key)
		}
	}
	if err := checkRecord(&next); err != nil {
		return lease.Record{}, err
	}
	rec, err := s.b.claim(ctx, keys, next)
	if err == nil {
		s.watches.tell(rec.Key)
	}
	return rec, err
}

// Watch implements lease.Watcher. Changes through this Store are told at once,
// those of other processes by SQLite.Look or Postgres.Listen.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan struct{}, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	return s.watches.add(ctx, prefix)
}

func errAllHeld(keys []string) error {
	return fmt.Errorf("%w: all %d keys are held", lease.ErrConflict, len(keys))
}

func errNothing(key string) error {
	return fmt.Errorf("sqlstore: swap of nothing for %q without a new token", key)
}
