package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/buildtest/spool"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program, and the spooler that it starts.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_BUILDTEST") == "1" || len(os.Args) > 1 && os.Args[1] == "spooler" {
		os.Exit(command(os.Args[1:]))
	}
	os.Exit(m.Run())
}

const patience = time.Minute

func eventually(t *testing.T, is func() bool, what string) {
	t.Helper()
	require.Eventually(t, is, patience, 10*time.Millisecond, what)
}

// parsed reads a configuration and a buildspec.
func parsed(t *testing.T, config, spec string) (*SiteConfiguration, []*Builder) {
	t.Helper()
	site, err := ParseConfiguration([]byte(config))
	require.NoError(t, err)
	builders, err := ParseBuilders([]byte(spec))
	require.NoError(t, err)
	return site, builders
}

// executors makes them, on local machines where nothing else is said.
func executors(t *testing.T, site *SiteConfiguration, o Options) *BuildExecutor {
	t.Helper()
	if o.Var == "" {
		o.Var = t.TempDir()
	}
	e, err := NewBuildExecutor(t.Context(), site, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, e.Close(ctx))
	})
	return e
}

// states gives the state, result and return code of each builder.
func states(builders []*Builder) map[string]string {
	all := map[string]string{}
	for _, b := range builders {
		all[b.Name] = strings.TrimSpace(fmt.Sprintf("%s %s %d", b.State, b.Result, b.ReturnCode))
	}
	return all
}

func of(builders []*Builder, name string) *Builder {
	return builders[slices.IndexFunc(builders, func(b *Builder) bool { return b.Name == name })]
}

func one(n int) *int { return &n }

const both = `
executors:
  defaults: {pollinterval: 1}
  machine:
    small:
      machines: 2
      before_script: |
        here() { echo "machine $BUILDTEST_NAME"; }
        export FROM=before
  batch:
    queue:
      slots: 2
      account: lab
      before_script: |
        here() { echo "batch $BUILDTEST_NAME $BUILDTEST_ACCOUNT"; }
        export FROM=before
`

