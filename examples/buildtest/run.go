package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/scheduler"
)

const (
	beforeScript = "before_script.sh"
	testScript   = "test.sh"
)

// run is one call of BuildExecutor.Run.
type run struct {
	builders []*Builder
	by       map[string]*Builder
	schedule *scheduler.Scheduler[diskio.Job, runner.Result]
	begun    time.Time
	ended    map[string]bool
	valid    []*Builder
	fresh    map[string]bool // batch jobs that were polled since the last table
	tables   chan struct{}   // wants a table
}

// Run runs all builders, each on its executor and after those it needs, and gathers
// them until all are in. It returns the valid ones: the same objects, with a return code.
// The error says what kept others from running; what is wrong with a builder is an
// error before any is run. When the context ends, or when something panics, what runs
// is cancelled and cleaned up first.
func (e *BuildExecutor) Run(ctx context.Context, builders []*Builder) ([]*Builder, error) {
	r := &run{builders: builders, by: map[string]*Builder{}, begun: time.Now(), ended: map[string]bool{}, fresh: map[string]bool{}, tables: make(chan struct{}, 1)}
	tasks, err := e.tasks(r)
	if err != nil {
		return nil, err
	}
	most := number(e.options.MaxJobs)
	if most == 0 {
		most = max(1, len(builders))
	}
	r.schedule, err = scheduler.New(&e.executors, scheduler.Config{Workers: most, Executors: e.executors.Limits(), Grace: grace, Logger: e.log})
	if err != nil {
		return nil, err
	}
	if err := r.schedule.Add(tasks...); err != nil {
		return nil, err
	}
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return nil, errors.New("a run is under way, want one at a time")
	}
	e.run, e.running = r, true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.running = false
	}()
	if err := e.stage(r); err != nil {
		return nil, err
	}
	stop := e.printTables(r)
	defer stop()
	whole := false
	defer func() {
		if !whole {
			e.cleanupWhenException(r)
		}
	}()
	for o := range r.schedule.Run(ctx) {
		e.gather(r, o)
	}
	if err := r.schedule.Err(); err != nil {
		return e.ValidBuilders(), err
	}
	whole = true
	return e.ValidBuilders(), nil
}

