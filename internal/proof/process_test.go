package proof

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

const childVariable = "BULLPEN_PROOF_CHILD"

func openKind(ctx context.Context, kind, address string) (opened, error) {
	switch kind {
	case "sqlite":
		return openFile(ctx, address, sqlstore.SQLite{GateWait: 2 * time.Second})
	case "postgres":
		return openPostgres(ctx, address, sqlstore.Postgres{StatementTimeout: 2 * time.Second, Connections: 4})
	case "etcd":
		host, prefix, _ := strings.Cut(address, "/")
		return openEtcd(ctx, host, prefix)
	}
	return opened{}, fmt.Errorf("no store is called %q", kind)
}

// childMain takes keys, uses them, and gives them back, until it is killed or its
// parent is gone: socket, kind, address, dir of the flocks, ttl, keys.
func childMain() int {
	args := strings.Split(os.Getenv(childVariable), "|")
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	switch args[0] {
	case "stop in a transaction":
		return stopInside(args[1])
	case "stop at a moment":
		return stopAt(args[1], args[2], args[3])
	}
	ctx := context.Background()
	client, err := rpc.Dial("unix", args[0])
	if err != nil {
		return fail(err)
	}
	var store opened
	for range 20 { // a server that restarts, a gate whose holder is stopped
		if store, err = openKind(ctx, args[1], args[2]); err == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil {
		return fail(err)
	}
	ttl, err := time.ParseDuration(args[4])
	if err != nil {
		return fail(err)
	}
	m, err := lease.New(lease.Config{Store: store, TTL: ttl, Poll: 20 * time.Millisecond, Dir: args[3], NoLock: args[3] == ""})
	if err != nil {
		return fail(err)
	}
	keys := strings.Split(args[5], ",")
	pid := os.Getpid()
	for {
		key := keys[rand.IntN(len(keys))]
		l, err := m.TryAny(ctx, keys, nil) // which claims, where there are several and the store can
		if err == nil {
			key = l.Key()
		} else if errors.Is(err, lease.ErrHeld) || len(keys) == 1 {
			l, err = m.Acquire(ctx, key, nil)
		}
		if err != nil {
			if client.Call("Referee.Touch", Touch{PID: pid, Err: err.Error()}, new(bool)) != nil {
				return 0
			}
			continue
		}
		lost := false
		for range 3 + rand.IntN(10) {
			if lost = l.Check() != nil; lost {
				break
			}
			if err := client.Call("Referee.Touch", Touch{PID: pid, Key: key, Token: l.Token()}, new(bool)); err != nil {
				return 0
			}
			if rand.IntN(5) == 0 {
				_, _ = l.Raise(ctx) // an error is seen by Check
			}
		}
		if client.Call("Referee.Touch", Touch{PID: pid, Key: key, Leave: true, Lost: lost}, new(bool)) != nil {
			return 0
		}
		_ = l.Release(ctx)                        // what could not be deleted is tried again
		time.Sleep(rand.N(20 * time.Millisecond)) // the others poll: a turn for them
	}
}

// arena gives the address of an empty store of the kind.
func arena(t *testing.T, kind string) string {
	t.Helper()
	switch kind {
	case "sqlite":
		path := filepath.Join(t.TempDir(), "leases.db")
		o, err := openFile(t.Context(), path, sqlstore.SQLite{})
		require.NoError(t, err)
		require.NoError(t, o.close())
		return path
	case "postgres":
		address, err := newDatabase(t.Context(), thePostgres(t))
		require.NoError(t, err)
		return address
	}
	return fmt.Sprintf("%s/bullpen/%d/", theEtcd(t).Address, databases.Add(1))
}

var kinds = []string{"sqlite", "postgres", "etcd"}

func TestSoakHoldersThatAreKilledAreSucceeded(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			address := arena(t, kind)
			dir := filepath.Join(t.TempDir(), "runs")
			require.NoError(t, os.Mkdir(dir, 0o700))
			// A TTL of an hour: who is dead is succeeded because the flock proves it.
			f := newField(t, true, kind, address, dir, "1h", "a,b")
			for range 4 {
				f.start()
			}
			for n := range soak(200) {
				f.allUsed(t, fmt.Sprintf("all get on before kill %d", n), pidsOf(f.children))
				i := rand.IntN(len(f.children))
				f.end(f.children[i])
				f.children = append(f.children[:i], f.children[i+1:]...)
				f.start()
			}
			f.allUsed(t, "all get on in the end", pidsOf(f.children))
			f.mu.Lock()
			defer f.mu.Unlock()
			for pid, n := range f.stale { // what was on its way when it was killed
				assert.True(t, f.ended[pid] && n <= 1, "pid %d used a token %d times that was succeeded", pid, n)
			}
		})
	}
}

func TestSoakHoldersThatAreStoppedBeyondTheTTLDoNothingMore(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address := arena(t, kind)
			const ttl = 1500 * time.Millisecond
			f := newField(t, false, kind, address, "", ttl.String(), "a")
			for range 3 {
				f.start()
			}
			for range soak(50) {
				f.allUsed(t, "all get on before a stop", pidsOf(f.children))
				victim := f.children[rand.IntN(len(f.children))]
				pid := victim.Process.Pid
				require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
				f.mu.Lock()
				f.stopped[pid]++
				f.mu.Unlock()
				if kind == "sqlite" { // it may have been stopped with the gate
					time.Sleep(2 * ttl)
				} else {
					var others []*exec.Cmd
					for _, c := range f.children {
						if c != victim {
							others = append(others, c)
						}
					}
					f.allUsed(t, "the others go on", pidsOf(others))
				}
				require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			}
			f.allUsed(t, "all get on in the end", pidsOf(f.children))
			f.mu.Lock()
			defer f.mu.Unlock()
			for pid, n := range f.stale { // what was between Check and the resource
				assert.LessOrEqual(t, n, f.stopped[pid])
			}
		})
	}
}

func TestSoakTheServerIsRestarted(t *testing.T) {
	for _, kind := range []string{"postgres", "etcd"} {
		t.Run(kind, func(t *testing.T) {
			address := arena(t, kind)
			s := map[string]*daemons{"postgres": &postgresServer, "etcd": &etcdServer}[kind].s
			f := newField(t, false, kind, address, "", "5s", "a,b")
			for range 3 {
				f.start()
			}
			for range soak(20) {
				f.allUsed(t, "all get on before a restart", pidsOf(f.children))
				s.Crash()
				require.NoError(t, s.Up(t.Context()))
			}
			f.allUsed(t, "all get on in the end", pidsOf(f.children))
			f.mu.Lock()
			defer f.mu.Unlock()
			assert.Empty(t, f.stale)
			assert.Empty(t, f.wrong)
		})
	}
}
