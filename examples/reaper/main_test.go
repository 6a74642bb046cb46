package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test's program is the harness that is killed, too.
func TestMain(m *testing.M) {
	local.Main()
	if name := os.Getenv("BULLPEN_TEST_HARNESS"); name != "" {
		os.Exit(harness(name))
	}
	os.Exit(m.Run())
}

// patience bounds what a real machine may take.
const patience = 5 * time.Minute

// harness keeps two machines, one of them in use, says so, and waits to be killed.
func harness(name string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := func() error {
		driver, spec, err := machines.Options{Driver: os.Getenv("BULLPEN_TEST_DRIVER"), URI: os.Getenv("BULLPEN_TEST_URI"), Dir: os.Getenv("BULLPEN_TEST_DIR")}.Open(ctx)
		if err != nil {
			return err
		}
		p, err := pool.New(pool.Config{
			Name: name, Run: pool.Run{Job: "killed"}, Hosts: []pool.Host{{Driver: driver, Slots: 2}},
			Templates: []pool.Template{{Name: "base", Spec: spec, Ready: 1}},
		})
		if err != nil {
			return err
		}
		g, err := p.Acquire(ctx, pool.Want{})
		if err != nil {
			return err
		}
		for p.Stats().Ready < 1 {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("holding", g.Name())
		<-ctx.Done()
		return ctx.Err()
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// killed runs a harness until it holds its machines. The answer kills it.
func killed(t *testing.T, name string, env ...string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), "BULLPEN_TEST_HARNESS="+name), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	line := bufio.NewScanner(out)
	require.True(t, line.Scan(), "the harness holds nothing")
	return kill
}

func reap(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	code, err := run(t.Context(), args, &b, &b)
	if err != nil {
		b.WriteString(err.Error())
	}
	return code, b.String()
}

func names(t *testing.T, d vm.Driver) []string {
	t.Helper()
	all, err := d.List(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, i := range all {
		ids = append(ids, string(i.ID))
	}
	return ids
}

// t.Setenv keeps the whole test, and its harness, in a folder of its own.
func TestMachinesOfAKilledHarnessAreDestroyedAndNoOthers(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	kill := killed(t, "reaped")
	killOther := killed(t, "other")
	d, err := local.Open(local.Config{})
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Create(t.Context(), vm.Spec{Name: "by-hand", Owner: vm.Owner{Pool: "reaped", Incarnation: "x"}})
	require.NoError(t, err, "a machine of that pool's name, whose owner nobody knows")
	require.Len(t, names(t, d), 5)

	code, out := reap(t, "-name", "reaped", "-between", "1ms", "-dry-run=false")
	require.Equal(t, 0, code, out)
	require.Contains(t, out, "5 machines, 0 destroyed", "the harness lives")
	kill()
	code, out = reap(t, "-name", "reaped", "-between", "1ms")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "would destroy")
	require.Contains(t, out, "job killed")
	require.Contains(t, out, "5 machines, 2 would be destroyed")
	require.Len(t, names(t, d), 5, "a dry run is dry")
	code, out = reap(t, "-name", "reaped", "-between", "1ms", "-dry-run=false")
	require.Equal(t, 0, code, out)
	require.Contains(t, out, "5 machines, 2 destroyed")
	left := names(t, d)
	require.Len(t, left, 3)
	require.Contains(t, left, "by-hand")
	code, out = reap(t, "-name", "reaped", "-between", "1ms")
	require.Equal(t, 0, code, out)

	killOther()
	code, out = reap(t, "-name", "other", "-between", "1ms", "-dry-run=false")
	require.Equal(t, 0, code, out)
	require.Equal(t, []string{"by-hand"}, names(t, d))
	m, err := d.Open(t.Context(), "by-hand")
	require.NoError(t, err)
	require.NoError(t, m.Destroy(t.Context()))
}

func TestExitCodesTellErrorsFromLeftovers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, c := range []struct {
		args []string
		want int
		text string
	}{
		{nil, 0, "0 machines"},
		{[]string{"-driver", "xen"}, 2, `-driver is "xen"`},
		{[]string{"-no-such-flag"}, 2, "not defined"},
		{[]string{"-h"}, 0, "-dry-run"},
		{[]string{"leftover"}, 2, "is no flag"},
		{[]string{"-between", "-1s"}, 2, "Reaper.Between"},
	} {
		code, out := reap(t, c.args...)
		require.Equal(t, c.want, code, "%v: %s", c.args, out)
		require.Contains(t, out, c.text)
	}
}
