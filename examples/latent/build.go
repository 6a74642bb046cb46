package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm"
)

// mostAttempts is how often a build is tried when not it, but its worker failed.
const mostAttempts = 3

// build is one build, ended.
type build struct {
	Builder string        `json:"builder"`
	Number  int           `json:"number"`
	Status  result.Status `json:"status"`
	Message string        `json:"message,omitempty"`
	Output  string        `json:"output,omitempty"`
	// Starts tell of each attempt how its worker was started.
	Starts []start `json:"starts,omitempty"`

	Case result.Case `json:"-"`
}

// start is what is attached to a build about the start of its worker.
type start struct {
	Worker  string            `json:"worker"`
	Host    string            `json:"host"`
	Machine string            `json:"machine"`
	Token   uint64            `json:"token"`
	Queued  time.Duration     `json:"queued"` // until it had its place
	Boot    time.Duration     `json:"boot"`   // of the machine
	Shared  bool              `json:"shared,omitempty"`
	Details map[string]string `json:"details,omitempty"` // what the driver says of the machine
	// News are what happened while the build waited: refusals, failures, boots.
	News []string `json:"news,omitempty"`
}

// String is one line.
func (b build) String() string {
	s := fmt.Sprintf("%-9s %s #%d", b.Status, b.Builder, b.Number)
	for _, a := range b.Starts {
		s += fmt.Sprintf(" on %s (%s)", a.Worker, a.Machine)
	}
	if b.Message != "" {
		s += ": " + b.Message
	}
	return s
}

// build runs a build of the builder and waits for its end. properties go over
// those of worker and builder.
func (m *master) build(ctx context.Context, builder string, properties map[string]string) (build, error) {
	var b *builderConfig
	for i := range m.config.Builds {
		if m.config.Builds[i].Name == builder {
			b = &m.config.Builds[i]
		}
	}
	if b == nil {
		return build{}, bad("builder", builder, "the name of a builder")
	}
	for k := range properties {
		if !goodProperty.MatchString(k) {
			return build{}, bad("property", k, "names of [A-Za-z0-9_], not starting with a digit")
		}
	}
	m.mu.Lock()
	m.numbers[builder]++
	n := m.numbers[builder]
	m.mu.Unlock()
	out := scheduler.Outcome[runner.Result]{Task: fmt.Sprintf("%s#%d", builder, n), Group: builder}
	done := build{Builder: builder, Number: n}
	want := pool.Want{Labels: map[string]string{serves(builder): "yes"}, Job: out.Task}
	for attempt := 1; attempt <= mostAttempts; attempt++ {
		began := time.Now()
		r, s, err := m.attempt(ctx, b, want, attempt, properties)
		if s.Worker != "" {
			done.Starts = append(done.Starts, s)
		}
		if err != nil { // no worker, and no more of them
			r = runner.Result{Status: result.Errored, Message: err.Error(), Exit: -1}
			if ctx.Err() != nil {
				r.Status = result.Aborted
			}
		}
		out.Result, out.Worker, out.Duration = r, s.Worker, time.Since(began)
		out.Verdict = scheduler.Verdict{Status: string(r.Status), Exit: r.Exit, Infra: r.Infra}
		out.Attempts = append(out.Attempts, scheduler.Attempt[runner.Result]{
			Worker: s.Machine, Verdict: out.Verdict, Result: r, Start: began, Duration: out.Duration,
		})
		if err != nil || r.Infra == nil || ctx.Err() != nil {
			break
		}
		want.Avoid = append(want.Avoid, s.Machine, s.Host)
		m.parts.log.Warn("a worker failed", "build", out.Task, "worker", s.Worker, "attempt", attempt, "error", r.Infra)
	}
	done.Case = runner.Cases(out)[0]
	done.Status, done.Message, done.Output = done.Case.Status, done.Case.Message, done.Case.Output.String()
	if k := len(done.Starts); k > 0 {
		if done.Case.Properties == nil {
			done.Case.Properties = map[string]string{}
		}
		maps.Copy(done.Case.Properties, done.Starts[k-1].properties())
	}
	m.mail.built(done)
	m.parts.log.Info("built", "build", out.Task, "status", done.Status, "message", done.Message)
	return done, nil
}

// properties are the start's, as a case has them.
func (s start) properties() map[string]string {
	p := map[string]string{"worker": s.Worker, "start.queued": s.Queued.String(), "start.boot": s.Boot.String()}
	for k, v := range s.Details {
		p["start."+k] = v
	}
	if len(s.News) > 0 {
		p["start.news"] = strings.Join(s.News, "\n")
	}
	return p
}

// attempt runs the build once on some worker.
func (m *master) attempt(ctx context.Context, b *builderConfig, want pool.Want, attempt int, properties map[string]string) (r runner.Result, s start, err error) {
	asked := time.Now()
	p, news, err := m.desk.take(ctx, m.pool, b.Name, want)
	if err != nil {
		return r, s, err
	}
	g := p.session.guest
	defer func() {
		if left := p.leave(ctx, r.Release); left != nil && err == nil {
			r.Infra = errors.Join(r.Infra, left)
		}
	}()
	s = start{Worker: g.Template(), Host: g.Host(), Machine: g.Name(), Token: g.Token(), Queued: time.Since(asked), Boot: g.BootTime(), Shared: p.shared, News: news}
	info, err := g.Machine().Info(ctx)
	if err == nil {
		s.Details = info.Details
	} else { // the build shows whether it is there
		s.Details = map[string]string{"unknown": err.Error()}
	}
	timeout := b.Timeout.or(defaultTimeout)
	job := diskio.Job{Steps: diskio.Commands(b.Steps...), Env: m.environment(b, s.Worker, properties), Timeout: timeout}
	if _, ok := vm.As[vm.Attacher](g.Machine()); ok {
		o := runner.Options{Disk: p.number, Attempt: attempt, Logger: m.parts.log}
		if m.parts.dir != "" {
			o.Artifacts = filepath.Join(m.parts.dir, "artifacts", want.Job)
		}
		r, err = runner.Run(ctx, g, job, o)
		return r, s, err
	}
	return execute(ctx, g, b.Name, job, attempt), s, nil
}

// environment is what the builder and who asked for the build say, as BULLPEN_*. What
// the worker says is told by its agent, and goes over the builder's.
func (m *master) environment(b *builderConfig, worker string, properties map[string]string) map[string]string {
	env := map[string]string{}
	for k, v := range b.Properties {
		if _, ok := m.desk.workers[worker].Properties[k]; !ok {
			env[variable(k)] = v
		}
	}
	for k, v := range properties {
		env[variable(k)] = v
	}
	env[variable("builder")] = b.Name
	return env
}

// variable is the name under which a guest sees a property.
func variable(property string) string { return "BULLPEN_" + strings.ToUpper(property) }