func TestSetupWritesTheBeforeScriptsAndEachTestSourcesIts(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both+"    plain: {slots: 1}\n", `
buildspecs:
  a: {executor: machine.small, run: "here; echo $FROM"}
  b: {executor: machine.small, run: "here; echo $FROM >&2"}
  c: {executor: batch.queue, run: "here; echo $FROM"}
  d: {executor: batch.queue, run: "here; echo $FROM"}
  e: {executor: batch.plain, run: "here || echo no"}
`)
	dir := t.TempDir()
	stale := filepath.Join(dir, "executors", "batch.plain", beforeScript)
	require.NoError(t, os.MkdirAll(filepath.Dir(stale), 0o755))
	require.NoError(t, os.WriteFile(stale, []byte("here() { echo stale; }"), 0o600))
	e := executors(t, site, Options{Var: dir})
	for name, c := range site.Executors {
		path := filepath.Join(dir, "executors", name, beforeScript)
		if c.BeforeScript == "" {
			assert.DirExists(t, filepath.Dir(path))
			assert.NoFileExists(t, path)
			continue
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, c.BeforeScript, string(text))
	}
	// What is in the file when a test starts is what is sourced.
	for _, name := range []string{"machine.small", "batch.queue"} {
		f, err := os.OpenFile(filepath.Join(dir, "executors", name, beforeScript), os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteString("echo sourced\n")
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	_, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	for name, want := range map[string]string{
		"a": "sourced\nmachine a\nbefore\n", "b": "sourced\nmachine b\nbefore\n",
		"c": "sourced\nbatch c lab\nbefore\n", "d": "sourced\nbatch d lab\nbefore\n", "e": "no\n",
	} {
		b := of(builders, name)
		assert.Contains(t, b.Output, want, b.String())
		assert.Equal(t, "PASS", b.Result)
		out, err := os.ReadFile(filepath.Join(b.Stage, "out"))
		require.NoError(t, err)
		assert.Contains(t, want, string(out))
		assert.FileExists(t, filepath.Join(b.Stage, testScript))
	}
}

func TestExecutorsHaveNamesAndAreChosenByThem(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, `
buildspecs:
  good: {executor: batch.queue, wants: {kind: batch}, run: "touch $BUILDTEST_STAGE/ran"}
  missing: {executor: batch.queu, run: "true"}
  unfit: {executor: machine.small, wants: {kind: batch}, run: "true"}
`)
	e := executors(t, site, Options{})
	assert.Equal(t, []string{"batch.queue", "machine.small"}, e.Names())
	assert.Equal(t, "batch.queue: submits, polls every 1s, 0 jobs of any number, account lab\nmachine.small: runs on workers of its own, 0 jobs of 2\n", e.String())
	assert.Equal(t, `BuildExecutor(["batch.queue" "machine.small"])`, fmt.Sprintf("%#v", e))
	x, err := e.Get("batch.queue")
	require.NoError(t, err)
	assert.NotNil(t, x.Submitter)
	assert.Nil(t, x.Source)
	x, err = e.Choose(of(builders, "good"))
	require.NoError(t, err)
	assert.Equal(t, "batch.queue", x.Name)
	_, err = e.Get("batch.queu")
	assert.ErrorContains(t, err, `"batch.queu" is not registered, did you mean "batch.queue"?`)
	_, err = e.Run(t.Context(), builders)
	assert.ErrorContains(t, err, `builder missing: scheduler: executor: executor "batch.queu" is not registered`)
	assert.ErrorContains(t, err, `builder unfit: executor machine.small does not fit: wants kind to be batch, it is "machine"`)
	assert.Equal(t, StateWaiting, of(builders, "good").State, "nothing runs when one builder is wrong")
	assert.Empty(t, e.ValidBuilders())
	_, err = e.Run(t.Context(), []*Builder{{Name: "x", Executor: "batch.queue", Needs: []Need{{Builder: "y"}}}})
	assert.ErrorContains(t, err, `"y"`)
	_, err = e.Run(t.Context(), []*Builder{{Name: "x", Executor: "batch.queue", Script: "true"}, {Name: "x", Executor: "batch.queue"}})
	assert.ErrorContains(t, err, "builder x is there twice")
}

func TestBuildersRunAfterTheirNeedsByStateAndReturnCode(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, `
buildspecs:
  build: {executor: machine.small, run: "exit 0"}
  broken: {executor: batch.queue, run: "exit 3"}
  slow: {executor: batch.queue, timeout: 1, run: "sleep 1000"}
  after-pass: {executor: batch.queue, run: "true", needs: [{build: {state: PASS}}]}
  after-fail: {executor: machine.small, run: "true", needs: [{broken: {state: FAIL}}, {slow: {state: FAIL}}]}
  not-after-fail: {executor: machine.small, run: "true", needs: [{build: {state: FAIL}}]}
  code: {executor: machine.small, run: "true", needs: [{broken: {returncode: 3}}]}
  codes: {executor: machine.small, run: "true", needs: [{broken: {returncode: [0, 3], state: FAIL}}]}
  other-code: {executor: machine.small, run: "true", needs: [{broken: {returncode: 4}}]}
  any: {executor: machine.small, run: "true", needs: [broken, slow]}
  chain: {executor: machine.small, run: "true", needs: [{other-code: {state: PASS}}]}
  last: {executor: machine.small, run: "true", needs: [chain, other-code]}
`)
	var order []string
	e := executors(t, site, Options{Done: func(b *Builder) { order = append(order, b.Name) }})
	assert.Empty(t, e.SelectBuildersToRun())
	valid, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"build": "COMPLETE PASS 0", "broken": "COMPLETE FAIL 3", "slow": "TIMEOUT FAIL -1",
		"after-pass": "COMPLETE PASS 0", "after-fail": "COMPLETE PASS 0", "not-after-fail": "SKIPPED  -1",
		"code": "COMPLETE PASS 0", "codes": "COMPLETE PASS 0", "other-code": "SKIPPED  -1", "any": "COMPLETE PASS 0",
		"chain": "SKIPPED  -1", "last": "COMPLETE PASS 0",
	}, states(builders))
	assert.Equal(t, "needs broken to exit with 4, which failed (exit 3)", of(builders, "other-code").Cause)
	assert.Contains(t, of(builders, "chain").Cause, "first cause: broken failed (exit 3)")
	assert.Len(t, valid, 9)
	for _, b := range builders {
		for _, n := range b.Needs {
			assert.Less(t, slices.Index(order, n.Builder), slices.Index(order, b.Name), "%s is after %s", b.Name, n.Builder)
		}
	}
}

