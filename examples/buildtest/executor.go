package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm"
)

// Executor is an executor as the library knows it.
type Executor = scheduler.Executor[diskio.Job, runner.Result]

const (
	grace         = 30 * time.Second // for what runs, when the run is ended
	cancelTimeout = 20 * time.Second // for a batch job; less than grace
	jobDisk       = 64 << 20         // bytes; sparse
	pollEvery     = 30               // seconds, where nothing else is said
)

// Options of a BuildExecutor. Only Var is required.
type Options struct {
	Limits                    // over those of the configuration
	Var      string           // the folder for scripts and outputs
	Machines machines.Options // of machine executors
	Table    io.Writer        // is told at each poll how the jobs stand; nil: nobody is
	// Done is called as each builder is in, one at a time; nil: nobody is told.
	Done   func(b *Builder)
	Logger *slog.Logger // nil: discards
}

// BuildExecutor keeps the executors of a configuration, runs builders on them and
// polls those that are batch jobs. Close it.
type BuildExecutor struct {
	options Options
	site    *SiteConfiguration
	log     *slog.Logger

	executors scheduler.Registry[diskio.Job, runner.Result]
	driver    vm.Driver
	pool      *pool.Pool
	queues    []*queue

	mu      sync.Mutex // guards what is below, and the states of builders
	run     *run       // the one that is under way, or was last
	running bool
	report  *result.Report
}

// NewBuildExecutor makes the executors of a configuration: their folders and before
// scripts, a pool for all machines, a connection to each batch queue.
func NewBuildExecutor(ctx context.Context, site *SiteConfiguration, o Options) (_ *BuildExecutor, err error) {
	if err := errors.Join(o.validate("option ")...); err != nil {
		return nil, err
	}
	if o.Var == "" {
		return nil, errors.New("option var is empty, want a folder")
	}
	if o.Var, err = filepath.Abs(o.Var); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &BuildExecutor{options: o, site: site, log: o.Logger, report: new(result.Report)}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := e.Setup(); err != nil {
		return nil, err
	}
	if err := e.openMachines(ctx); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(site.Executors)) {
		if err := e.register(ctx, name, site.Executors[name]); err != nil {
			return nil, fmt.Errorf("executor %s: %w", name, err)
		}
	}
	e.log.Info("executors are ready", "executors", e.Names())
	return e, nil
}

// folder of an executor, in which its before script is.
func (e *BuildExecutor) folder(name string) string {
	return filepath.Join(e.options.Var, "executors", name)
}

// Setup makes the folder of each executor, var/executors/<name>, and writes its
// before_script.sh, where it has one. NewBuildExecutor calls it.
func (e *BuildExecutor) Setup() error {
	for name, c := range e.site.Executors {
		if err := os.MkdirAll(e.folder(name), 0o755); err != nil {
			return err
		}
		path := filepath.Join(e.folder(name), beforeScript)
		if c.BeforeScript == "" { // nor that of an earlier configuration
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(c.BeforeScript, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// openMachines makes the pool that all machine executors share, where there are any.
func (e *BuildExecutor) openMachines(ctx context.Context) error {
	var templates []pool.Template
	slots := 0
	for name, c := range e.site.Executors {
		if c.kind == kindMachine {
			templates = append(templates, pool.Template{Name: name, Most: c.Machines, Ready: c.Ready})
			slots += c.Machines
		}
	}
	if slots == 0 {
		return nil
	}
	var spec vm.Spec
	var err error
	if e.driver, spec, err = e.options.Machines.Open(ctx); err != nil {
		return err
	}
	for i := range templates {
		templates[i].Spec = spec
		templates[i].Spec.JobDisks = []int64{jobDisk}
		if e.options.Machines.Driver == "libvirt" {
			templates[i].Spec.Memory = int64(e.site.Executors[templates[i].Name].Memory) << 20
		}
	}
	e.pool, err = pool.New(pool.Config{Name: "buildtest", Templates: templates, Logger: e.log,
		Hosts: []pool.Host{{Name: "here", Driver: e.driver, Slots: slots}}})
	return err
}

// register makes one executor.
func (e *BuildExecutor) register(ctx context.Context, name string, c ExecutorConfig) error {
	l := e.options.over(c.Limits)
	labels := map[string]string{"kind": c.kind}
	maps.Copy(labels, c.Labels)
	x := Executor{Name: name, Labels: labels, MaxJobs: number(l.MaxJobs), Account: l.Account,
		MaxPendTime: seconds(l.MaxPendTime), CancelTimeout: cancelTimeout}
	switch c.kind {
	case kindMachine:
		if x.MaxJobs == 0 || x.MaxJobs > c.Machines {
			x.MaxJobs = c.Machines
		}
		x.Source = runner.Source(e.pool, runner.Options{Logger: e.log, Grace: grace / 2, Want: func(d runner.Demand) pool.Want {
			return pool.Want{Template: name, Priority: d.Priority, Job: d.Task, Avoid: d.Avoid}
		}})
	case kindBatch:
		every := pollEvery
		if l.PollInterval == nil {
			l.PollInterval = &every
		}
		q, err := openQueue(ctx, e, c)
		if err != nil {
			return err
		}
		e.queues = append(e.queues, q)
		x.Submitter, x.Polled = q, func(j scheduler.JobInfo) { e.polled(j) }
		x.PollInterval = seconds(l.PollInterval)
		x.MaxPollInterval = x.PollInterval
	}
	return e.executors.Register(x)
}

// String lists the executors, a line each.
func (e *BuildExecutor) String() string { return e.executors.String() }

// GoString is the form for programmers (%#v).
func (e *BuildExecutor) GoString() string { return fmt.Sprintf("BuildExecutor(%q)", e.Names()) }

// Names are the names of all executors, sorted.
func (e *BuildExecutor) Names() []string { return e.executors.Names() }

// Get gives the executor of a name.
func (e *BuildExecutor) Get(name string) (Executor, error) { return e.executors.Get(name) }

// Choose gives the executor that a builder names: there must be one of this name, and
// it must be all that the builder wants. Run does so for all builders before anything
// starts, and the library again as each is to start.
func (e *BuildExecutor) Choose(b *Builder) (Executor, error) {
	x, err := e.executors.Get(b.Executor)
	if err != nil {
		return Executor{}, fmt.Errorf("builder %s: %w", b.Name, err)
	}
	for _, key := range slices.Sorted(maps.Keys(b.Wants)) {
		if has, is := x.Labels[key]; !is || has != b.Wants[key] {
			return Executor{}, fmt.Errorf("builder %s: executor %s does not fit: wants %s to be %s, it is %q", b.Name, x.Name, key, b.Wants[key], has)
		}
	}
	return x, nil
}

// ValidBuilders are the builders of the last run that gave a return code of their own,
// in the order in which they were in.
func (e *BuildExecutor) ValidBuilders() []*Builder {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.run == nil {
		return nil
	}
	return slices.Clone(e.run.valid)
}

// Report has all builders of all runs, for JUnit.
func (e *BuildExecutor) Report() *result.Report { return e.report }

// Close gives everything back: machines are destroyed, queues of this run's own end
// with what is in them.
func (e *BuildExecutor) Close(ctx context.Context) error {
	var errs []error
	if e.pool != nil {
		errs = append(errs, e.pool.Close(ctx))
		e.pool = nil
	}
	if e.driver != nil {
		errs = append(errs, e.driver.Close())
		e.driver = nil
	}
	for _, q := range e.queues {
		errs = append(errs, q.close())
	}
	e.queues = nil
	return errors.Join(errs...)
}
