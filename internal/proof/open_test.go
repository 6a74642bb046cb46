package proof

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	_ "modernc.org/sqlite"

	"github.com/bullpen-vm/bullpen/internal/daemon"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
	"github.com/bullpen-vm/bullpen/lease/leasetest"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(childMain())
	}
	code := m.Run()
	endDaemons()
	os.Exit(code)
}

// soak multiplies the counts of the soaks.
func soak(full int) int {
	f, err := strconv.ParseFloat(os.Getenv("BULLPEN_SOAK"), 64)
	if err != nil {
		f = 0.02
	}
	return max(int(float64(full)*f), 2)
}

// opened is a store with its database.
type opened struct {
	lease.Store
	close func() error
}

func openFile(ctx context.Context, path string, c sqlstore.SQLite) (opened, error) {
	c.Path = path
	return openSource(ctx, "file:"+path, c)
}

func openSource(ctx context.Context, source string, c sqlstore.SQLite) (opened, error) {
	db, err := openSQL(source)
	if err != nil {
		return opened{}, err
	}
	s, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: c})
	if err != nil {
		db.Close()
		return opened{}, err
	}
	return opened{s, func() error {
		err := s.Close()
		if gone := db.Close(); err == nil {
			err = gone
		}
		return err
	}}, nil
}

func openSQL(source string) (*sql.DB, error) { return sql.Open("sqlite", source) }

func openPgx(address string) (*sql.DB, error) {
	connector, err := stdlib.GetDefaultDriver().(*stdlib.Driver).OpenConnector(address)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func openPostgres(ctx context.Context, address string, c sqlstore.Postgres) (opened, error) {
	db, err := openPgx(address)
	if err != nil {
		return opened{}, err
	}
	s, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: c})
	if err != nil {
		db.Close()
		return opened{}, err
	}
	return opened{s, func() error {
		err := s.Close()
		if gone := db.Close(); err == nil {
			err = gone
		}
		return err
	}}, nil
}

var databases atomic.Int64

// newDatabase makes an empty schema on the server and gives its address. A database
// of its own would be hundreds of files, which a server that crashed syncs.
func newDatabase(ctx context.Context, s *daemon.Server) (string, error) {
	db, err := openPgx(s.Address)
	if err != nil {
		return "", err
	}
	defer db.Close()
	name := fmt.Sprintf("d%d_%d", os.Getpid(), databases.Add(1))
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
		return "", err
	}
	return s.Address + "&search_path=" + name, nil
}

func dialEtcd(address string, options ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{address}, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		DialOptions: options, Logger: zap.NewNop(),
	})
}

func openEtcd(ctx context.Context, address, prefix string) (opened, error) {
	c, err := dialEtcd(address)
	if err != nil {
		return opened{}, err
	}
	s, err := etcdstore.Open(ctx, c, etcdstore.Config{Prefix: prefix})
	if err != nil {
		c.Close()
		return opened{}, err
	}
	return opened{s, c.Close}, nil
}

// harness runs the suite on what open opens anew under a name.
func harness(open func(ctx context.Context, n int64) (opened, error)) leasetest.Harness {
	var n int64
	give := func(o opened, err error) (lease.Store, func() error, error) { return o.Store, o.close, err }
	return leasetest.Harness{
		Open: func(ctx context.Context) (lease.Store, func() error, error) {
			n = databases.Add(1)
			return give(open(ctx, n))
		},
		Reopen: func(ctx context.Context) (lease.Store, func() error, error) { return give(open(ctx, n)) },
	}
}

func TestSQLiteKeepsTheContract(t *testing.T) {
	t.Parallel()
	leasetest.Run(t, harness(openNumber(t, "sqlite")))
}

func TestPostgreSQLKeepsTheContract(t *testing.T) {
	leasetest.Run(t, harness(openNumber(t, "postgres")))
}

func TestEtcdKeepsTheContract(t *testing.T) {
	leasetest.Run(t, harness(openNumber(t, "etcd")))
}
