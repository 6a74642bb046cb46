package proof

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// server is a daemon of the tests: it lives in a folder of its own, listens on
// the loopback only, and ends with the tests.
type server struct {
	dir     string
	address string
	start   func() *exec.Cmd
	ready   func(ctx context.Context) error
	running *exec.Cmd
}

func (s *server) up() error {
	s.running = s.start()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.running.Stdout, s.running.Stderr = log, log
	if err := s.running.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("%w: %w; its log:\n%.3000s", ctx.Err(), err, text)
		}
		time.Sleep(20 * time.Millisecond) // another program's start: nothing else to wait for
	}
}

// down ends it as a crash of its machine would.
func (s *server) down() {
	if s.running != nil {
		_ = s.running.Process.Kill()
		_ = s.running.Wait()
		s.running = nil
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// daemons are started once, when a test first wants them.
type daemons struct {
	once sync.Once
	s    *server
	err  error
}

var postgresServer, etcdServer daemons

func endDaemons() {
	for _, d := range []*daemons{&postgresServer, &etcdServer} {
		if d.s != nil {
			if d.s.running != nil { // in order, so that nothing of it stays behind
				_ = d.s.running.Process.Signal(syscall.SIGINT)
				_ = d.s.running.Wait()
			}
			_ = os.RemoveAll(d.s.dir)
		}
	}
}

// unprivileged gives the user that PostgreSQL runs as where this is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("no user postgres or nobody to run the server as")
}

func newPostgres() (*server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("no initdb: %w", err)
	}
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	dir, err := os.MkdirTemp("", "bullpen-postgres")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	who, err := unprivileged()
	if err != nil {
		return s, err
	}
	as := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir = dir
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + dir}
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: who}
		return c
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return s, err
	}
	if who != nil {
		for _, d := range []string{dir, data} {
			if err := os.Chown(d, int(who.Uid), int(who.Gid)); err != nil {
				return s, err
			}
		}
	}
	// The superuser is called as the connection string says; only the loopback is open.
	if out, err := as("initdb", "-D", data, "-U", "bullpen", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		return s, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return s, err
	}
	s.address = fmt.Sprintf("postgres://bullpen@127.0.0.1:%d/postgres?sslmode=disable", port)
	s.start = func() *exec.Cmd {
		return as("postgres", "-D", data, "-p", strconv.Itoa(port), "-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=250", "-c", "shared_buffers=64MB")
	}
	s.ready = func(ctx context.Context) error {
		db, err := openPgx(s.address)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}
	return s, s.up()
}

func newEtcd() (*server, error) {
	program := os.Getenv("BULLPEN_ETCD")
	if program == "" {
		program = "etcd"
	}
	dir, err := os.MkdirTemp("", "bullpen-etcd")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	client, err := freePort()
	if err != nil {
		return s, err
	}
	peer, err := freePort()
	if err != nil {
		return s, err
	}
	s.address = fmt.Sprintf("127.0.0.1:%d", client)
	s.start = func() *exec.Cmd {
		here, there := "http://"+s.address, fmt.Sprintf("http://127.0.0.1:%d", peer)
		c := exec.Command(program, "--name", "proof", "--data-dir", filepath.Join(dir, "data"),
			"--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", there,
			"--initial-advertise-peer-urls", there, "--initial-cluster", "proof="+there, "--logger", "zap", "--log-level", "error")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	s.ready = func(ctx context.Context) error {
		c, err := dialEtcd(s.address)
		if err != nil {
			return err
		}
		defer c.Close()
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err = c.Get(bounded, "health")
		return err
	}
	return s, s.up()
}

func (d *daemons) get(t testing.TB, thing string, start func() (*server, error)) *server {
	t.Helper()
	need.Thing(t, thing)
	d.once.Do(func() { d.s, d.err = start() })
	require.NoError(t, d.err)
	return d.s
}

// Pdeathsig is sent when the thread that started the process ends: the daemons are
// started from the main test goroutines, whose threads the Go runtime keeps.
func thePostgres(t testing.TB) *server { return postgresServer.get(t, "postgres", newPostgres) }
func theEtcd(t testing.TB) *server     { return etcdServer.get(t, "etcd", newEtcd) }
