package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// stray runs a line of daemons in a command that goes on, and gives the process
// whose id it printed.
func stray(t *testing.T, m *machine, line string) procID {
	t.Helper()
	out, in := io.Pipe()
	ctx := testContext(t)
	go func() { // it ends with its machine; what it says then is not asked here
		_, err := vm.Exec(ctx, m, vm.Command{Argv: []string{"sh", "-c", line + "; sleep 600 >/dev/null"}, Stdout: in})
		in.CloseWithError(err)
	}()
	b := make([]byte, 32)
	n, err := out.Read(b)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	require.NoError(t, err)
	return identify(t, pid)
}

func TestKillEndsDaemonsHoweverTheyGotAway(t *testing.T) {
	t.Parallel()
	for name, line := range daemons {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testDriver(t, Config{})
			m := running(t, d)
			mark := markOf(t, m)
			far := stray(t, m, line)
			require.NoError(t, m.Kill(testContext(t)))
			mustDie(t, far)
			nobodyLeft(t, mark)
		})
	}
}

// Whatever of a machine's processes is hit from outside, the machine ends,
// nobody is left, and the end is told as what it was.
func TestAMachineHitFromOutsideEndsWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		who  string
		sig  syscall.Signal
		kind vm.EndKind
	}{
		"agent killed":           {"agent", syscall.SIGKILL, vm.EndKilled},
		"agent crashed":          {"agent", syscall.SIGSEGV, vm.EndCrashed},
		"agent told to end":      {"agent", syscall.SIGTERM, vm.EndPoweredOff},
		"keeper killed":          {"keeper", syscall.SIGKILL, vm.EndKilled},
		"keeper told to end":     {"keeper", syscall.SIGTERM, vm.EndKilled},
		"keeper's power button":  {"keeper", syscall.SIGPWR, vm.EndPoweredOff},
		"keeper crashed":         {"keeper", syscall.SIGSEGV, vm.EndCrashed},
		"keeper deaf to the bus": {"keeper", syscall.SIGBUS, vm.EndCrashed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			m := running(t, testDriver(t, Config{}))
			mark := markOf(t, m)
			far := stray(t, m, daemons["empty environment"])
			info, err := m.Info(ctx)
			require.NoError(t, err)
			pid, err := strconv.Atoi(info.Details[c.who])
			require.NoError(t, err)
			require.NoError(t, identify(t, pid).signal(c.sig))
			end, err := m.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, c.kind, end.Kind, end.Detail)
			nobodyLeft(t, mark)
			mustDie(t, far)
			want := vm.StateStopped
			if c.kind == vm.EndCrashed {
				want = vm.StateCrashed
			}
			require.Equal(t, want, state(t, m))
			require.NoError(t, m.Start(ctx), "it can be started again")
		})
	}
}

func TestAStoppedAgentAndAStoppedKeeperAreKilled(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"agent", "keeper"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			m := running(t, testDriver(t, Config{}))
			mark := markOf(t, m)
			info, err := m.Info(ctx)
			require.NoError(t, err)
			pid, err := strconv.Atoi(info.Details[who])
			require.NoError(t, err)
			require.NoError(t, identify(t, pid).signal(syscall.SIGSTOP))
			require.NoError(t, m.Kill(ctx))
			nobodyLeft(t, mark)
			require.Equal(t, vm.StateStopped, state(t, m))
			require.NoError(t, m.Destroy(ctx))
		})
	}
}

func TestOverlappingOperationsAreRefusedAndKillWaits(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	d, other := testDriver(t, Config{Root: root}), testDriver(t, Config{Root: root})
	m := running(t, d)
	_, unlock, err := m.operate(ctx, "start", false)
	require.NoError(t, err)
	err = m.Start(ctx)
	require.ErrorIs(t, err, vm.ErrState)
	require.ErrorContains(t, err, "start by process "+strconv.Itoa(os.Getpid())+" is in progress")
	theirs, err := other.Open(ctx, m.ID())
	require.NoError(t, err)
	require.ErrorIs(t, theirs.(vm.Suspender).Suspend(ctx), vm.ErrState)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, theirs.Kill(short), "waited for start by process")
	killed := make(chan error)
	go func() { killed <- theirs.Kill(ctx) }()
	require.NoError(t, unlock())
	require.NoError(t, <-killed)
	end, err := m.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndKilled, end.Kind)
	require.ErrorContains(t, fmt.Errorf("%s", end.Detail), "killed by Kill, from process")
}

func TestEverythingAtOnceLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	a, b := testDriver(t, Config{Root: root}), testDriver(t, Config{Root: root})
	var marks []string
	for range 4 {
		m := create(t, a)
		marks = append(marks, markOf(t, m))
		theirs, err := b.Open(ctx, m.ID())
		require.NoError(t, err)
		var all sync.WaitGroup
		for _, do := range []func(context.Context) error{m.Start, theirs.Start, m.Stop, theirs.Kill, m.Suspend, theirs.(vm.Suspender).Resume, m.Destroy, theirs.Destroy, m.Start} {
			all.Go(func() {
				if err := do(ctx); err != nil && !errors.Is(err, vm.ErrState) && !errors.Is(err, vm.ErrNotFound) {
					t.Errorf("%v", err)
				}
			})
		}
		all.Go(func() {
			if _, err := b.List(ctx); err != nil {
				t.Errorf("%v", err)
			}
		})
		all.Wait()
		require.NoError(t, m.Destroy(ctx))
	}
	infos, err := a.List(ctx)
	require.NoError(t, err)
	require.Empty(t, infos)
	for _, mark := range marks {
		nobodyLeft(t, mark)
	}
}
