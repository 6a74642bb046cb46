package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// Task is a task of the scheduler whose payload is a job.
type Task = scheduler.Task[diskio.Job]

// Demand is what the scheduler wants a worker for.
type Demand = scheduler.Demand

// Outcome is how a task ended, with all its attempts.
type Outcome = scheduler.Outcome[Result]

// Source makes the pool a source of workers: each is a guest, held for a batch
// and rolled back after it. The pool stays the caller's to close, after the
// scheduler's run. At most one Options is looked at.
func Source(p *pool.Pool, o ...Options) scheduler.Source[diskio.Job, Result] {
	s := &source{pool: p}
	if len(o) > 0 {
		s.options = o[0]
	}
	if s.options.Want == nil {
		s.options.Want = DefaultWant
	}
	return s
}

// DefaultWant asks for the template that the demand's label "template" names,
// and for the other labels as they are.
func DefaultWant(d Demand) pool.Want {
	w := pool.Want{Priority: d.Priority, Job: d.Task, Avoid: d.Avoid}
	for k, v := range d.Labels {
		if k == "template" {
			w.Template = v
			continue
		}
		if w.Labels == nil {
			w.Labels = map[string]string{}
		}
		w.Labels[k] = v
	}
	return w
}

// Inputs gives the digests of the jobs' inputs, each once and sorted, for
// pool.Want.Inputs.
func Inputs(jobs ...diskio.Job) []string {
	var digests []string
	for _, j := range jobs {
		for _, in := range j.Inputs {
			if in.Image != nil && in.Image.Digest() != "" {
				digests = append(digests, in.Image.Digest())
			}
		}
	}
	slices.Sort(digests)
	return slices.Compact(digests)
}

type source struct {
	pool    *pool.Pool
	options Options

	mu    sync.Mutex
	hosts map[string]string // of the machines that broke, by their names
}

// avoid adds the hosts of broken machines: the scheduler knows workers only, and
// a broken machine is never met again, so what is tried elsewhere would come to
// the same host.
func (s *source) avoid(machines []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(machines)
	for _, m := range machines {
		if h := s.hosts[m]; h != "" && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

func (s *source) broke(machine, host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts == nil {
		s.hosts = map[string]string{}
	}
	s.hosts[machine] = host
}

// Worker waits for a guest.
func (s *source) Worker(ctx context.Context, d Demand) (scheduler.Worker[diskio.Job, Result], error) {
	begun := time.Now()
	d.Avoid = s.avoid(d.Avoid)
	g, err := s.pool.Acquire(ctx, s.options.Want(d))
	if errors.Is(err, pool.ErrImpossible) {
		return nil, fmt.Errorf("%w: %w", scheduler.ErrImpossible, err)
	}
	if err != nil {
		return nil, err
	}
	return &worker{source: s, guest: g, options: s.options, queued: since(begun)}, nil
}

// worker is a guest that takes batches.
type worker struct {
	source  *source
	guest   *pool.Guest
	options Options
	queued  time.Duration

	mu      sync.Mutex
	release error // the first reason not to use the machine again
}

// Info names the machine; its labels are those of the guest, with "template"
// and "host".
func (w *worker) Info() scheduler.WorkerInfo {
	labels := maps.Clone(w.guest.Labels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels["template"], labels["host"] = w.guest.Template(), w.guest.Host()
	batches := w.options.Keep
	if batches == 0 {
		batches = 1
	}
	return scheduler.WorkerInfo{Name: w.guest.Name(), Labels: labels, MaxTasks: 1, Batches: batches}
}

// Run runs a batch as one document, each job with the executor's before script in
// front of its own. Verdicts are emitted once the records were read off the disk.
func (w *worker) Run(ctx context.Context, b scheduler.Batch[diskio.Job], emit func(scheduler.Event[Result])) error {
	parts := make([]part, len(b.Tasks))
	for i, t := range b.Tasks {
		parts[i] = part{id: t.ID, job: t.Payload, attempt: max(b.Attempt[t.ID], 1), timeout: t.Timeout}
		if b.BeforeScript != "" {
			parts[i].job.Before = strings.TrimSuffix(b.BeforeScript+"\n"+t.Payload.Before, "\n") + "\n"
		}
	}
	var mu sync.Mutex // the guest's messages come from another goroutine
	begun := map[string]bool{}
	started := func(id string) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range parts {
			if p.id == id && !begun[id] {
				begun[id] = true
				emit(scheduler.Event[Result]{Task: id, Started: true})
			}
		}
	}
	results, err := runParts(ctx, w.guest, parts, w.options, started)
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	var broken error
	for _, r := range results {
		if r.Release != nil {
			broken = r.Release
		}
	}
	if broken != nil {
		w.source.broke(w.guest.Name(), w.guest.Host()) // before anything is tried again
	}
	for i, r := range results {
		r.Phases.Queued = w.queued
		r.Phases.Boot = w.guest.BootTime()
		if unbegun := r.Partial && !begun[parts[i].id] && len(r.Steps) == 0; unbegun && r.Infra != nil && len(parts) > 1 {
			continue // never started: it goes back untouched
		}
		emit(scheduler.Event[Result]{
			Task:    parts[i].id,
			Verdict: scheduler.Verdict{Status: string(r.Status), Exit: r.Exit, Infra: r.Infra},
			Result:  r,
		})
	}
	if broken == nil {
		return nil
	}
	w.mu.Lock()
	w.release = errors.Join(w.release, broken)
	w.mu.Unlock()
	return scheduler.Infra(broken)
}

// Release gives the guest back; the pool rolls its machine back behind it.
func (w *worker) Release(ctx context.Context, reason error) error {
	w.mu.Lock()
	if w.release != nil {
		reason = w.release
	}
	w.mu.Unlock()
	return w.guest.Release(ctx, reason)
}

// Cases makes the case of an outcome, with all its attempts. The suite is the
// task's group; a task without one is in the suite of its own name's first
// part.
func Cases(o Outcome) []result.Case {
	c := result.Case{
		Suite: o.Group, Name: o.Task, Status: result.Status(o.Verdict.Status),
		Message: o.Result.Message, Start: o.Result.Start, Duration: o.Duration, ExitCode: o.Verdict.Exit,
		Artifacts: o.Result.Artifacts, Output: output(o.Result), Properties: properties(o.Result),
	}
	if c.Message == "" {
		c.Message = o.Cause
	}
	for i, a := range o.Attempts {
		c.Attempts = append(c.Attempts, result.Attempt{
			Number: i + 1, Status: result.Status(a.Verdict.Status), Message: a.Result.Message,
			Machine: a.Worker, Host: a.Result.Host, Start: a.Start, Phases: a.Result.Phases,
		})
	}
	return []result.Case{c}
}

// properties are what the case says about where it ran.
func properties(r Result) map[string]string {
	if r.Machine == "" {
		return nil
	}
	p := maps.Clone(r.Properties)
	if p == nil {
		p = map[string]string{}
	}
	p["machine"], p["host"], p["template"], p["token"] = r.Machine, r.Host, r.Template, fmt.Sprint(r.Token)
	return p
}
