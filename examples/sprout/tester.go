package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// machine is an appliance as tests use it: a pool's guest, in this process or by its
// handle.
type machine interface {
	Exec(ctx context.Context, c vm.Command) (vm.Exit, error)
}

// event is news of one test.
type event struct {
	Test    string `json:"test"`
	Started bool   `json:"started,omitempty"` // else ended
	Status  string `json:"status,omitempty"`
	Exit    int    `json:"exit,omitempty"`
	Output  string `json:"output,omitempty"`
	// Broken says how the machine failed: then the test has no verdict.
	Broken string        `json:"broken,omitempty"`
	Took   time.Duration `json:"took,omitempty"`
}

// executor lists and runs tests on one appliance: in this process, or in a worker's.
type executor interface {
	// collect gives the ids of all tests.
	collect(ctx context.Context) ([]string, error)
	// runTests runs a group whole, one after the other, and tells of each. When the
	// context ends it ends the test that runs. An error says that the executor, or its
	// machine (errMachine), is of no use any more.
	runTests(ctx context.Context, group string, tests []string, tell func(event)) error
	stop()
}

// errMachine: the appliance failed, not the worker.
var errMachine = errors.New("the appliance failed")

// suiteFolder is where the tests are in an appliance.
const suiteFolder = "suite"

// outputKept bounds what is kept of a test's output, in bytes.
const outputKept = 64 << 10

// collectTimeout bounds the listing of the tests.
const collectTimeout = 10 * time.Minute

// tester runs the suite's commands on a machine.
type tester struct {
	machine machine
	suite   suite
	env     []string
	log     *slog.Logger
	// push makes the appliance the current one of what runs; nil: it is told by the
	// machine alone.
	push func(context.Context) context.Context
}

// newTester makes a guest the current appliance of all that it runs.
func newTester(g *pool.Guest, s suite, env []string, log *slog.Logger) *tester {
	return &tester{
		machine: current{}, suite: s, env: env, log: log,
		push: func(ctx context.Context) context.Context { return pool.NewContext(ctx, g) },
	}
}

// current is the appliance that a context carries: the one that was pushed.
type current struct{}

// Exec runs a command on it.
func (current) Exec(ctx context.Context, c vm.Command) (vm.Exit, error) {
	guest := pool.FromContext(ctx)
	if guest == nil {
		return vm.Exit{Code: -1}, errors.New("no appliance was pushed")
	}
	return guest.Exec(ctx, c)
}

func (t *tester) exec(ctx context.Context, c vm.Command) (vm.Exit, error) {
	if t.push != nil {
		ctx = t.push(ctx)
	}
	return t.machine.Exec(ctx, c)
}

// tail keeps the end of what is written.
type tail struct {
	buf  bytes.Buffer
	most int // 0: no bound
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - t.most; t.most > 0 && over > t.most {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	b := t.buf.Bytes()
	if t.most > 0 && len(b) > t.most {
		b = b[len(b)-t.most:]
	}
	return string(b)
}

func (t *tester) collect(ctx context.Context) ([]string, error) {
	var out, errs tail
	out.most, errs.most = 16<<20, outputKept
	ctx, cancel := context.WithTimeoutCause(ctx, collectTimeout, fmt.Errorf("the collection took longer than %v", collectTimeout))
	defer cancel()
	exit, err := t.exec(ctx, vm.Command{Argv: t.suite.Collect, Env: t.env, Dir: suiteFolder, Stdout: &out, Stderr: &errs})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMachine, err)
	}
	if !exit.OK() {
		return nil, fmt.Errorf("%s: %v: %s", strings.Join(t.suite.Collect, " "), exit, strings.TrimSpace(errs.String()))
	}
	var tests []string
	for line := range strings.Lines(out.String()) {
		if id := strings.TrimSpace(line); id != "" {
			tests = append(tests, id)
		}
	}
	t.log.Info("collected", "tests", len(tests))
	return tests, nil
}

func (t *tester) runTests(ctx context.Context, group string, tests []string, tell func(event)) error {
	t.log.Info("group", "name", group, "tests", len(tests))
	for _, test := range tests {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tell(event{Test: test, Started: true})
		e := t.run(ctx, test)
		t.log.Info("test", "id", test, "status", e.Status, "exit", e.Exit, "broken", e.Broken, "took", e.Took)
		tell(e)
		if e.Broken != "" {
			return fmt.Errorf("%w: %s", errMachine, e.Broken)
		}
	}
	return nil
}

func (t *tester) run(ctx context.Context, test string) event {
	out := tail{most: outputKept}
	argv := append(append([]string{}, t.suite.Run...), test)
	late := errors.New("timed out")
	bounded, cancel := context.WithTimeoutCause(ctx, t.suite.timeout(), late)
	defer cancel()
	begun := time.Now()
	exit, err := t.exec(bounded, vm.Command{Argv: argv, Env: t.env, Dir: suiteFolder, Stdout: &out, Stderr: &out})
	e := event{Test: test, Exit: exit.Code, Output: out.String(), Took: time.Since(begun)}
	switch {
	case err == nil && exit.OK():
		e.Status = string(result.Passed)
	case err == nil:
		e.Status = string(result.Failed)
	case ctx.Err() != nil:
		e.Status = string(result.Aborted)
	case errors.Is(context.Cause(bounded), late):
		e.Status = string(result.TimedOut)
	default:
		e.Status, e.Broken = string(result.Errored), err.Error()
	}
	return e
}

func (t *tester) stop() {}
