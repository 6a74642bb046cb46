package pooltest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/pooltest"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestMain(m *testing.M) {
	local.Main()
	os.Exit(m.Run())
}

// recorded is a test that this package's functions are given: what they do to
// it is written down.
type recorded struct {
	name     string
	ctx      context.Context
	cancel   context.CancelFunc
	mu       sync.Mutex
	cleanups []func()
	failed   bool
	fatal    string
	log      strings.Builder
}

// do runs a test as package testing would: its context ends before its cleanups,
// which run in the reverse order, also after Fatalf.
func do(t *testing.T, test func(tb *recorded)) *recorded {
	t.Helper()
	tb := &recorded{name: "TestUpgrade"}
	tb.ctx, tb.cancel = context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(tb)
	}()
	<-done
	tb.cancel()
	for _, f := range slices.Backward(tb.cleanups) {
		f()
	}
	return tb
}

func (r *recorded) Helper()                  {}
func (r *recorded) Name() string             { return r.name }
func (r *recorded) Context() context.Context { return r.ctx }
func (r *recorded) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *recorded) Failed() bool             { return r.failed }
func (r *recorded) Logf(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.log, format+"\n", a...)
}
func (r *recorded) Errorf(format string, a ...any) { r.failed = true; r.Logf(format, a...) }
func (r *recorded) Fatalf(format string, a ...any) {
	r.failed, r.fatal = true, fmt.Sprintf(format, a...)
	runtime.Goexit()
}

func machines(t *testing.T, slots int) *pool.Pool {
	t.Helper()
	driver, err := local.Open(local.Config{Root: filepath.Join(t.TempDir(), "m")})
	require.NoError(t, err)
	p, err := pool.New(pool.Config{Hosts: []pool.Host{{Name: "here", Driver: driver, Slots: slots}}, Templates: []pool.Template{{Name: "base"}}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
		assert.NoError(t, driver.Close())
	})
	return p
}

func job(lines ...string) diskio.Job { return diskio.Job{Steps: diskio.Commands(lines...)} }

func TestAMachineIsGivenBackWhenTheTestEnds(t *testing.T) {
	t.Parallel()
	p := machines(t, 1)
	var first *pool.Guest
	tb := do(t, func(tb *recorded) {
		first = pooltest.Acquire(tb, p, pool.Want{})
		assert.Equal(t, "TestUpgrade", first.Job(), "others who wait are told who holds it")
		got := pooltest.Run(tb, first, job("echo hello"))
		assert.Equal(t, "hello\n", string(got.Step(0).Stdout))
	})
	assert.False(t, tb.failed, tb.fatal+tb.log.String())
	assert.Error(t, first.Context().Err(), "the guest is still held")
	tb = do(t, func(tb *recorded) { pooltest.Acquire(tb, p, pool.Want{}) })
	assert.False(t, tb.failed, "the only machine was not given back: %s", tb.fatal)
}

func TestAStepThatFailedIsTheTestsToJudge(t *testing.T) {
	t.Parallel()
	p := machines(t, 1)
	var got runner.Result
	tb := do(t, func(tb *recorded) {
		got = pooltest.Run(tb, pooltest.Acquire(tb, p, pool.Want{}), job("exit 3"))
	})
	assert.False(t, tb.failed, tb.fatal)
	assert.Equal(t, 3, got.Step(0).Exit)
}

func TestAMachineThatDiesEndsTheTestAndShowsItsConsole(t *testing.T) {
	t.Parallel()
	p := machines(t, 1)
	tb := do(t, func(tb *recorded) {
		g := pooltest.Acquire(tb, p, pool.Want{})
		pooltest.Run(tb, g, job(`eval "$BULLPEN_CRASH"`))
		t.Error("Run went on after the machine died")
	})
	assert.Contains(t, tb.fatal, "the environment failed, not the test")
	assert.Contains(t, tb.log.String(), "console of ")
	tb = do(t, func(tb *recorded) { pooltest.Run(tb, pooltest.Acquire(tb, p, pool.Want{}), job("true")) })
	assert.False(t, tb.failed, "the next test has a new machine: %s", tb.fatal)
}

func TestWhatCannotBeHadEndsTheTestWithTheReason(t *testing.T) {
	t.Parallel()
	p := machines(t, 1)
	tb := do(t, func(tb *recorded) { pooltest.Acquire(tb, p, pool.Want{Template: "plan9"}) })
	assert.Contains(t, tb.fatal, "plan9")
	tb = do(t, func(tb *recorded) { pooltest.AcquireAll(tb, p, 2, pool.Want{}) })
	assert.Contains(t, tb.fatal, "impossible")
	tb = do(t, func(tb *recorded) { pooltest.Run(tb, pooltest.Acquire(tb, p, pool.Want{}), diskio.Job{}) })
	assert.Contains(t, tb.fatal, "Steps")
}

func TestSeveralMachinesAreGivenBackTogether(t *testing.T) {
	t.Parallel()
	p := machines(t, 2)
	for range 2 {
		tb := do(t, func(tb *recorded) {
			guests := pooltest.AcquireAll(tb, p, 2, pool.Want{})
			assert.Len(t, guests, 2)
		})
		assert.False(t, tb.failed, tb.fatal)
	}
}

func TestTheMachineOfAFailedTestIsKeptWhenThatIsAskedFor(t *testing.T) {
	t.Setenv(pooltest.HoldVariable, "1")
	p := machines(t, 2)
	var name string
	tb := do(t, func(tb *recorded) {
		g := pooltest.Acquire(tb, p, pool.Want{})
		name = g.Name()
		tb.Errorf("broken")
	})
	assert.Contains(t, tb.log.String(), "kept "+name)
	tb = do(t, func(tb *recorded) { assert.NotEqual(t, name, pooltest.Acquire(tb, p, pool.Want{}).Name()) })
	assert.False(t, tb.failed, tb.fatal)
	require.NoError(t, p.EndHold(name))
}