func TestTheBuildersThatCouldRunAreThoseWhoseNeedsHaveEnded(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, `
buildspecs:
  x: {executor: batch.queue, run: "while ! test -e ../go; do sleep 0.05; done"}
  y: {executor: machine.small, run: "true"}
  z: {executor: machine.small, run: "true", needs: [x]}
`)
	names := func(all []*Builder) (names []string) {
		for _, b := range all {
			names = append(names, b.Name)
		}
		return names
	}
	var e *BuildExecutor
	looked := false
	e = executors(t, site, Options{Limits: Limits{MaxJobs: one(1)}, Table: &watcher{look: func(_ int, table string) {
		if strings.Contains(table, " RUNNING ") && !looked {
			looked = true
			assert.Equal(t, []string{"y"}, names(e.SelectBuildersToRun()), table)
			assert.NoError(t, os.WriteFile(filepath.Join(of(builders, "x").Stage, "../go"), nil, 0o600))
		}
	}}})
	valid, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	assert.True(t, looked)
	assert.Equal(t, "x", valid[0].Name)
	assert.Len(t, valid, 3)
	assert.Empty(t, e.SelectBuildersToRun())
}

// Each of the tests ends only when all others have begun.
func TestBuildersRunAtTheSameTimeAndTheSameObjectsComeBack(t *testing.T) {
	t.Parallel()
	meet := t.TempDir()
	var spec strings.Builder
	spec.WriteString("buildspecs:\n")
	for i, x := range []string{"machine.small", "machine.small", "batch.queue", "batch.queue"} {
		fmt.Fprintf(&spec, "  t%d: {executor: %s, run: 'touch %s/%d; while [ $(ls %s | wc -l) -lt 4 ]; do sleep 0.05; done; exit %d'}\n", i, x, meet, i, meet, i)
	}
	site, builders := parsed(t, both, spec.String())
	var done []*Builder
	e := executors(t, site, Options{Done: func(b *Builder) { done = append(done, b) }})
	valid, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	assert.Len(t, valid, 4)
	for i, b := range builders {
		assert.Equal(t, i, b.ReturnCode)
		assert.True(t, slices.ContainsFunc(valid, func(v *Builder) bool { return v == b }), "the very same object")
	}
	assert.Equal(t, done, valid)
	assert.Equal(t, valid, e.ValidBuilders())
	assert.Equal(t, 4, e.Report().Len())
	// They can be run again.
	valid, err = e.Run(t.Context(), builders[:2])
	require.NoError(t, err)
	assert.Len(t, valid, 2)
	assert.Equal(t, 3, builders[3].ReturnCode)
}

