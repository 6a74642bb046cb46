package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// execute runs a job's steps as commands, for workers without disks: those that
// connect by themselves. Each builder has a folder there, which stays.
func execute(ctx context.Context, g *pool.Guest, builder string, job diskio.Job, attempt int) runner.Result {
	r := runner.Result{
		Status: result.Passed, Machine: g.Name(), Host: g.Host(), Template: g.Template(), Token: g.Token(),
		Properties: g.Properties(), Start: time.Now(),
	}
	defer func() {
		r.Duration = time.Since(r.Start)
		r.Phases.Run = r.Duration
	}()
	limited, cancel := ctx, context.CancelFunc(func() {})
	if job.Timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, job.Timeout)
	}
	defer cancel()
	for i, step := range job.Steps {
		var out, errs result.OutputWriter
		began := time.Now()
		exit, err := g.Exec(limited, vm.Command{
			Argv:   append([]string{"/bin/sh", "-c", `mkdir -p "$0" && cd "$0" && exec "$@"`, "builds/" + builder}, step.Argv...),
			Env:    environ(g, job, attempt),
			Stdout: &out, Stderr: &errs,
		})
		s := diskio.StepResult{Name: step.Argv[len(step.Argv)-1], Started: true, Ended: err == nil, Exit: exit.Code, Signal: exit.Signal, Start: began, Duration: time.Since(began)}
		s.Stdout, s.StdoutCut, s.StdoutHead = kept(&out)
		s.Stderr, s.StderrCut, s.StderrHead = kept(&errs)
		r.Exit = exit.Code
		switch {
		case err == nil && exit.OK():
		case err == nil:
			r.Status, r.Message = result.Failed, fmt.Sprintf("step %d (%s) %s", i, s.Name, fate(exit))
		case ctx.Err() != nil:
			r.Status, r.Message = result.Aborted, "the build was cancelled: "+context.Cause(ctx).Error()
		case limited.Err() != nil:
			s.TimedOut = true
			r.Status, r.Message = result.TimedOut, fmt.Sprintf("step %d (%s): the build's %v passed", i, s.Name, job.Timeout)
		case errors.Is(err, vm.ErrFault):
			r.Status, r.Message = result.Errored, err.Error()
		default: // its connection ended, or its lease was lost
			s.Error = err.Error()
			r.Status, r.Message, r.Infra = result.Errored, "the worker was lost: "+err.Error(), err
		}
		r.Steps = append(r.Steps, s)
		if r.Status != result.Passed {
			break
		}
	}
	return r
}

func fate(e vm.Exit) string {
	if e.Signal != "" {
		return "was ended by " + e.Signal
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}

// kept gives what an output writer kept, as a step has it.
func kept(w *result.OutputWriter) (text []byte, cut int64, head int) {
	o := w.Output()
	return slices.Concat(o.Head, o.Tail), o.Cut, len(o.Head)
}

// environ is what a job of a guest with disks would have.
func environ(g *pool.Guest, job diskio.Job, attempt int) []string {
	env := map[string]string{variable("attempt"): fmt.Sprint(attempt)}
	for k, v := range g.Properties() {
		env[variable(k)] = v
	}
	maps.Copy(env, job.Env)
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}
