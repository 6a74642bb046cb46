package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/junit"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// session is one run of the harness: its state, where it reports, and the handles of
// the client, the pool and its timer.
type session struct {
	options  options
	config   config
	term     *terminal
	log      *slog.Logger
	client   *client
	pool     *appliancePool
	single   bool
	runtime  runtimeConfig
	registry *registry
	source   *source
	tests    map[string]string // groups by test, in the order of the collection
	report   result.Report
	failures int
}

// run does all, and gives the exit code: 0 all passed, 1 tests failed, 2 the
// environment did.
func (s *session) run(ctx context.Context) (code int, err error) {
	logs := filepath.Join(s.options.Project, "log")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return 2, err
	}
	master, err := os.OpenFile(filepath.Join(logs, "master.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, master.Close()) }()
	s.runtime.Stamp = fmt.Sprintf("%.6f", float64(time.Now().UnixMicro())/1e6)
	s.log = slog.New(slog.NewTextHandler(master, nil)).With("worker", "master", "stamp", s.runtime.Stamp)
	if s.client, err = openClient(ctx, s.config); err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, s.client.Close(ctx)) }()
	code, err = s.withAppliances(ctx, logs)
	if err != nil {
		s.log.Error("the session ends", "error", err)
		code = max(code, 2)
	}
	return code, err
}

// withAppliances gets the appliances and gives them back, whatever happens between.
func (s *session) withAppliances(ctx context.Context, logs string) (code int, err error) {
	o := s.options
	r := request{
		static: o.Appliances, group: o.Group, count: o.Count, version: o.Version, date: o.Date,
		lease: o.Lease.duration(), provision: o.Provision.duration(),
	}
	if o.Desc != nil {
		r.description = *o.Desc
	}
	s.single = len(o.Appliances) == 1 || len(o.Appliances) == 0 && o.Count == 1
	p, appliances, err := provision(ctx, s.client, r, s.single, s.term)
	if err != nil {
		return 2, err
	}
	s.pool = p
	defer func() {
		if destroyed := p.Destroy(ctx); destroyed != nil {
			s.term.println("> The pool could not be destroyed whole: %v", destroyed)
			if err == nil {
				code, err = 2, destroyed
			}
		}
	}()
	if err := p.Prolong(ctx, r.lease); err != nil { // from now on, not from the request
		return 2, err
	}
	ctx, lost := context.WithCancelCause(ctx)
	timer := make(chan struct{})
	go func() {
		defer close(timer)
		p.runTimer(ctx, seconds(s.config.Poll), s.term, lost)
	}()
	defer func() {
		lost(nil)
		<-timer
	}()
	if err := s.setUp(ctx, appliances); err != nil {
		return 2, err
	}
	if err := s.prepare(ctx, appliances, logs); err != nil {
		return 2, err
	}
	defer s.registry.stopAll()
	return s.runTests(ctx)
}

