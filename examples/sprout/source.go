package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// source gives the scheduler its workers: each is the executor of one appliance.
type source struct {
	registry *registry
	spawn    func(ctx context.Context, id string, a appliance) (executor, error)
	// replace gives another appliance for one that broke.
	replace func(ctx context.Context, id string, broken appliance, why error) (appliance, error)
	term    *terminal
	log     *slog.Logger
	free    chan string // workers that the scheduler does not have
	// respawns is how often a worker may fail one time after the other, with no group
	// done between, before it is given up.
	respawns int
	none     chan struct{} // closed when no worker is left
	noneOnce sync.Once

	mu     sync.Mutex
	broken map[string]error // appliances, by worker
	fails  map[string]int   // of workers, one after the other
	// collection is what all workers are to list; nil: it is not known yet.
	collection []string
	// errors of collections, by worker.
	collectErrors map[string]error
}

const defaultRespawns = 3

func newSource(r *registry) *source {
	s := &source{
		registry: r, respawns: defaultRespawns, none: make(chan struct{}),
		broken: map[string]error{}, fails: map[string]int{}, collectErrors: map[string]error{},
	}
	ids := r.ids()
	s.free = make(chan string, len(ids))
	for _, id := range ids {
		s.free <- id
	}
	return s
}

// audit fires up all workers, has each list the tests, and compares the lists. Those
// that differ are ended: they are started again when there is something to run.
func (s *source) audit(ctx context.Context) scheduler.Listings {
	ids := s.registry.ids()
	listings := make([]scheduler.Listing, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			tests, err := s.list(ctx, id)
			if errors.Is(err, errMachine) && ctx.Err() == nil { // once more, on another one
				if err = s.renew(ctx, id); err == nil {
					tests, err = s.list(ctx, id)
				}
			}
			listings[i] = scheduler.Listing{Worker: id, Tests: tests, Err: err}
		})
	}
	all.Wait()
	compared := scheduler.CompareListings(listings)
	s.mu.Lock()
	s.collection = compared.Tests
	s.mu.Unlock()
	for _, odd := range compared.Odd {
		s.differs(odd)
		s.registry.stop(odd.Worker)
	}
	return compared
}

// list starts a worker and has it list the tests.
func (s *source) list(ctx context.Context, id string) ([]string, error) {
	x, _, err := s.registry.start(id, func(a appliance) (executor, error) { return s.spawn(ctx, id, a) })
	var tests []string
	if err == nil {
		tests, err = x.collect(ctx)
	}
	s.note(id, err)
	return tests, err
}

// note remembers what is wrong with an appliance or a collection.
func (s *source) note(id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.collectErrors, id)
	if err == nil {
		return
	}
	s.collectErrors[id] = err
	if errors.Is(err, errMachine) {
		s.broken[id] = err
	}
}

// differs tells of a worker that lists something else, or nothing.
func (s *source) differs(odd scheduler.OddListing) {
	if odd.Err != nil {
		s.term.message(odd.Worker, purple, "collection error, respawning: %v", odd.Err)
	} else {
		s.term.message(odd.Worker, purple, "collection differs, respawning: %v", odd)
		for _, test := range odd.Missing {
			s.term.message(odd.Worker, purple, "- %s", test)
		}
		for _, test := range odd.Extra {
			s.term.message(odd.Worker, purple, "+ %s", test)
		}
	}
	s.log.Error("collection", "worker", odd.Worker, "differs", odd.String())
}

// Worker waits for a worker that is free, starts it where it does not run, and checks
// what it lists.
func (s *source) Worker(ctx context.Context, d scheduler.Demand) (scheduler.Worker[string, event], error) {
	for {
		if len(s.registry.ids()) == 0 {
			s.noneOnce.Do(func() { close(s.none) })
			return nil, fmt.Errorf("%w: no worker is left", scheduler.ErrImpossible)
		}
		id, err := s.take(ctx, d.Avoid)
		if err != nil {
			return nil, err
		}
		x, err := s.ready(ctx, id)
		if err == nil {
			return &borrowed{source: s, id: id, executor: x}, nil
		}
		if _, ok := s.registry.appliance(id); !ok {
			s.log.Info("a worker is not started", "why", err)
			continue // it was taken out, for good
		}
		if ctx.Err() == nil && !errors.Is(err, errNotStarted) {
			s.term.message(id, purple, "%v", err)
			s.failed(id)
		}
		s.free <- id
		return nil, err
	}
}

// failed counts a failure of a worker, and gives one up that fails again and again:
// the others go on.
func (s *source) failed(id string) {
	s.mu.Lock()
	s.fails[id]++
	n := s.fails[id]
	s.mu.Unlock()
	if n > s.respawns {
		s.term.message(id, purple, "is given up: it failed %d times, one after the other", n)
		s.registry.remove(id)
	}
}

