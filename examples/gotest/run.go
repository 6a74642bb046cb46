package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// session is one run of the command.
type session struct {
	options
	path     string // of the tests
	progress *progress
	report   *result.Report
	history  *result.History
	schedule *scheduler.Scheduler[diskio.Job, runner.Result]
	shards   map[string]*shard // by task
	last     map[*pack]int     // number of the package's last shard
}

// run tests the packages and gives the exit code: 0 all passed, 1 tests failed,
// 2 the environment failed or nothing was tested.
func run(ctx context.Context, o options, w io.Writer) (code int, err error) {
	begun := time.Now()
	packs, err := list(ctx, o.dir, o.patterns)
	if err != nil {
		return 2, err
	}
	dir, err := os.MkdirTemp("", "bullpen-gotest-")
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := &lines{w: w}
	report, err := test(ctx, o, out, packs, func() error { return compile(ctx, dir, packs, o) })
	if report == nil {
		return 2, err
	}
	summary(out, report, o.machines, time.Since(begun))
	return report.ExitCode(), errors.Join(err, write(out, o.out, report))
}

// test runs the packages' tests. build is called while the machines boot. There
// may be a report beside an error: what was found out before it.
func test(ctx context.Context, o options, w *lines, packs []*pack, build func() error) (report *result.Report, err error) {
	m, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.driver.Close()) }()
	machines, err := pool.New(pool.Config{
		Name:      poolName,
		Hosts:     []pool.Host{{Name: "here", Driver: m.driver, Slots: o.machines}},
		Templates: []pool.Template{{Name: poolName, Spec: m.spec, Ready: o.machines, Parent: m.parent}},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, machines.Close(context.WithoutCancel(ctx))) }()
	if err := build(); err != nil {
		return nil, err
	}
	s := &session{options: o, path: m.path, progress: newProgress(w, o.verbose), report: new(result.Report), shards: map[string]*shard{}, last: map[*pack]int{}}
	defer s.closeImages()
	if err := s.prepare(ctx, machines, packs); err != nil {
		return nil, err
	}
	if o.watch != nil {
		o.watch(s)
	}
	return s.report, s.loop(ctx)
}

// prepare packs the inputs and hands the shards to the scheduler.
func (s *session) prepare(ctx context.Context, machines *pool.Pool, packs []*pack) error {
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		return err
	}
	var err error
	if s.history, err = result.OpenHistory(result.HistoryConfig{Path: filepath.Join(s.cache, "history")}); err != nil {
		return err
	}
	s.schedule, err = scheduler.New(runner.Source(machines, runner.Options{OutputHead: outputHead, OutputTail: outputTail}),
		scheduler.Config{Workers: s.machines, Attempts: s.attempts})
	if err != nil {
		return err
	}
	for _, p := range packs {
		switch {
		case p.broken != "":
			s.progress.broken(p)
			var out result.OutputWriter
			_, _ = io.WriteString(&out, p.output) // never fails
			s.report.Add(result.Case{Suite: p.name, Name: wholePackage, Status: result.Failed, Message: p.broken + " failed", Output: out.Output()})
		case len(p.tests) == 0:
			s.progress.none(p)
		}
	}
	shards := plan(packs, s.machines, s.expect)
	if err := s.pack(ctx, shards); err != nil {
		return err
	}
	return s.add(shards...)
}

// expect is how long a test takes, as far as is known.
func (s *session) expect(suite, test string) time.Duration {
	if e, ok := s.history.Estimate(suite, test); ok {
		return e.Duration
	}
	return unseen
}

// pack gives each shard its input disk: one per package.
func (s *session) pack(ctx context.Context, shards []*shard) error {
	cache, err := diskio.NewCache(filepath.Join(s.cache, "inputs"), nil)
	if err != nil {
		return err
	}
	images := map[*pack]*diskio.Image{}
	for _, h := range shards {
		images[h.pack] = nil
	}
	made := make(chan func(), len(images)) // results, in any order
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for p := range images {
		g.Go(func() error {
			image, err := p.image(ctx, cache, s.options)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			made <- func() { images[p] = image }
			return nil
		})
	}
	err = g.Wait()
	close(made)
	for keep := range made {
		keep()
	}
	for _, h := range shards {
		h.image = images[h.pack]
		s.shards[h.id] = h // closeImages finds it there, also after an error
	}
	return err
}

// closeImages lets the cache have them back.
func (s *session) closeImages() {
	for _, h := range s.shards {
		if h.image != nil {
			_ = h.image.Close() // read only
		}
	}
}

// add schedules shards.
func (s *session) add(shards ...*shard) error {
	tasks := make([]runner.Task, len(shards))
	for i, h := range shards {
		var err error
		if tasks[i], err = h.task(s.options, s.path); err != nil {
			return err
		}
	}
	if err := s.schedule.Add(tasks...); err != nil {
		return err
	}
	for _, h := range shards {
		s.shards[h.id] = h
		s.last[h.pack]++
		s.progress.expect(h.pack, 1)
	}
	return nil
}

// loop takes the outcomes as they come. Tests that another one kept from
// running are scheduled again, for which the run is held open. A history that
// cannot be written is an error after all tests were run.
func (s *session) loop(ctx context.Context) (err error) {
	release := s.schedule.Hold()
	defer release()
	left := len(s.shards)
	if left == 0 {
		release()
	}
	for o := range s.schedule.Run(ctx) {
		h := s.shards[o.Task]
		cases, again := h.conclude(o)
		if len(again) > 0 {
			more, err := s.again(ctx, h, again)
			if err != nil {
				return err
			}
			if cases = append(cases, more...); more == nil {
				left++
			}
		}
		s.report.Add(cases...)
		s.progress.ended(h.pack, cases, o.Result.Step(stepTest).Duration)
		err = errors.Join(err, s.remember(context.WithoutCancel(ctx), cases))
		if left--; left == 0 {
			release()
		}
	}
	return err
}

// again schedules tests once more, in a process of their own; where the run was
// ended meanwhile it gives their cases instead.
func (s *session) again(ctx context.Context, h *shard, tests []string) (cases []result.Case, err error) {
	next := &shard{id: fmt.Sprintf("%s#%d", h.pack.name, s.last[h.pack]+1), pack: h.pack, tests: tests, image: h.image}
	err = s.add(next)
	if err == nil {
		return nil, nil
	}
	if !errors.Is(err, scheduler.ErrEnded) && ctx.Err() == nil {
		return nil, err
	}
	for _, name := range tests {
		cases = append(cases, result.Case{Suite: h.pack.name, Name: name, Status: result.Aborted, Message: "the run was ended before it was run again"})
	}
	return cases, nil
}

// remember keeps the durations of top-level tests, which is what shards are made
// of.
func (s *session) remember(ctx context.Context, cases []result.Case) error {
	var kept []result.Case
	for _, c := range cases {
		if testName.MatchString(c.Name) {
			c.Output = result.Output{}
			kept = append(kept, c)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.history.Add(ctx, kept...)
}
