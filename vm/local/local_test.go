package local

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/vm"
)

// testRole tells a process that it is started by a test, to be something else.
const testRole = "BULLPEN_LOCAL_TEST"

func TestMain(m *testing.M) {
	Main()
	switch os.Getenv(testRole) {
	case "marked":
		runMarked()
	case "harness":
		runHarness()
	case "unprivileged":
		os.Exit(runUnprivileged())
	}
	goleak.VerifyTestMain(m)
}

var serial atomic.Int64

func testSpec(t testing.TB) vm.Spec {
	name := fmt.Sprintf("m%d", serial.Add(1))
	return vm.Spec{
		Name: name, Template: "plain", JobDisks: []int64{1 << 20, 4096}, Inputs: 2,
		Owner:      vm.Owner{Pool: "test", Run: "run", Incarnation: name + "-inc"},
		Properties: map[string]string{"COLOUR": "blue"},
	}
}

func testDriver(t testing.TB, c Config) *Driver {
	if c.Root == "" {
		c.Root = t.TempDir()
	}
	if testing.CoverMode() != "" { // else each process says on its console that it is missing
		c.Env = append(c.Env, "GOCOVERDIR="+t.TempDir())
	}
	d, err := Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 2*time.Minute)
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := timeout()
	t.Cleanup(cancel)
	return ctx
}

func TestAMachineStartsAndIsKilled(t *testing.T) {
	ctx := testContext(t)
	d := testDriver(t, Config{})
	m, err := d.Create(ctx, testSpec(t))
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, m.Start(ctx))
	t.Log("start", time.Since(begin))
	info, err := m.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.StateRunning, info.State)
	begin = time.Now()
	require.NoError(t, m.Kill(ctx))
	t.Log("kill", time.Since(begin))
	info, err = m.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.StateStopped, info.State)
	require.Equal(t, vm.EndKilled, info.End.Kind, info.End)
	require.NoError(t, m.Start(ctx))
	require.NoError(t, m.Stop(ctx))
	end, err := m.(vm.Waiter).Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndPoweredOff, end.Kind, end)
	require.NoError(t, m.Destroy(ctx))
	require.NoError(t, m.Destroy(ctx))
}
