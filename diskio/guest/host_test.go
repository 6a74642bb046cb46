package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	HearSignals()
	goleak.VerifyTestMain(m)
}

// patience bounds waits that should never be long; it is no threshold.
const patience = 30 * time.Second

// host is the other end of an agent's channel.
type host struct {
	t    *testing.T
	conn net.Conn
	dir  string
	c    Config

	mu     sync.Mutex
	queues map[uint32]chan wire.Frame
	disks  map[int]*disk
	ended  chan error
}

// disk is a job disk in memory.
type disk struct {
	mu     sync.Mutex
	b      []byte
	syncs  int
	closed int
	fail   error // of writes
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= int64(len(d.b)) {
		return 0, io.EOF
	}
	n := copy(p, d.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return 0, d.fail
	}
	return copy(d.b[off:], p), nil
}

func (d *disk) Size() int64 { return int64(len(d.b)) }
func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	return nil
}
func (d *disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

// start runs an agent over a pipe; change may alter its configuration.
func start(t *testing.T, change func(*Config)) *host {
	t.Helper()
	ours, theirs := net.Pipe()
	h := &host{t: t, conn: ours, dir: t.TempDir(), queues: map[uint32]chan wire.Frame{}, disks: map[int]*disk{}, ended: make(chan error, 1)}
	h.c = Config{
		Conn: theirs, Secret: "s3cret", Incarnation: "inc-1",
		Disks: func(n int) (Disk, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if d, ok := h.disks[n]; ok {
				return d, nil
			}
			return nil, fmt.Errorf("no such disk")
		},
		WorkDir: filepath.Join(h.dir, "work"), Mark: filepath.Join(h.dir, "mark"),
		HelloInterval: 5 * time.Millisecond, Grace: 200 * time.Millisecond, WaitDelay: 300 * time.Millisecond, FlushInterval: 10 * time.Millisecond,
	}
	if change != nil {
		change(&h.c)
	}
	a, err := New(h.c)
	require.NoError(t, err)
	go func() { h.ended <- a.Run(t.Context()) }()
	read := make(chan struct{})
	go func() { defer close(read); h.read(ours) }()
	t.Cleanup(func() {
		ours.Close()
		<-read
		select {
		case err := <-h.ended:
			h.ended <- err
		case <-time.After(patience):
			t.Error("the agent did not end with its channel")
		}
	})
	return h
}

func (h *host) queue(stream uint32) chan wire.Frame {
	h.mu.Lock()
	defer h.mu.Unlock()
	q, ok := h.queues[stream]
	if !ok {
		q = make(chan wire.Frame, 100_000)
		h.queues[stream] = q
	}
	return q
}

func (h *host) read(conn net.Conn) {
	r := wire.NewReader(conn)
	for {
		f, err := r.Next()
		if err != nil {
			return
		}
		h.queue(f.Stream) <- f
	}
}

func (h *host) send(stream uint32, k wire.Kind, v any) {
	body, ok := v.([]byte)
	if !ok {
		body = wire.Encode(v)
	}
	b, err := wire.Append(nil, wire.Frame{Stream: stream, Kind: k, Body: body})
	require.NoError(h.t, err)
	_, err = h.conn.Write(b)
	require.NoError(h.t, err)
}

// next waits for the next frame of a kind on a stream, into v if not nil.
func (h *host) next(stream uint32, k wire.Kind, v any) wire.Frame {
	h.t.Helper()
	q, limit := h.queue(stream), time.After(patience)
	for {
		select {
		case f := <-q:
			if f.Kind != k {
				if f.Kind == wire.KindFault {
					require.FailNow(h.t, "fault", "%s", f.Body)
				}
				continue
			}
			if v != nil {
				require.NoError(h.t, wire.Decode(k, f.Body, v))
			}
			return f
		case <-limit:
			require.FailNow(h.t, "no frame", "kind %d on stream %d", k, stream)
		}
	}
}

// welcome does the conversation up to ready.
func (h *host) welcome(w wire.Welcome) wire.Ready {
	h.t.Helper()
	var hello wire.Hello
	h.next(0, wire.KindHello, &hello)
	require.Equal(h.t, "s3cret", hello.Secret)
	require.Equal(h.t, "inc-1", hello.Incarnation)
	w.Version = wire.Version
	h.send(0, wire.KindWelcome, w)
	var ready wire.Ready
	h.next(0, wire.KindReady, &ready)
	return ready
}

// put writes a job on a disk.
func (h *host) put(n int, size int64, parts ...diskio.Part) diskio.Ticket {
	h.t.Helper()
	if size == 0 {
		var err error
		size, err = diskio.JobSize(parts)
		require.NoError(h.t, err)
	}
	d := &disk{b: make([]byte, size)}
	ticket, err := diskio.WriteJob(context.Background(), d, size, parts, nil)
	require.NoError(h.t, err)
	h.mu.Lock()
	h.disks[n] = d
	h.mu.Unlock()
	return ticket
}

func (h *host) results(n int, ticket diskio.Ticket) *diskio.Results {
	h.t.Helper()
	r, err := diskio.ReadResults(context.Background(), h.disks[n], h.disks[n].Size(), ticket, nil)
	require.NoError(h.t, err)
	return r
}

// run does one job whole on disk and stream n.
func (h *host) run(n int, parts ...diskio.Part) *diskio.Results {
	h.t.Helper()
	ticket := h.put(n, 0, parts...)
	h.send(uint32(n), wire.KindGo, diskio.Go{Disk: n, Nonce: ticket.Nonce}.Encode())
	var done wire.Done
	h.next(uint32(n), wire.KindDone, &done)
	require.Equal(h.t, wire.Done{Complete: true}, done)
	return h.results(n, ticket)
}

func commands(id string, lines ...string) diskio.Part {
	return diskio.Part{ID: id, Job: diskio.Job{Steps: diskio.Commands(lines...)}}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return err == nil
}

// any waits for the next frame on a stream, whatever it is.
func (h *host) any(stream uint32) wire.Frame {
	h.t.Helper()
	select {
	case f := <-h.queue(stream):
		return f
	case <-time.After(patience):
		require.FailNow(h.t, "no frame", "on stream %d", stream)
		panic("not reached")
	}
}