func TestNoMoreJobsRunAtOnceThanMaxJobs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		limits Limits
		most   int
	}{
		"of an executor": {"executors: {defaults: {pollinterval: 1}, batch: {q: {slots: 9, max_jobs: 2}}}", Limits{}, 2},
		"by default":     {"executors: {defaults: {pollinterval: 1, max_jobs: 2}, batch: {q: {slots: 9}}}", Limits{}, 2},
		"in all":         {"executors: {defaults: {pollinterval: 1}, batch: {q: {slots: 9}}}", Limits{MaxJobs: one(1)}, 1},
		"of the queue":   {"executors: {defaults: {pollinterval: 1}, batch: {q: {slots: 3}}}", Limits{}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var spec strings.Builder
			spec.WriteString("buildspecs:\n")
			for i := range 4 {
				fmt.Fprintf(&spec, "  t%d: {executor: batch.q, run: 'touch in.$$; cd %s; mkdir %d; ls -d [0-9] | wc -l >> counts; sleep 0.1; rmdir %d'}\n", i, dir, i, i)
			}
			site, builders := parsed(t, c.config, spec.String())
			_, err := executors(t, site, Options{Limits: c.limits}).Run(t.Context(), builders)
			require.NoError(t, err)
			text, err := os.ReadFile(filepath.Join(dir, "counts"))
			require.NoError(t, err)
			counts := strings.Fields(string(text))
			assert.Len(t, counts, 4)
			for _, n := range counts {
				at, err := strconv.Atoi(n)
				require.NoError(t, err)
				assert.LessOrEqual(t, at, c.most)
			}
		})
	}
}

func TestAJobThatPendsForTooLongIsCancelled(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, `
executors:
  defaults: {pollinterval: 1, maxpendtime: 1000}
  batch: {q: {slots: 1}}
  machine: {m: {machines: 1}}
`, `
buildspecs:
  late: {executor: batch.q, run: "touch ../ran"}
  next: {executor: machine.m, run: "true", needs: [late]}
  not: {executor: machine.m, run: "true", needs: [{late: {state: PASS}}]}
`)
	e := executors(t, site, Options{Limits: Limits{MaxPendTime: one(2)}})
	c := e.queues[0].client
	_, err := c.Submit(t.Context(), spool.Request{Name: "somebody else's", Argv: []string{"sleep", "1000"}, Dir: t.TempDir()})
	require.NoError(t, err)
	valid, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"late": "CANCELLED  -1", "next": "COMPLETE PASS 0", "not": "SKIPPED  -1"}, states(builders))
	assert.Contains(t, of(builders, "late").Cause, "limit 2s")
	assert.Len(t, valid, 1)
	jobs, err := c.Jobs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{spool.Running, spool.Cancelled}, []string{jobs[0].State, jobs[1].State})
	assert.NoFileExists(t, filepath.Join(of(builders, "late").Stage, "../ran"))
}

func TestATestThatRunsForTooLongIsEnded(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, `
buildspecs:
  a: {executor: machine.small, run: "sleep 1000"}
  b: {executor: batch.queue, timeout: 900, run: "sleep 1000"}
`)
	_, err := executors(t, site, Options{Limits: Limits{Timeout: one(1)}}).Run(t.Context(), builders)
	require.NoError(t, err)
	for _, b := range builders {
		assert.Equal(t, StateTimeout, b.State, b.String())
		assert.Equal(t, "FAIL", b.Result)
	}
}

// watcher is what a person does who looks at the tables.
type watcher struct {
	mu     sync.Mutex
	tables []string
	look   func(n int, table string)
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables = append(w.tables, string(p))
	w.look(len(w.tables), string(p))
	return len(p), nil
}

