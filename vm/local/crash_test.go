package local

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// runHarness is a harness for being killed: machines come and go, and have
// daemons of every kind. It says the mark of each machine it made.
func runHarness() {
	ctx := context.Background()
	d, err := Open(Config{Root: os.Getenv("ROOT")})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for n := range 3 {
		go func() {
			for i := 0; ; i++ {
				if err := live(ctx, d, fmt.Sprintf("m%d-%d-%d", os.Getpid(), n, i)); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

func live(ctx context.Context, d *Driver, name string) error {
	m, err := d.Create(ctx, vm.Spec{Name: name, JobDisks: []int64{4096}, Owner: vm.Owner{Pool: "crash", Incarnation: name}})
	if err != nil {
		return err
	}
	spec, err := m.(*machine).spec()
	if err != nil {
		return err
	}
	fmt.Println("mark", spec.Mark)
	if err := m.Start(ctx); err != nil {
		return err
	}
	line := `for i in 1 2; do (env -i /usr/bin/env setsid sh -c 'sleep 600' >/dev/null 2>&1 &); (nohup sleep 600 >/dev/null 2>&1 &); done; sleep 0.05`
	if _, err := vm.Exec(ctx, m, vm.Command{Argv: []string{"sh", "-c", line}}); err != nil {
		return err
	}
	return m.Destroy(ctx)
}

// A harness is killed at a random moment, sometimes together with a keeper.
// The next one on the same root finds what is left, destroys it, and then there
// is nothing: no process, no folder.
func TestNothingIsLeftOfAHarnessThatWasKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("kills processes for some seconds: not with -short")
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Log("seed", seed)
	root := t.TempDir()
	for range need.Soak(t, 8, 200) {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), testRole+"=harness", "ROOT="+root)
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		require.Equal(t, "ready", lines.Text())
		var marks, errs []string
		read := make(chan struct{})
		go func() {
			defer close(read)
			for lines.Scan() {
				kind, rest, _ := strings.Cut(lines.Text(), " ")
				if kind == "mark" {
					marks = append(marks, rest)
				} else {
					errs = append(errs, lines.Text())
				}
			}
		}()
		// This is no synchronisation: any moment is as good as another.
		time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
		victims := []int{c.Process.Pid}
		alone := random.IntN(2) == 0
		if !alone {
			victims = append(victims, keepers(t, root, random)...)
		}
		for _, i := range random.Perm(len(victims)) {
			_ = exec.Command("kill", "-9", strconv.Itoa(victims[i])).Run() // it may be gone already
		}
		_ = c.Wait() // killed
		<-read
		if alone {
			require.Empty(t, errs) // else it may have seen a machine die before it was hit itself
			gone(t, marks)         // and the keepers live: they end their machines, without a next harness
		}
		aftermath(t, root, marks)
	}
}

// keepers gives the process ids of some keepers, and freezes others.
func keepers(t *testing.T, root string, random *rand.Rand) []int {
	var pids []int
	dirs, err := filepath.Glob(filepath.Join(root, "*", runFile))
	require.NoError(t, err)
	for _, path := range dirs {
		var r runRecord
		if readRecord(path, &r) != nil {
			continue
		}
		switch random.IntN(3) {
		case 0:
			pids = append(pids, r.Keeper.PID)
		case 1:
			_ = exec.Command("kill", "-STOP", strconv.Itoa(r.Keeper.PID)).Run() // it may be gone already
		}
	}
	return pids
}

func aftermath(t *testing.T, root string, marks []string) {
	t.Helper()
	ctx := testContext(t)
	d, err := Open(Config{Root: root})
	require.NoError(t, err)
	infos, err := d.List(ctx)
	require.NoError(t, err)
	for _, info := range infos {
		require.Equal(t, "crash", info.Owner.Pool)
		m, err := d.Open(ctx, info.ID)
		require.NoError(t, err)
		require.NoError(t, m.Destroy(ctx))
	}
	infos, err = d.List(ctx)
	require.NoError(t, err)
	require.Empty(t, infos)
	require.NoError(t, d.Close())
	// A machine that the harness had destroyed is gone whole; a keeper that was
	// on its way out when its folder went is allowed to get there.
	gone(t, marks)
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, e.Name() == ".id" || e.Name() == addressFolder, e.Name())
	}
	entries, err = os.ReadDir(filepath.Join(root, addressFolder))
	require.NoError(t, err)
	require.Empty(t, entries, "addresses of machines that are gone")
}

// gone waits until no process bears one of the marks.
func gone(t *testing.T, marks []string) {
	t.Helper()
	ctx := testContext(t)
	for _, mark := range marks {
		for {
			found, err := newHerd(mark, runRecord{}).find()
			require.NoError(t, err)
			if len(found) == 0 {
				break
			}
			require.NoError(t, sleep(ctx, time.Millisecond), describe(found))
		}
	}
}