// tasks makes the scheduler's tasks of all builders, their executors chosen.
func (e *BuildExecutor) tasks(r *run) (tasks []runner.Task, err error) {
	var errs []error
	for _, b := range r.builders {
		if r.by[b.Name] != nil {
			errs = append(errs, fmt.Errorf("builder %s is there twice", b.Name))
			continue
		}
		r.by[b.Name] = b
		x, err := e.Choose(b)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t := runner.Task{ID: b.Name, Group: b.Executor + "/" + b.Name, Account: e.options.Account, Labels: map[string]string{scheduler.ExecutorLabel: x.Name}}
		maps.Copy(t.Labels, b.Wants)
		t.Timeout = e.timeout(b)
		for _, n := range b.Needs {
			d, err := n.dependency()
			if err != nil {
				errs = append(errs, fmt.Errorf("builder %s: needs %s: %w", b.Name, n.Builder, err))
				continue
			}
			t.After = append(t.After, d)
		}
		c := e.site.Executors[x.Name]
		t.Payload = diskio.Job{Timeout: t.Timeout, Env: e.environment(b, x),
			Steps: []diskio.Step{{Name: b.Name, Argv: []string{c.Shell, "./" + testScript}}},
			Files: []diskio.File{{Path: testScript, Data: []byte(e.script(b, "./"+beforeScript))}}}
		if c.BeforeScript != "" {
			t.Payload.Files = append(t.Payload.Files, diskio.File{Path: beforeScript, Source: filepath.Join(e.folder(x.Name), beforeScript)})
		}
		tasks = append(tasks, t)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return tasks, e.executors.Assign(tasks)
}

// timeout is the command line's, the builder's or the executor's.
func (e *BuildExecutor) timeout(b *Builder) time.Duration {
	c := e.site.Executors[b.Executor]
	for _, d := range []time.Duration{seconds(e.options.Timeout), b.Timeout, seconds(c.Timeout)} {
		if d > 0 {
			return d
		}
	}
	return 0
}

// environment is what a test is told beside its script.
func (e *BuildExecutor) environment(b *Builder, x Executor) map[string]string {
	env := map[string]string{"BUILDTEST_NAME": b.Name, "BUILDTEST_EXECUTOR": x.Name}
	if account := e.options.over(e.site.Executors[x.Name].Limits).Account; account != "" {
		env["BUILDTEST_ACCOUNT"] = account
	}
	return env
}

// script is the test: the executor's before script, sourced, and then the builder's.
func (e *BuildExecutor) script(b *Builder, before string) string {
	text := "# " + b.Name + " on " + b.Executor + "\n"
	if e.site.Executors[b.Executor].BeforeScript != "" {
		text += ". " + quoted(before) + "\n"
	}
	return text + strings.TrimSuffix(b.Script, "\n") + "\n"
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// stage makes the folder of each builder.
func (e *BuildExecutor) stage(r *run) error {
	tests := filepath.Join(e.options.Var, "tests")
	if err := os.MkdirAll(tests, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(tests, r.begun.Format("20060102-150405-"))
	if err != nil {
		return err
	}
	for _, b := range r.builders {
		b.Stage = filepath.Join(dir, b.Executor, b.Name)
		b.State, b.Result, b.ReturnCode, b.Cause, b.Where, b.Output, b.Attempts = StateWaiting, "", -1, "", "", "", 0
		if err := os.MkdirAll(b.Stage, 0o755); err != nil {
			return err
		}
		script := e.script(b, filepath.Join(e.folder(b.Executor), beforeScript))
		if err := os.WriteFile(filepath.Join(b.Stage, testScript), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// gather writes down how a builder went, in the builder.
func (e *BuildExecutor) gather(r *run, o runner.Outcome) {
	b := r.by[o.Task]
	e.mu.Lock()
	b.Attempts, b.Duration, b.Cause, b.Where = len(o.Attempts), o.Duration, o.Cause, o.Result.Machine
	if b.Cause == "" {
		b.Cause = o.Result.Message
	}
	valid := false
	switch o.Verdict.Status {
	case scheduler.Passed:
		b.State, b.Result, b.ReturnCode, b.Cause, valid = StateComplete, "PASS", 0, "", true
	case scheduler.Failed:
		b.State, b.Result, b.ReturnCode, valid = StateComplete, "FAIL", o.Verdict.Exit, true
	case scheduler.TimedOut:
		b.State, b.Result, valid = StateTimeout, "FAIL", true
	case scheduler.Blocked:
		b.State = StateSkipped
	case scheduler.Aborted:
		b.State = StateCancelled
	default:
		b.State = StateFailed
		if errors.Is(o.Verdict.Infra, scheduler.ErrPending) {
			b.State = StateCancelled
		}
	}
	if o.Verdict.Infra != nil && (b.Cause == "" || b.State == StateCancelled) {
		b.Cause = o.Verdict.Infra.Error()
	}
	if o.Result.Duration > 0 { // the job's own clock, where there is one
		b.Duration = o.Result.Duration
	}
	step := o.Result.Step(0)
	b.Output = string(step.Stdout) + string(step.Stderr)
	if valid {
		r.valid = append(r.valid, b)
	}
	r.ended[b.Name] = true
	e.mu.Unlock()
	e.report.Add(runner.Cases(o)...)
	e.log.Info("gathered", "builder", b.Name, "executor", b.Executor, "state", b.State, "result", b.Result, "returncode", b.ReturnCode, "cause", b.Cause)
	if e.site.Executors[b.Executor].kind == kindMachine {
		for name, text := range map[string][]byte{"out": step.Stdout, "err": step.Stderr} {
			if err := os.WriteFile(filepath.Join(b.Stage, name), text, 0o644); err != nil {
				e.log.Warn("output is not kept", "builder", b.Name, "error", err)
			}
		}
	}
	if e.options.Done != nil {
		e.options.Done(b)
	}
}

// cleanupWhenException is for a run that something broke off: by now the scheduler
// has cancelled the jobs and given the machines back. Builders that were not gathered
// are cancelled, and the folders go of those that have no return code.
func (e *BuildExecutor) cleanupWhenException(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range r.builders {
		if !r.ended[b.Name] {
			b.State, b.Cause = StateCancelled, "the run was broken off"
			r.ended[b.Name] = true
		}
		if !slices.Contains(r.valid, b) {
			if err := os.RemoveAll(b.Stage); err != nil {
				e.log.Warn("folder is not removed", "builder", b.Name, "error", err)
			}
			b.Stage = ""
		}
	}
	e.log.Warn("the run was broken off", "builders", len(r.builders), "valid", len(r.valid))
}

// SelectBuildersToRun gives those builders whose needs have ended, and that have not
// begun: what could run now, as far as there is room. It is a view; the scheduler
// decides.
func (e *BuildExecutor) SelectBuildersToRun() (ready []*Builder) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.run == nil {
		return nil
	}
	under := map[string]bool{}
	for _, j := range e.executors.Jobs() {
		under[j.Task] = true
	}
	for _, b := range e.run.builders {
		waits := slices.ContainsFunc(b.Needs, func(n Need) bool { return !e.run.ended[n.Builder] })
		if !e.run.ended[b.Name] && !under[b.Name] && !waits {
			ready = append(ready, b)
		}
	}
	return ready
}