func TestTheTableShowsTheStatesAtEachPoll(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, `
executors:
  defaults: {pollinterval: 1, account: physics}
  batch: {q: {slots: 2}}
`, `
buildspecs:
  a: {executor: batch.q, run: "while ! test -e ../go; do sleep 0.05; done; exit 4"}
  b: {executor: batch.q, run: "while ! test -e ../go; do sleep 0.05; done; exit 4"}
  c: {executor: batch.q, run: "while ! test -e ../go; do sleep 0.05; done; exit 4"}
  d: {executor: batch.q, run: "true", needs: [a, b, c]}
`)
	var e *BuildExecutor
	var stopped string // the job's id
	var steps []string
	step := func(name string, is bool) bool {
		if is = is && !slices.Contains(steps, name); is {
			steps = append(steps, name)
		}
		return is
	}
	w := &watcher{look: func(_ int, table string) {
		count := func(s State) int { return strings.Count(table, " "+string(s)+" ") }
		switch {
		case step("two of three run", count(StateRunning) == 2 && count(StatePending) == 1 && count(StateWaiting) == 1):
			assert.Contains(t, table, "4 pending, suspended, running or waiting after")
			assert.Regexp(t, `(?m)^d +batch\.q +- +- +WAITING +- +waits for \w to have ended`, table)
			assert.Len(t, e.SelectBuildersToRun(), 0, "the three are under way, the fourth waits")
			stopped = regexp.MustCompile(`(?m)^\w +batch\.q +physics +(\d+) +RUNNING `).FindStringSubmatch(table)[1]
			assert.NoError(t, e.queues[0].client.Do(t.Context(), "suspend", stopped))
		case step("one stands still", count(StateSuspended) == 1 && count(StateRunning) == 1 && count(StatePending) == 1):
			assert.Regexp(t, `(?m)^\w +batch\.q +physics +`+stopped+` +SUSPENDED `, table)
			assert.NoError(t, os.WriteFile(filepath.Join(of(builders, "a").Stage, "../go"), nil, 0o600))
		case step("it stands still and the others are complete", count(StateSuspended) == 1 && count(StateComplete) == 2):
			assert.Contains(t, table, "2 completed")
			assert.Regexp(t, `(?m)^\w +batch\.q +\d+ +COMPLETE +FAIL +4 +`, table)
			assert.NoError(t, e.queues[0].client.Do(t.Context(), "resume", stopped))
		}
	}}
	e = executors(t, site, Options{Table: w})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := e.Run(ctx, builders)
	require.NoError(t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.Equal(t, []string{"two of three run", "one stands still", "it stands still and the others are complete"}, steps)
	assert.Equal(t, map[string]string{"a": "COMPLETE FAIL 4", "b": "COMPLETE FAIL 4", "c": "COMPLETE FAIL 4", "d": "COMPLETE PASS 0"}, states(builders))
}

func TestJobsAreChargedToTheAccount(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]Options{"lab": {}, "mine": {Limits: Limits{Account: "mine"}}} {
		site, builders := parsed(t, both, `buildspecs: {a: {executor: batch.queue, run: "echo $BUILDTEST_ACCOUNT"}}`)
		e := executors(t, site, o)
		_, err := e.Run(t.Context(), builders)
		require.NoError(t, err)
		jobs, err := e.queues[0].client.Jobs(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, jobs[0].Account)
		assert.Equal(t, want+"\n", builders[0].Output)
	}
}

const running = `
buildspecs:
  done: {executor: batch.queue, run: "true"}
  m: {executor: machine.small, run: "sleep 1000", needs: [done]}
  q: {executor: batch.queue, run: "sleep 1000", needs: [done]}
  r: {executor: batch.queue, run: "sleep 1000", needs: [done]}
  s: {executor: batch.queue, run: "sleep 1000", needs: [done]}
  t: {executor: batch.queue, run: "sleep 1000", needs: [q]}
`

// cleaned asserts that nothing is left of a run that was broken off.
func cleaned(t *testing.T, e *BuildExecutor, builders []*Builder) {
	t.Helper()
	for _, b := range builders {
		if b.Name == "done" {
			assert.Equal(t, "PASS", b.Result)
			assert.DirExists(t, b.Stage)
			continue
		}
		assert.Equal(t, StateCancelled, b.State, b.String())
		assert.NotEmpty(t, b.Cause)
		assert.Empty(t, b.Stage)
	}
	jobs, err := e.queues[0].client.Jobs(context.Background())
	require.NoError(t, err)
	for _, j := range jobs {
		assert.Contains(t, []string{spool.Complete, spool.Cancelled}, j.State, j.Name)
	}
	for _, g := range e.pool.Guests() {
		assert.NotEqual(t, "held", g.State, "no machine is held: %v", g)
	}
	assert.Empty(t, e.executors.Jobs())
	left, err := filepath.Glob(filepath.Join(e.options.Var, "tests", "*", "*", "*"))
	require.NoError(t, err)
	assert.Len(t, left, 1, "the folders of builders that did not end are gone")
	assert.Len(t, e.ValidBuilders(), 1)
}

