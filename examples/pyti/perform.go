package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// grace is what a recipe has to end when it is aborted before its machine is
// killed.
const grace = 10 * time.Second

// runFolder names the results of one run of vm-run.
func runFolder() string {
	return fmt.Sprintf("%s-%d", time.Now().UTC().Format("20060102T150405.000"), os.Getpid())
}

// perform does a request, in the eight steps of the original. It never fails: what
// went wrong is in the record. ticket names it, and the folder below results/.
func (b *bench) perform(ctx context.Context, req request, ticket string) record {
	begun := time.Now()
	r := record{
		Ticket: ticket, Project: req.Project, Version: req.Version, Recipe: req.Recipe, Platform: req.Platform, Started: begun.UTC(),
		Distributions: []distRecord{}, Runs: []runRecord{},
	}
	report, err := b.steps(ctx, req, &r)
	r.Status, r.ExitCode = report.Worst(), report.ExitCode()
	if err != nil {
		r.Status, r.ExitCode, r.Message = result.Errored, 2, err.Error()
		if ctx.Err() != nil {
			r.Status, r.Message = result.Aborted, "the slave was told to end: "+err.Error()
		}
	}
	r.Seconds = time.Since(begun).Seconds()
	return r
}

func (b *bench) steps(ctx context.Context, req request, r *record) (*result.Report, error) {
	report := new(result.Report)
	// 1. All connections are loaded and the states of the machines known since
	// openBench; the number that is free is stored at each change (state.go).
	platforms, err := b.platforms(req)
	if err != nil {
		return report, err
	}
	recipe, err := readRecipe(b.conf.Root, req.Recipe)
	if err != nil {
		return report, err
	}
	// 3. The distribution and its dependencies, saved on an IO disk for each
	// kind of Python. This comes before 2, a spare machine, which would only
	// stand about meanwhile.
	payloads, err := b.payloads(ctx, req, platforms, r)
	defer func() {
		for _, p := range payloads {
			p.close()
		}
	}()
	if err != nil {
		return report, err
	}
	// 2, 4, 5 and 7 are the library's: the scheduler asks the pool for a spare
	// machine of each variant, the runner writes the job, lets the machine go,
	// waits until all commands are run and reads the folder $BULLPEN_OUT of the IO
	// disk. A machine that breaks is replaced and the variant tried again; each is
	// released after its run, and the pool rolls it back.
	schedule, err := scheduler.New(
		runner.Source(b.pool, runner.Options{Artifacts: filepath.Join(b.conf.Root, "results", r.Ticket), Grace: grace, Logger: b.log}),
		scheduler.Config{Workers: min(b.conf.Total, len(platforms)), Grace: 2 * grace, Order: scheduler.Given, Logger: b.log})
	if err != nil {
		return report, err
	}
	variants := map[string]int{}
	for i, p := range platforms {
		id := taskID(p)
		variants[id] = i
		job := payloads[p.PythonVersion].job(p, recipe, b.python)
		job.Timeout = b.conf.Timeout
		if err := schedule.Add(runner.Task{ID: id, Labels: p.labels(), Payload: job}); err != nil {
			return report, err
		}
	}
	r.Runs = make([]runRecord, len(platforms))
	for outcome := range schedule.Run(ctx) {
		report.Add(runner.Cases(outcome)...)
		at := variants[outcome.Task]
		var variant *string
		if req.Variants != nil {
			variant = &req.Variants[at]
		}
		// 6. Into a dict.
		r.Runs[at] = newRun(variant, recipe, outcome)
	}
	// 8. Returned.
	return report, nil
}

func taskID(p platform) string {
	if p.Variant == "" {
		return p.Name
	}
	return p.Name + "/" + p.Variant
}

// platforms are those of the request's variants, or the one without.
func (b *bench) platforms(req request) (all []platform, err error) {
	variants := req.Variants
	if variants == nil {
		variants = []string{""}
	}
	for _, v := range variants {
		p, err := b.conf.find(req.Platform, v)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// payloads brings the distributions, once for each version of Python.
func (b *bench) payloads(ctx context.Context, req request, platforms []platform, r *record) (map[string]*payload, error) {
	all := map[string]*payload{}
	for _, p := range platforms {
		if all[p.PythonVersion] != nil {
			continue
		}
		made, err := b.prepare(ctx, req, p.PythonVersion)
		if err != nil {
			return all, err
		}
		all[p.PythonVersion] = made
	}
	versions := map[string]bool{}
	for _, python := range slices.Sorted(maps.Keys(all)) {
		versions[all[python].dists[0].Version.String()] = true
		for _, d := range distRecords(all[python].dists) {
			if !slices.ContainsFunc(r.Distributions, func(o distRecord) bool { return o.File == d.File }) {
				r.Distributions = append(r.Distributions, d)
			}
		}
		r.Version = all[python].dists[0].Version.String()
	}
	if len(versions) > 1 {
		return all, errors.New("the newest version differs between the variants' Pythons: name one in project_version")
	}
	return all, nil
}
