package main

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// ownStore tells a store that is no file.
func ownStore(where string) bool {
	return where == "memory" || strings.HasPrefix(where, "postgres://")
}

// openStore opens what the configuration's first line names.
func openStore(ctx context.Context, where string) (lease.Store, func() error, error) {
	if where == "memory" {
		return lease.NewMemStore(), func() error { return nil }, nil
	}
	driver, address, dialect := "sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(where)}).String(), sqlstore.Dialect(sqlstore.SQLite{Path: where})
	if strings.HasPrefix(where, "postgres://") {
		driver, address, dialect = "pgx", where, sqlstore.Postgres{}
	}
	db, err := sql.Open(driver, address)
	if err != nil {
		return nil, nil, err
	}
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: dialect})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, func() error { return errors.Join(store.Close(), db.Close()) }, nil
}