// take gives a free worker, one that is not to be avoided where there is one.
func (s *source) take(ctx context.Context, avoid []string) (string, error) {
	var passed []string
	defer func() {
		for _, id := range passed {
			s.free <- id
		}
	}()
	for {
		if len(passed) > 0 {
			select {
			case id := <-s.free:
				if passed = append(passed, id); slices.Contains(avoid, id) {
					continue
				}
			default:
			}
			id := passed[len(passed)-1]
			passed = passed[:len(passed)-1]
			return id, nil
		}
		select {
		case id := <-s.free:
			if !slices.Contains(avoid, id) {
				return id, nil
			}
			passed = append(passed, id)
		case <-s.none:
			return "", fmt.Errorf("%w: no worker is left", scheduler.ErrImpossible)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// ready makes a worker fit to run: a sound appliance, a process, the same listing.
func (s *source) ready(ctx context.Context, id string) (executor, error) {
	if err := s.renew(ctx, id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	want := s.collection
	s.mu.Unlock()
	x, fresh, err := s.registry.start(id, func(a appliance) (executor, error) { return s.spawn(ctx, id, a) })
	if err != nil || !fresh {
		return x, err
	}
	tests, err := x.collect(ctx)
	s.note(id, err)
	// The listings that agree are the reference: it counts twice.
	reference := scheduler.Listing{Worker: "master", Tests: want}
	compared := scheduler.CompareListings([]scheduler.Listing{reference, reference, {Worker: id, Tests: tests, Err: err}})
	if len(compared.Odd) > 0 {
		s.differs(compared.Odd[0])
		s.registry.stop(id)
		return nil, compared.Odd[0].Reason()
	}
	return x, nil
}

// renew gives a worker another appliance where its own broke.
func (s *source) renew(ctx context.Context, id string) error {
	s.mu.Lock()
	why := s.broken[id]
	s.mu.Unlock()
	a, ok := s.registry.appliance(id)
	if !ok || why == nil {
		return nil
	}
	s.registry.stop(id)
	s.term.message(id, purple, "replacing appliance %s: %v", a.Name, why)
	other, err := s.replace(ctx, id, a, why)
	if err != nil {
		return fmt.Errorf("replace appliance %s: %w", a.Name, err)
	}
	s.registry.replace(id, other)
	s.term.message(id, green, "using appliance %s", other.URL)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.broken, id)
	return nil
}

// errorsOfCollection are those that are not mended, a line per worker.
func (s *source) errorsOfCollection() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for id, err := range s.collectErrors {
		lines = append(lines, fmt.Sprintf("%s: %v", id, err))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// borrowed is a worker in the scheduler's hands.
type borrowed struct {
	source   *source
	id       string
	executor executor
}

// Info: the worker takes groups until there are none.
func (b *borrowed) Info() scheduler.WorkerInfo {
	return scheduler.WorkerInfo{Name: b.id, Batches: -1, OwnLimits: true}
}

// Run sends a group whole and passes the news on.
func (b *borrowed) Run(ctx context.Context, batch scheduler.Batch[string], emit func(scheduler.Event[event])) error {
	tests := make([]string, len(batch.Tasks))
	for i, t := range batch.Tasks {
		tests[i] = t.ID
	}
	b.source.registry.sent(b.id, tests)
	b.source.log.Info("sent", "worker", b.id, "group", batch.Group, "tests", len(tests))
	err := b.executor.runTests(ctx, batch.Group, tests, func(e event) {
		switch {
		case e.Started:
			emit(scheduler.Event[event]{Task: e.Test, Started: true})
		case e.Status == string(result.Aborted), !slices.Contains(tests, e.Test):
		case e.Broken != "":
			infra := scheduler.Infra(fmt.Errorf("%w: %s", errMachine, e.Broken))
			emit(scheduler.Event[event]{Task: e.Test, Verdict: scheduler.Verdict{Status: scheduler.Errored, Infra: infra}, Result: e})
		default:
			emit(scheduler.Event[event]{Task: e.Test, Verdict: scheduler.Verdict{Status: e.Status, Exit: e.Exit}, Result: e})
		}
	})
	if err == nil {
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		delete(b.source.fails, b.id)
		return nil
	}
	if errors.Is(err, errMachine) {
		b.source.note(b.id, err)
	}
	if ctx.Err() == nil {
		b.source.term.message(b.id, purple, "%v", err)
		b.source.failed(b.id)
	}
	return scheduler.Infra(err)
}

// Release ends the worker: there is nothing more for it, or it is of no use. It may be
// asked for again, and is then started again.
func (b *borrowed) Release(_ context.Context, _ error) error {
	b.source.registry.stop(b.id)
	b.source.free <- b.id
	return nil
}
