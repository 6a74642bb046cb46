package poolproof

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/pool"
)

const (
	ttl    = 10 * time.Second
	margin = 2 * time.Second
)

// times are how long things may take with a kind of machines, on a computer that
// has much else to do: reaping a dead harness's machines and booting another, and
// how soon a harness is killed.
type times struct{ reap, kill time.Duration }

func timesOf(kind string) times {
	if kind == "local" {
		return times{reap: 90 * time.Second, kill: 2 * time.Second}
	}
	return times{reap: 5 * time.Minute, kill: 20 * time.Second}
}

func TestSoakAHarnessThatIsKilledAgainAndAgainDelaysTheOtherNoMoreThanItsLeasesLast(t *testing.T) {
	dir, err := os.MkdirTemp("", "pp") // sockets' paths are short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	soak(t, time.Duration(need.Soak(t, 5, 600))*time.Second, "local", dir)
	entries, err := os.ReadDir(filepath.Join(dir, "machines"))
	require.NoError(t, err)
	for _, e := range entries {
		require.NotContains(t, e.Name(), "shared-", "a machine's folder is left")
	}
}

// soak runs one harness beside another that is killed, for a time.
func soak(t *testing.T, lasts time.Duration, args ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), lasts+10*time.Minute)
	defer cancel()
	h, err := open(ctx, args, 0)
	require.NoError(t, err)
	end := time.Now().Add(lasts)
	kills, taken := 0, 0
	var others sync.WaitGroup
	others.Go(func() {
		for time.Now().Before(end) {
			n, err := sacrifice(ctx, args)
			if !assert.NoError(t, err) {
				return
			}
			taken += n
			kills++
		}
	})
	var mu sync.Mutex
	var worst time.Duration
	uses := 0
	for i := range workers {
		others.Go(func() {
			for time.Now().Before(end) {
				waited, err := h.use(ctx, fmt.Sprintf("survivor-%d", i), ttl+margin+timesOf(args[0]).reap)
				mu.Lock()
				worst, uses = max(worst, waited), uses+1
				mu.Unlock()
				if !assert.NoError(t, err, "after %v", waited) {
					return
				}
			}
		})
	}
	others.Wait()
	s := h.Stats()
	t.Logf("%d kills; %d uses by who was killed, %d by the other, which waited %v at most; %d leftovers destroyed, %d adopted",
		kills, taken, uses, worst.Round(time.Millisecond), s.Leftovers, s.Adopted)
	require.Positive(t, kills)
	require.Positive(t, uses)
	require.NoError(t, h.Close(ctx))

	// What the last one left while the pool closed is the reaper's.
	_, err = pool.Reconcile(ctx, pool.Reaper{Name: "shared", Leases: h.leases, Hosts: []pool.Host{{Driver: h.driver}}, Between: ttl + 2*margin})
	require.NoError(t, err)
	left, err := h.driver.List(ctx)
	require.NoError(t, err)
	require.Empty(t, left, "machines are left")
	_, err = h.leases.Sweep(ctx, "")
	require.NoError(t, err)
	rs, err := h.store.List(ctx, "host/")
	require.NoError(t, err)
	require.Empty(t, rs, "leases are left")
	h.Pool = nil
	require.NoError(t, h.close(ctx))
}

// sacrifice runs a harness and kills it at a random moment, and tells how often it
// had used a machine by then.
func sacrifice(ctx context.Context, args []string) (uses int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), victimVariable+"="+strings.Join(args, "|"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	kill := func() { _ = cmd.Process.Kill() }
	early := rand.N(2) == 0 // anywhere on its way to a machine, or while it works
	if early {
		timer := time.AfterFunc(rand.N(timesOf(args[0]).kill), kill)
		defer timer.Stop()
	}
	for line := bufio.NewScanner(out); line.Scan(); {
		if uses++; uses == 1 && !early {
			timer := time.AfterFunc(rand.N(time.Second), kill)
			defer timer.Stop()
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.Exited() { // it was not killed
		return uses, fmt.Errorf("the harness that is to be killed ended by itself: %w", err)
	}
	return uses, nil
}
