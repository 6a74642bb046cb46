package dialin

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/diskio/guest"
	"github.com/bullpen-vm/bullpen/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds what takes milliseconds.
const limit = time.Minute

// journal is a log and the news of a driver.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	news []string
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) changed(name string, up bool, _ error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.news = append(j.news, name+map[bool]string{true: " up", false: " down"}[up])
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.news...)
}

// open makes a driver that is closed with the test.
func open(t *testing.T, c Config) (*Driver, *journal) {
	t.Helper()
	j := &journal{}
	c.Logger, c.Changed = slog.New(slog.NewTextHandler(j, nil)), j.changed
	d, err := Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d, j
}

// listen serves on a port of the loopback until the test ends.
func listen(t *testing.T, d *Driver) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
	return l.Addr().String()
}

// dial starts a true agent that connects as the worker; ended has its error.
func dial(t *testing.T, address, name, secret string) (stop func(), ended <-chan error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	agent, err := guest.New(guest.Config{
		Conn: conn, Secret: secret, Incarnation: name, Agent: "test", WorkDir: t.TempDir(),
		Disks: func(int) (guest.Disk, error) { return nil, io.ErrUnexpectedEOF },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		out <- agent.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-over
	}
	t.Cleanup(stop)
	return stop, out
}

// puppet is a worker over a pipe in memory that does what the test says.
type puppet struct {
	conn net.Conn
	deaf sync.Map // "deaf": it answers no pings
	over chan struct{}
}

// say makes a puppet and has it let in.
func say(t *testing.T, d *Driver, name, secret string) (*puppet, error) {
	t.Helper()
	near, far := net.Pipe()
	p := &puppet{conn: far, over: make(chan struct{})}
	go p.serve(name, secret)
	err := d.Admit(t.Context(), near, "pipe of "+name)
	t.Cleanup(func() {
		_ = far.Close()
		<-p.over
	})
	return p, err
}

func (p *puppet) serve(name, secret string) {
	defer close(p.over)
	defer p.conn.Close()
	send := func(k wire.Kind, body []byte) {
		if b, err := wire.Append(nil, wire.Frame{Kind: k, Body: body}); err == nil {
			_, _ = p.conn.Write(b) // the reader sees the end
		}
	}
	send(wire.KindHello, wire.Encode(wire.Hello{Version: wire.Version, Secret: secret, Incarnation: name, Boot: "b", Agent: "puppet"}))
	for r := wire.NewReader(p.conn); ; {
		f, err := r.Next()
		if err != nil {
			return
		}
		switch f.Kind {
		case wire.KindRefused:
			return
		case wire.KindWelcome:
			send(wire.KindReady, wire.Encode(wire.Ready{}))
		case wire.KindPing:
			if _, deaf := p.deaf.Load("deaf"); !deaf {
				send(wire.KindPong, f.Body)
			}
		}
	}
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}