func TestAnInterruptCancelsAndCleansUp(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, running)
	ctx, cancel := context.WithCancel(t.Context())
	e := executors(t, site, Options{Table: &watcher{look: func(_ int, table string) {
		if strings.Count(table, "RUNNING") >= 3 && strings.Contains(table, "PENDING") {
			cancel()
		}
	}}})
	valid, err := e.Run(ctx, builders)
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, valid, 1)
	cleaned(t, e, builders)
}

func TestAPanicCancelsAndCleansUp(t *testing.T) {
	t.Parallel()
	site, builders := parsed(t, both, strings.Replace(running, "  t:", "  boom: {executor: machine.small, run: 'sleep 1', needs: [done]}\n  t:", 1))
	e := executors(t, site, Options{Done: func(b *Builder) {
		if b.Name == "boom" {
			panic("a reporter that is broken")
		}
	}})
	// The one that the panic is about was gathered before.
	assert.PanicsWithValue(t, "a reporter that is broken", func() { _, _ = e.Run(t.Context(), builders) })
	boom := of(builders, "boom")
	assert.Equal(t, "PASS", boom.Result)
	require.NoError(t, os.RemoveAll(boom.Stage))
	e.mu.Lock()
	e.run.valid = slices.DeleteFunc(e.run.valid, func(b *Builder) bool { return b == boom })
	e.mu.Unlock()
	cleaned(t, e, slices.DeleteFunc(builders, func(b *Builder) bool { return b == boom }))
	_, builders = parsed(t, both, `buildspecs: {a: {executor: batch.queue, run: "true"}}`)
	_, err := e.Run(t.Context(), builders)
	require.NoError(t, err, "it can be used again")
}

// program starts the test binary as the program.
func program(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "BULLPEN_TEST_BUILDTEST=1", "TMPDIR="+dir)
	out := new(bytes.Buffer)
	c.Stdout, c.Stderr = out, out
	require.NoError(t, c.Start())
	return c, out
}

