package etcdstore_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
)

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("etcd"); err != nil { // tests say that it is missing, examples cannot
		flag.Parse()
		_ = flag.Set("test.skip", "^Example")
	}
	code := m.Run()
	server.end()
	os.Exit(code)
}

// server is the etcd of the tests: in a folder of its own, on the loopback only.
var server etcd

type etcd struct {
	once    sync.Once
	address string
	dir     string
	running *exec.Cmd
	err     error
}

func (e *etcd) start() error {
	e.once.Do(func() { e.err = e.run() })
	return e.err
}

func (e *etcd) run() (err error) {
	if e.dir, err = os.MkdirTemp("", "bullpen-etcd"); err != nil {
		return err
	}
	var ports []int
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	e.address = fmt.Sprintf("127.0.0.1:%d", ports[0])
	here, there := "http://"+e.address, fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	e.running = exec.Command("etcd", "--name", "test", "--data-dir", filepath.Join(e.dir, "data"),
		"--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", there,
		"--initial-advertise-peer-urls", there, "--initial-cluster", "test="+there, "--logger", "zap", "--log-level", "error")
	e.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.running.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := dial(e.address)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		try, done := context.WithTimeout(ctx, 2*time.Second)
		_, err := client.Get(try, "health")
		done()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (e *etcd) end() {
	if e.running != nil && e.running.Process != nil {
		_ = e.running.Process.Kill()
		_ = e.running.Wait()
	}
	_ = os.RemoveAll(e.dir)
}

func dial(address string, options ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{address}, DialKeepAliveTime: 10 * time.Second, DialOptions: options})
}

// connect gives a client of the server, which the test's end closes.
func connect(t *testing.T, options ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	need.Thing(t, "etcd")
	require.NoError(t, server.start())
	c, err := dial(server.address, options...)
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