// setUp tells of the appliances, to people and to what reads the lines and the file.
func (s *session) setUp(ctx context.Context, appliances []appliance) error {
	first := appliances[0]
	if s.single {
		s.term.println("Appliance requested at address %s ...", first.Address)
	} else {
		s.term.println("Appliances were provided:")
		for _, a := range appliances {
			s.term.println("- %s is %s", a.URL, a.Name)
		}
	}
	if s.pool.term != nil {
		s.term.println("Appliance lease timer is running ...")
	}
	s.runtime.BaseURL, s.runtime.Template, s.runtime.Provider = first.URL, first.Template, first.Provider
	s.term.println("appliance_template=\"%s\";", first.Template)
	err := atomicfile.Write(filepath.Join(s.options.Project, ".appliance_template"), 0o644, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "export appliance_template=\"%s\"", first.Template)
		return err
	})
	if err != nil {
		return err
	}
	if s.single {
		s.term.println("Single appliance Sprout setup finished.")
	} else {
		s.term.println("Parallelized Sprout setup finished.")
	}
	s.term.println("appliance_provider=\"%s\";", first.Provider)
	for _, a := range appliances {
		if err := s.layOut(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// layOut puts the suite into an appliance.
func (s *session) layOut(ctx context.Context, a appliance) error {
	if s.config.Suite.Folder == "" {
		return nil
	}
	if _, err := a.guest.CopyTo(ctx, suiteFolder, os.DirFS(s.config.Suite.Folder), nil); err != nil {
		return fmt.Errorf("lay out %s: %w", s.config.Suite.Folder, err)
	}
	return nil
}

// prepare makes a worker of each appliance.
func (s *session) prepare(ctx context.Context, appliances []appliance, logs string) error {
	s.registry = &registry{}
	for _, a := range appliances {
		s.registry.add(a)
	}
	s.source = newSource(s.registry)
	s.source.term, s.source.log, s.source.respawns = s.term, s.log, s.config.Respawns
	s.source.replace = func(ctx context.Context, id string, broken appliance, why error) (appliance, error) {
		a, err := s.pool.Replace(ctx, broken, why)
		if err == nil {
			err = s.layOut(ctx, a)
		}
		return a, err
	}
	if s.single {
		s.source.spawn = s.inProcess
		return nil
	}
	path := filepath.Join(s.options.Project, "conf", "slave_config.json")
	err := writeSlaveConfig(path, slaveConfig{
		Args: s.options.Args, Options: s.options, Endpoint: fmt.Sprintf("fd:%d", workerSocket), Sprout: s.pool.term != nil,
		ApplianceData: applianceData(appliances), Runtime: s.runtime, Suite: s.config.Suite,
	})
	if err != nil {
		return err
	}
	for _, id := range s.registry.ids() {
		a, _ := s.registry.appliance(id)
		s.term.message(id, green, "using appliance %s", a.URL)
	}
	workers := setup{config: path, logs: logs, stamp: s.runtime.Stamp}
	s.source.spawn = func(ctx context.Context, id string, a appliance) (executor, error) {
		return startSlave(ctx, id, a, workers, s.log.With("slave", id))
	}
	return nil
}

// inProcess is the executor of the single mode: tests run here, on the appliance that
// the context carries.
func (s *session) inProcess(_ context.Context, id string, a appliance) (executor, error) {
	return newTester(a.guest, s.config.Suite, s.runtime.environment(id, a), s.log), nil
}

// runTests has the tests listed and run.
func (s *session) runTests(ctx context.Context) (int, error) {
	listings := s.source.audit(ctx)
	if ctx.Err() != nil {
		return 2, context.Cause(ctx)
	}
	if v := listings.Verdict(); v.Infra != nil {
		s.term.println("Errors of the collection:\n%s", s.source.errorsOfCollection())
		s.report.Add(result.Case{Suite: "collection", Name: "collection", Status: result.Status(v.Status), Message: v.Infra.Error()})
		return s.finish(v.Infra)
	}
	collection := choose(listings.Tests, s.options.Args)
	s.term.println("%d tests are collected by %d of %d workers, %d chosen", len(listings.Tests), listings.By, listings.By+len(listings.Odd), len(collection))
	workers := len(s.registry.ids())
	grace := stopTimeout + endTimeout
	schedule, err := scheduler.New(s.source, scheduler.Config{
		Workers: workers, Order: scheduler.Given, Whole: true, MostFailures: s.options.MaxFail,
		Respawns: workers*(s.source.respawns+1) + 1, // the source gives workers up before that
		Backoff:  seconds(s.config.Backoff), Grace: grace,
		Idle: time.Hour, Logger: s.log,
	})
	if err != nil {
		return 2, err
	}
	s.tests = map[string]string{}
	for g := range groups(collection, s.config.Providers, s.log) {
		// Given order: a group whose worker was lost is older than all that were not
		// sent yet, and so is sent first.
		if err := schedule.Add(g.tasks(s.config.Suite)...); err != nil {
			return 2, err
		}
		for _, t := range g.tests {
			s.tests[t] = g.name
		}
	}
	for o := range schedule.Run(ctx) {
		s.ended(o)
	}
	s.registry.stopAll()
	return s.finish(schedule.Err())
}

// ended tells of a test that has ended.
func (s *session) ended(o scheduler.Outcome[event]) {
	c := result.Case{
		Suite: s.tests[o.Task], Name: o.Task, Status: result.Status(o.Verdict.Status), ExitCode: o.Verdict.Exit,
		Message: o.Cause, Duration: o.Duration,
	}
	var out result.OutputWriter
	_, _ = io.WriteString(&out, o.Result.Output) // never fails
	c.Output = out.Output()
	if o.Verdict.Status == scheduler.Failed && c.Message == "" {
		c.Message = fmt.Sprintf("exit %d", o.Verdict.Exit)
	}
	for i, a := range o.Attempts {
		text := ""
		if a.Verdict.Infra != nil {
			text = a.Verdict.Infra.Error()
		}
		c.Attempts = append(c.Attempts, result.Attempt{Number: i + 1, Status: result.Status(a.Verdict.Status), Message: text, Machine: a.Worker, Start: a.Start})
	}
	s.report.Add(c)
	color := green
	if c.Status.Bad() {
		color = purple
		s.failures++
	}
	s.log.Info("outcome", "test", o.Task, "status", c.Status, "cause", o.Cause, "countfailures", s.failures)
	who := o.Worker
	if who == "" {
		who = "master"
	}
	s.term.message(who, color, "%s %s %s", c.Status, o.Task, c.Message)
}

// finish sums up.
func (s *session) finish(err error) (int, error) {
	if errors.Is(err, scheduler.ErrMostFailures) {
		s.term.println("Stopping after %d failures", s.options.MaxFail)
		err = nil // the failures themselves say it
	}
	spawned, sent := s.registry.counts()
	for _, id := range s.registry.ids() {
		s.term.message(id, "", "was sent %d tests", sent[id])
	}
	s.log.Info("finished", "spawned", spawned)
	s.term.println("%s", &s.report)
	if s.options.JUnit != "" {
		err = errors.Join(err, junit.WriteFile(s.options.JUnit, &s.report, nil))
	}
	return s.report.ExitCode(), err
}
