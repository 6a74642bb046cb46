package etcdstore_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/bullpen-vm/bullpen/internal/daemon"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
)

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("etcd"); err != nil { // tests say that it is missing, examples cannot
		flag.Parse()
		_ = flag.Set("test.skip", "^Example")
	}
	code := m.Run()
	if s, err := server(); err == nil {
		_ = s.Close()
	}
	os.Exit(code)
}

// server is the etcd of the tests, started when it is first wanted.
var server = sync.OnceValues(func() (*daemon.Server, error) { return daemon.Etcd(context.Background()) })

func dial(address string, options ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{address}, DialKeepAliveTime: 10 * time.Second, DialOptions: options})
}

// connect gives a client of the server, which the test's end closes.
func connect(t *testing.T, options ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	need.Thing(t, "etcd")
	s, err := server()
	require.NoError(t, err)
	c, err := dial(s.Address, options...)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// open gives a store under a prefix of the test's own.
func open(t *testing.T, options ...grpc.DialOption) (*etcdstore.Store, *clientv3.Client) {
	t.Helper()
	c := connect(t, options...)
	s, err := etcdstore.Open(t.Context(), c, etcdstore.Config{Prefix: t.Name() + "/"})
	require.NoError(t, err)
	return s, c
}
