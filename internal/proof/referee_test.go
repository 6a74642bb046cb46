package proof

import (
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Referee is the resource that the leases are about, as it is seen from outside:
// the children tell it of each use, and it judges. It is exported for package rpc.
type Referee struct {
	mu       sync.Mutex
	high     map[string]uint64 // the highest token per key
	inside   map[string]Touch  // who uses it
	ended    map[int]bool      // killed, or about to be
	stopped  map[int]int       // how often
	stale    map[int]int       // uses under a token that was succeeded
	uses     map[int]int
	losses   map[int]int    // how often a process was told that it lost a lease
	failures map[int]int    // how often a wait of it ended with an error
	said     map[int]string // what a child said last
	errors   map[int]string
	wrong    []string
	news     chan struct{}
	// strict: nobody is stopped, so no two living processes are ever inside.
	strict bool
}

// Touch is one use of a resource, or the end of using it.
type Touch struct {
	PID   int
	Key   string
	Token uint64
	Leave bool
	Lost  bool // it leaves because Check told it to
	Err   string
}

func newReferee(strict bool) *Referee {
	return &Referee{
		high: map[string]uint64{}, inside: map[string]Touch{}, ended: map[int]bool{}, stopped: map[int]int{}, stale: map[int]int{},
		uses: map[int]int{}, losses: map[int]int{}, failures: map[int]int{}, said: map[int]string{}, errors: map[int]string{}, news: make(chan struct{}, 1), strict: strict,
	}
}

// Touch is called by the children.
func (r *Referee) Touch(x Touch, ok *bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		select {
		case r.news <- struct{}{}:
		default:
		}
	}()
	if x.Err != "" {
		r.errors[x.PID] = x.Err
		r.failures[x.PID]++
		return nil
	}
	now, used := r.inside[x.Key]
	if x.Lost {
		r.losses[x.PID]++
	}
	if x.Leave {
		if now.PID == x.PID {
			delete(r.inside, x.Key)
		}
		return nil
	}
	if x.Token < r.high[x.Key] {
		r.stale[x.PID]++
		return nil
	}
	if x.Token == r.high[x.Key] && (!used || now.PID != x.PID) && r.high[x.Key] != 0 {
		if !used && !r.strict { // it went on after it was told to leave: counted with the stale ones
			r.stale[x.PID]++
		} else {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: token %d of pid %d was pid %d's", x.Key, x.Token, x.PID, now.PID))
		}
	}
	if used && now.PID != x.PID && !r.ended[now.PID] && r.strict {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: pid %d came in with token %d while pid %d was inside with %d", x.Key, x.PID, x.Token, now.PID, now.Token))
	}
	r.high[x.Key], r.inside[x.Key] = x.Token, x
	r.uses[x.PID]++
	*ok = true
	return nil
}

// until waits for the children's news until cond, which is called with mu held.
func (r *Referee) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	limit := time.After(4 * time.Minute)
	for {
		r.mu.Lock()
		ok := cond()
		wrong := r.wrong
		r.mu.Unlock()
		require.Empty(t, wrong)
		if ok {
			return
		}
		select {
		case <-r.news:
		case <-limit:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("no end of waiting for: %s; uses %v, errors %v", what, r.uses, r.errors)
		}
	}
}

// allUsed waits until each of the processes has used something anew.
func (r *Referee) allUsed(t *testing.T, what string, pids []int) {
	t.Helper()
	r.mu.Lock()
	clear(r.uses)
	r.mu.Unlock()
	r.until(t, what, func() bool {
		for _, pid := range pids {
			if r.uses[pid] < 2 {
				return false
			}
		}
		return true
	})
}

// toldOff waits until a process was told that it lost a lease, or that the store
// fails while it waits for one.
func (r *Referee) toldOff(t *testing.T, pid int) {
	t.Helper()
	r.mu.Lock()
	losses, failures := r.losses[pid], r.failures[pid]
	r.mu.Unlock()
	r.until(t, fmt.Sprintf("pid %d is told that it is cut off", pid), func() bool { return r.losses[pid] > losses || r.failures[pid] > failures })
}

// field is the referee with its children.
type field struct {
	*Referee
	t        *testing.T
	socket   string
	settings string
	children []*exec.Cmd
}

// newField serves the referee. settings are what childMain reads, after the
// socket.
func newField(t *testing.T, strict bool, settings ...string) *field {
	t.Helper()
	f := &field{Referee: newReferee(strict), t: t}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := rpc.NewServer()
	require.NoError(t, s.RegisterName("Referee", f.Referee))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.ServeConn(c) })
		}
	})
	f.socket = socket
	f.settings = f.with(settings...)
	t.Cleanup(func() {
		for _, c := range f.children {
			f.end(c)
		}
		listener.Close()
		wg.Wait()
	})
	return f
}

// with gives the settings of the next children.
func (f *field) with(settings ...string) string {
	return strings.Join(append([]string{f.socket}, settings...), "|")
}

func (f *field) start() *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childVariable+"="+f.settings)
	c.Stderr = os.Stderr
	require.NoError(f.t, c.Start())
	f.children = append(f.children, c)
	return c
}

// end kills a child, and waits until it is gone.
func (f *field) end(c *exec.Cmd) {
	f.mu.Lock()
	f.ended[c.Process.Pid] = true
	f.mu.Unlock()
	_ = c.Process.Kill()
	_ = c.Wait()
}

func pidsOf(children []*exec.Cmd) []int {
	var pids []int
	for _, c := range children {
		pids = append(pids, c.Process.Pid)
	}
	return pids
}
