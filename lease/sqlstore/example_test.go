package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// It needs a driver called "sqlite", such as modernc.org/sqlite, which the program
// imports; it is run by internal/proof.
func ExampleOpen() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", "file:/var/lib/ci/leases.db")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{}}) // or Postgres{}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	leases, err := lease.New(lease.Config{Store: store, Owner: "TestUpgrade"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer leases.Close(ctx)
	slot, err := leases.Acquire(ctx, "host/h1/slot/0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer slot.Release(ctx)
	fmt.Println(slot.Key(), slot.Check() == nil)
}
