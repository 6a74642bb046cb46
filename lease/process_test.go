package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Real processes on one store: the test serves its MemStore and a guarded
// resource over a socket, and the children, which are this test binary again,
// contend for the leases.

// SwapArgs and Answer are exported because package rpc wants that.
type SwapArgs struct {
	Prev, Next Record
	NewToken   bool
}

type Answer struct {
	Record   Record
	Records  []Record
	Conflict bool
}

// server is what the children reach.
type server struct {
	store *MemStore
	mu    sync.Mutex
	high  map[string]uint64 // the highest token seen per key
	stale map[int]int       // refused touches per pid
	runs  map[int]int       // accepted touches per pid
	told  map[int]string    // what a child said last
	news  chan struct{}
}

func (s *server) note(a *Answer, err error) error {
	if errors.Is(err, ErrConflict) {
		a.Conflict = true
		return nil
	}
	return err
}

func (s *server) Load(key string, a *Answer) (err error) {
	a.Record, err = s.store.Load(context.Background(), key)
	return err
}

func (s *server) Swap(x SwapArgs, a *Answer) (err error) {
	a.Record, err = s.store.Swap(context.Background(), x.Prev, x.Next, x.NewToken)
	return s.note(a, err)
}

func (s *server) Delete(prev Record, a *Answer) error {
	return s.note(a, s.store.Delete(context.Background(), prev))
}

func (s *server) List(prefix string, a *Answer) (err error) {
	a.Records, err = s.store.List(context.Background(), prefix)
	return err
}

// Touching is one use of the resource: it takes no token below one that it saw.
type Touching struct {
	PID   int
	Key   string
	Token uint64
	Say   string
}

func (s *server) Touch(x Touching, ok *bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[x.PID] = x.Say
	if x.Token > 0 {
		if *ok = x.Token >= s.high[x.Key]; *ok {
			s.high[x.Key] = x.Token
			s.runs[x.PID]++
		} else {
			s.stale[x.PID]++
		}
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
	return nil
}

// until waits for the children's news until cond holds.
func (s *server) until(t *testing.T, cond func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.news:
		case <-limit:
			t.Fatal("the children do not get on")
		}
	}
}

// remote is the children's Store.
type remote struct{ c *rpc.Client }

func (r remote) call(ctx context.Context, method string, args any) (Answer, error) {
	if ctx.Err() != nil {
		return Answer{}, ended(ctx)
	}
	var a Answer
	call := r.c.Go("server."+method, args, &a, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
	case <-ctx.Done():
		return Answer{}, ended(ctx)
	}
	if call.Error == nil && a.Conflict {
		return a, ErrConflict
	}
	return a, call.Error
}

func (r remote) ID(context.Context) (string, error) { return "remote", nil }
func (r remote) Load(ctx context.Context, key string) (Record, error) {
	a, err := r.call(ctx, "Load", key)
	return a.Record, err
}
func (r remote) Swap(ctx context.Context, prev, next Record, newToken bool) (Record, error) {
	a, err := r.call(ctx, "Swap", SwapArgs{prev, next, newToken})
	return a.Record, err
}
func (r remote) Delete(ctx context.Context, prev Record) error {
	_, err := r.call(ctx, "Delete", prev)
	return err
}
func (r remote) List(ctx context.Context, prefix string) ([]Record, error) {
	a, err := r.call(ctx, "List", prefix)
	return a.Records, err
}

