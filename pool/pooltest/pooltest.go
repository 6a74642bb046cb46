package pooltest

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/vm"
)

// TB is what this package needs of a test.
type TB interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

const (
	// releaseTimeout bounds giving a machine back. The test's own context has
	// ended by then, so it is not used.
	releaseTimeout = time.Minute
	// reserve is how long before the test's own deadline a wait gives up, so
	// that there is time left to say why.
	reserve = 5 * time.Second
	// consoleTail is how much of a console a failed test shows, in bytes.
	consoleTail = 4 << 10
)

// HoldVariable is the environment variable that, when it is 1, keeps the
// machines of tests that failed.
const HoldVariable = "BULLPEN_HOLD"

// Acquire gets a machine for the test, and gives it back when the test and its
// subtests have ended. It waits as long as the test may run, and fails the test
// with the pool's reason otherwise. Want.Job defaults to the test's name.
func Acquire(t TB, p *pool.Pool, w pool.Want) *pool.Guest {
	t.Helper()
	if w.Job == "" {
		w.Job = t.Name()
	}
	ctx, cancel := bounded(t)
	defer cancel()
	g, err := p.Acquire(ctx, w)
	if err != nil {
		t.Fatalf("pooltest: %v", err)
		return nil // only a TB whose Fatalf returns comes here
	}
	t.Cleanup(func() { giveBack(t, g, nil) })
	return g
}

// AcquireAll gets n machines, all or none, on the same terms as Acquire.
func AcquireAll(t TB, p *pool.Pool, n int, w pool.Want) []*pool.Guest {
	t.Helper()
	if w.Job == "" {
		w.Job = t.Name()
	}
	ctx, cancel := bounded(t)
	defer cancel()
	guests, err := p.AcquireAll(ctx, n, w)
	if err != nil {
		t.Fatalf("pooltest: %v", err)
		return nil
	}
	t.Cleanup(func() {
		for _, g := range guests {
			giveBack(t, g, nil)
		}
	})
	return guests
}

// Run runs a job on a guest and fails the test only for what is not the job's
// own doing: a job that is not valid, or a machine that failed. A step that
// failed is the test's to judge.
func Run(t TB, g *pool.Guest, j diskio.Job) runner.Result {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	r, err := runner.Run(ctx, g, j, runner.Options{})
	if r.Release != nil {
		// Before Acquire's own cleanup, which knows no reason.
		t.Cleanup(func() { giveBack(t, g, r.Release) })
	}
	switch {
	case err != nil:
		t.Fatalf("pooltest: %v", err)
	case r.Infra != nil:
		t.Fatalf("pooltest: the environment failed, not the test: %v", r.Infra)
	case len(r.Steps) == 0:
		t.Fatalf("pooltest: %s: %s", r.Status, r.Message)
	}
	return r
}

// bounded is the test's context, ended early enough before the test's own
// deadline to say what was waited for.
func bounded(t TB) (context.Context, context.CancelFunc) {
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if at, ok := d.Deadline(); ok {
			return context.WithDeadlineCause(t.Context(), at.Add(-reserve), errors.New("the test's deadline is near"))
		}
	}
	return context.WithCancel(t.Context())
}

// giveBack releases a guest; of a failed test it shows the console first, and
// keeps the machine where that is asked for. It does nothing for a guest that
// was given back already.
func giveBack(t TB, g *pool.Guest, reason error) {
	t.Helper()
	if g.Context().Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), releaseTimeout)
	defer cancel()
	if t.Failed() {
		showConsole(ctx, t, g)
		if os.Getenv(HoldVariable) == "1" {
			how, err := g.Hold(ctx, pool.HoldOptions{Owner: t.Name()})
			if err == nil {
				t.Logf("pooltest: kept %s after failure: %s", g.Name(), how)
				return
			}
			t.Logf("pooltest: %s could not be kept: %v", g.Name(), err)
		}
	}
	if err := g.Release(ctx, reason); err != nil {
		t.Errorf("pooltest: giving back %s: %v", g.Name(), err)
	}
}

// showConsole writes the console's tail to the test's output.
func showConsole(ctx context.Context, t TB, g *pool.Guest) {
	t.Helper()
	c, ok := vm.As[vm.Consoler](g.Machine())
	if !ok {
		return
	}
	tail, err := c.Console(ctx, consoleTail)
	switch {
	case err != nil:
		t.Logf("pooltest: console of %s: %v", g.Name(), err)
	case len(tail) == 0:
		t.Logf("pooltest: console of %s is empty", g.Name())
	default:
		t.Logf("pooltest: last lines of the console of %s:\n%s", g.Name(), strings.ToValidUTF8(string(tail), "?"))
	}
}