func file(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func TestTheProgramTellsItsExitCodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file(t, dir, "buildtest.yml", both)
	file(t, dir, "good.yml", `buildspecs: {a: {executor: batch.queue, run: "echo hi"}}`)
	file(t, dir, "bad.yml", `buildspecs: {b: {executor: machine.small, run: "exit 7"}}`)
	file(t, dir, "odd.yml", `buildspecs: {c: {executor: machine.smal, run: "true"}}`)
	for _, c := range []struct {
		code int
		args string
		says []string
	}{
		{0, "-list", []string{"batch.queue: submits", "machine.small: runs"}},
		{0, "-log log -junit junit.xml good.yml", []string{"a on batch.queue: COMPLETE PASS (0)", "1 of 1 passed, 1 have a return code"}},
		{1, "good.yml bad.yml", []string{"b on machine.small: COMPLETE FAIL (7)", "1 of 2 passed, 2 have a return code"}},
		{2, "odd.yml", []string{`did you mean "machine.small"?`}},
		{2, "-max-jobs 0 good.yml", []string{"max_jobs is 0, want 1 or more"}},
		{2, "-config good.yml good.yml", []string{"good.yml: line 1: buildspecs is not a field that is known here"}},
		{2, "good.yml gone.yml", []string{"gone.yml: no such file"}},
		{2, "", []string{"buildtest [flags] buildspec.yml"}},
		{2, "queue -socket /no/such list", []string{"want nothing, or suspend, resume or cancel"}},
		{2, "spooler -socket here", []string{`-socket is "here", want an absolute path`}},
	} {
		cmd, out := program(t, dir, strings.Fields(c.args)...)
		_ = cmd.Wait()
		assert.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%s: %s", c.args, out)
		for _, want := range c.says {
			assert.Contains(t, out.String(), want, c.args)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `name="a"`)
	text, err = os.ReadFile(filepath.Join(dir, "log"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "msg=gathered module=executors builder=a executor=batch.queue state=COMPLETE result=PASS")
	left, err := filepath.Glob(filepath.Join(dir, "buildtest-*"))
	require.NoError(t, err)
	assert.Empty(t, left, "no spooler's folder is left")
}

func TestAQueueThatRunsAlreadyIsUsedAndLeftRunning(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "bt") // short, for a socket's path is
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	spooler, _ := program(t, dir, "spooler", "-socket", socket, "-slots", "1")
	c := spool.NewClient(socket)
	defer c.Close()
	eventually(t, func() bool { _, err := c.Jobs(t.Context()); return err == nil }, "it listens")
	file(t, dir, "buildtest.yml", "executors: {batch: {q: {socket: "+socket+", pollinterval: 1}}}")
	file(t, dir, "spec.yml", `buildspecs: {a: {executor: batch.q, run: "echo hi"}}`)
	cmd, out := program(t, dir, "-account", "lab", "spec.yml")
	require.NoError(t, cmd.Wait(), out.String())
	cmd, out = program(t, dir, "queue", "-socket", socket)
	require.NoError(t, cmd.Wait(), out.String())
	assert.Equal(t, []string{"1", "a", "lab", "complete", "0"}, strings.Fields(out.String()))
	require.NoError(t, spooler.Process.Kill()) // its socket stays
	_ = spooler.Wait()
	again, words := program(t, dir, "spooler", "-socket", socket)
	eventually(t, func() bool { _, err := c.Jobs(t.Context()); return err == nil }, "it takes the place of the dead one")
	second, out := program(t, dir, "spooler", "-socket", socket)
	_ = second.Wait()
	assert.Contains(t, out.String(), "address already in use", "but not of one that lives")
	require.NoError(t, again.Process.Signal(syscall.SIGTERM))
	require.NoError(t, again.Wait(), words.String())
}

// jobPID waits until a job has written its process id.
func jobPID(t *testing.T, dir string) (pid int) {
	t.Helper()
	eventually(t, func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "pid"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return strings.HasSuffix(string(text), "\n")
	}, "the job runs")
	return pid
}

// Who had started it is killed as it logs.
func TestAQueueWhoseReaderIsGoneGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder, err := os.MkdirTemp("", "spool") // short, for a socket's path is
	require.NoError(t, err)
	defer os.RemoveAll(folder)
	socket := filepath.Join(folder, "s")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "spooler", "-socket", socket, "-attached")
	c.Env = append(os.Environ(), "BULLPEN_TEST_BUILDTEST=1")
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	words, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, errors.Join(out.Close(), words.Close()))
	q := spool.NewClient(socket)
	defer q.Close()
	for range 3 {
		_, err = q.Submit(ctx, spool.Request{Argv: []string{"/bin/sh", "-c", "echo $$ > pid; exec sleep 1000"}, Dir: dir})
		require.NoError(t, err, "each is logged")
	}
	pid := jobPID(t, dir)
	require.NoError(t, stdin.Close())
	require.NoError(t, c.Wait())
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestAProgramThatIsKilledTakesItsJobsWithIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file(t, dir, "buildtest.yml", "executors: {batch: {q: {slots: 1}}}")
	file(t, dir, "spec.yml", "buildspecs: {a: {executor: batch.q, run: 'echo $$ > "+dir+"/pid; exec sleep 1000'}}")
	cmd, _ := program(t, dir, "spec.yml")
	pid := jobPID(t, dir)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, "the job is gone")
}