// childMain is a child: it takes keys, uses the resource under them, and gives
// them back, until it is killed or its parent is gone.
func childMain() int {
	args := strings.Split(os.Getenv("BULLPEN_LEASE_CHILD"), "|") // socket, dir, keys, ttl
	client, err := rpc.Dial("unix", args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ttl, err := time.ParseDuration(args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m, err := New(Config{Store: remote{client}, Dir: args[1], TTL: ttl, Poll: 5 * time.Millisecond, NoLock: args[1] == ""})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	keys := strings.Split(args[2], ",")
	ctx := context.Background()
	for {
		key := keys[rand.IntN(len(keys))]
		l, err := m.Acquire(ctx, key, nil)
		if err != nil {
			if strings.Contains(err.Error(), "shut down") || strings.Contains(err.Error(), "EOF") {
				return 0
			}
			continue
		}
		for range 5 + rand.IntN(20) {
			if l.Check() != nil {
				break
			}
			var ok bool
			say := "held " + m.LockPath()
			if err := client.Call("server.Touch", Touching{os.Getpid(), key, l.Token(), say}, &ok); err != nil {
				return 0
			}
			if rand.IntN(5) == 0 {
				_, _ = l.Raise(ctx)
			}
		}
		_ = l.Release(ctx)
	}
}

// serve starts a server, and gives what starts children of it.
func serve(t *testing.T, keys string, ttl time.Duration, dir string) (*server, func() *exec.Cmd) {
	t.Helper()
	s := &server{store: NewMemStore(), high: map[string]uint64{}, stale: map[int]int{}, runs: map[int]int{}, told: map[int]string{}, news: make(chan struct{}, 1)}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	r := rpc.NewServer()
	require.NoError(t, r.RegisterName("server", s))
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { r.ServeConn(c) })
		}
	})
	var children []*exec.Cmd
	t.Cleanup(func() {
		for _, c := range children {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		listener.Close()
		conns.Wait()
	})
	return s, func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "BULLPEN_LEASE_CHILD="+strings.Join([]string{socket, dir, keys, ttl.String()}, "|"))
		c.Stderr = os.Stderr
		require.NoError(t, c.Start())
		children = append(children, c)
		return c
	}
}

func TestHoldersThatAreKilledAreSucceededAtOnce(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	// A TTL of an hour: nothing here is freed by the clock.
	s, start := serve(t, "a,b", time.Hour, dir)
	children := []*exec.Cmd{start(), start(), start()}
	killed := make(map[int]bool)
	for range 10 * soak(t) {
		s.mu.Lock()
		clear(s.runs)
		s.mu.Unlock()
		s.until(t, func() bool { // all of them get on
			for _, c := range children {
				if s.runs[c.Process.Pid] < 3 {
					return false
				}
			}
			return true
		})
		i := rand.IntN(len(children))
		victim := children[i]
		s.mu.Lock()
		lock := strings.TrimPrefix(s.told[victim.Process.Pid], "held ")
		s.mu.Unlock()
		alive, known := OwnerAlive(lock)
		require.True(t, alive && known)
		require.NoError(t, victim.Process.Kill())
		_ = victim.Wait()
		killed[victim.Process.Pid] = true
		alive, known = OwnerAlive(lock)
		require.True(t, !alive && known)
		if rand.IntN(2) == 0 {
			_, err := SweepRuns(dir)
			require.NoError(t, err)
			alive, known = OwnerAlive(lock)
			require.True(t, !alive && known)
		}
		children[i] = start()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, n := range s.stale {
		// What was on its way when it was killed may come after its successor.
		assert.True(t, killed[pid] && n <= 1, "a token that was succeeded was used %d times", n)
	}
}

func TestAHolderThatIsStoppedBeyondItsTTLDoesNothingMoreWhenItGoesOn(t *testing.T) {
	t.Parallel()
	const ttl = 600 * time.Millisecond
	s, start := serve(t, "a", ttl, "")
	children := []*exec.Cmd{start(), start(), start()}
	stops := make(map[int]int)
	for range 2 * soak(t) {
		s.mu.Lock()
		clear(s.runs)
		s.mu.Unlock()
		s.until(t, func() bool { return len(s.runs) >= 2 })
		c := children[rand.IntN(len(children))]
		pid := c.Process.Pid
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		stops[pid]++
		s.mu.Lock()
		clear(s.runs)
		s.mu.Unlock()
		s.until(t, func() bool { // the others go on, whether it held the key or not
			n := 0
			for p, runs := range s.runs {
				if p != pid && runs > 3 {
					n++
				}
			}
			return n == 2
		})
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		s.until(t, func() bool { return s.runs[pid] > 0 })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, n := range s.stale {
		// What was between Check and the resource when it was stopped arrives;
		// nothing after it does.
		assert.LessOrEqual(t, n, stops[pid])
	}
}
