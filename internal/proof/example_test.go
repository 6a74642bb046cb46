package proof

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// The example of package sqlstore, with a driver: two processes' Managers on one file.
func Example_sqlite() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for _, owner := range []string{"TestUpgrade", "TestInstall"} {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "leases.db"))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer db.Close()
		store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{}})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer store.Close()
		leases, err := lease.New(lease.Config{Store: store, Owner: owner, Dir: filepath.Join(dir, "runs")})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer leases.Close(ctx)
		slot, err := leases.TryAny(ctx, []string{"host/h1/slot/0", "host/h1/slot/1"}, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer slot.Release(ctx)
		fmt.Println(owner, slot.Key(), slot.Check() == nil)
	}
	// Output:
	// TestUpgrade host/h1/slot/0 true
	// TestInstall host/h1/slot/1 true
}
