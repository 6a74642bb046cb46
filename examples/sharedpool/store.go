package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	clientv3 "go.etcd.io/etcd/client/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// openStore opens what where names: a file, postgres://... or etcd://host:port.
func openStore(ctx context.Context, where string) (lease.Store, func() error, error) {
	if strings.HasPrefix(where, "postgres://") {
		return openPostgres(ctx, where)
	}
	if endpoint, ok := strings.CutPrefix(where, "etcd://"); ok {
		return openEtcd(ctx, endpoint)
	}
	return openSQLite(ctx, where)
}

// openSQLite is for the harnesses of one machine.
func openSQLite(ctx context.Context, file string) (lease.Store, func() error, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(file)}).String())
	if err != nil {
		return nil, nil, err
	}
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{Path: file}})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, func() error { return errors.Join(store.Close(), db.Close()) }, nil
}

// openPostgres is for the harnesses of many machines. Waiters are woken by
// LISTEN, on a connection beside the store's.
func openPostgres(ctx context.Context, address string) (lease.Store, func() error, error) {
	db, err := sql.Open("pgx", address)
	if err != nil {
		return nil, nil, err
	}
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.Postgres{
		Channel: "bullpen",
		Listen: func(ctx context.Context, channel string, told func(key string)) error {
			return listen(ctx, address, channel, told)
		},
	}})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, func() error { return errors.Join(store.Close(), db.Close()) }, nil
}

// listen passes notifications on until ctx ends.
func listen(ctx context.Context, address, channel string, told func(key string)) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = conn.Close(bounded) // the server notices as well
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	told("") // what was changed before is not notified of
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		told(n.Payload)
	}
}

// openEtcd is for the harnesses of many machines that have an etcd.
func openEtcd(ctx context.Context, endpoint string) (lease.Store, func() error, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second})
	if err != nil {
		return nil, nil, fmt.Errorf("etcd %s: %w", endpoint, err)
	}
	store, err := etcdstore.Open(ctx, client, etcdstore.Config{Prefix: "sharedpool/"})
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return store, client.Close, nil
}
