package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// openStore opens the file with the leases; without one they are in memory.
func openStore(ctx context.Context, file string) (lease.Store, func() error, error) {
	if file == "" {
		return lease.NewMemStore(), func() error { return nil }, nil
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(file)}).String())
	if err != nil {
		return nil, nil, err
	}
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{Path: file}})
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", file, errors.Join(err, db.Close()))
	}
	return store, func() error { return errors.Join(store.Close(), db.Close()) }, nil
}
