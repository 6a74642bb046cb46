package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scripted is an executor without a process.
type scripted struct {
	id      string
	listing []string
	listErr error
	run     func(ctx context.Context, group string, tests []string, tell func(event)) error
	stopped func()
}

func (x *scripted) collect(context.Context) ([]string, error) { return x.listing, x.listErr }

func (x *scripted) runTests(ctx context.Context, group string, tests []string, tell func(event)) error {
	if x.run != nil {
		return x.run(ctx, group, tests, tell)
	}
	return passAll(tests, tell)
}

func (x *scripted) stop() {
	if x.stopped != nil {
		x.stopped()
	}
}

func passAll(tests []string, tell func(event)) error {
	for _, test := range tests {
		tell(event{Test: test, Started: true})
		tell(event{Test: test, Status: "passed"})
	}
	return nil
}

// bench is a source with executors that are made by a func, and what they did.
type bench struct {
	*source
	mu     sync.Mutex
	groups []string // "slave00 group" in the order in which they were sent
	out    output
}

func newBench(workers int, listing []string, make func(b *bench, id string, n int) *scripted) *bench {
	b := &bench{}
	r := &registry{}
	for i := range workers {
		r.add(appliance{Name: fmt.Sprint("m", i), URL: fmt.Sprintf("https://10.0.0.%d/", i+1)})
	}
	b.source = newSource(r)
	b.term, b.log = newTerminal(&b.out), nobody
	b.replace = func(context.Context, string, appliance, error) (appliance, error) {
		return appliance{}, errors.New("none")
	}
	spawned := 0
	b.spawn = func(_ context.Context, id string, _ appliance) (executor, error) {
		b.mu.Lock()
		spawned++
		n := spawned
		b.mu.Unlock()
		x := &scripted{id: id, listing: listing}
		if make != nil {
			if made := make(b, id, n); made != nil {
				x = made
			}
		}
		inner := x.run
		if inner == nil {
			inner = func(_ context.Context, _ string, tests []string, tell func(event)) error { return passAll(tests, tell) }
		}
		x.run = func(ctx context.Context, group string, tests []string, tell func(event)) error {
			b.mu.Lock()
			b.groups = append(b.groups, id+" "+group)
			b.mu.Unlock()
			return inner(ctx, group, tests, tell)
		}
		return x, nil
	}
	return b
}

// session runs the collection on the bench's workers.
func (b *bench) session(t *testing.T, o options, providers []string) (int, error) {
	t.Helper()
	s := &session{options: o, term: b.term, log: nobody, registry: b.registry, source: b.source}
	s.source.respawns = defaultRespawns
	s.config.Providers, s.config.Backoff = providers, 0.01
	s.config.Suite.Timeout = 600
	return s.runTests(t.Context())
}

// module is a listing of n modules with two tests each.
func modules(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("m%d::a", i), fmt.Sprintf("m%d::b", i))
	}
	return all
}

func TestGroupsAreSentWholeInTheOrderOfTheGenerator(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1, modules(4), nil)
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code)
		assert.Equal(t, []string{"slave00 m0[no params]", "slave00 m1[no params]", "slave00 m2[no params]", "slave00 m3[no params]"}, b.groups)
		spawned, tests := b.registry.counts()
		assert.Equal(t, 1, spawned)
		assert.Equal(t, map[string]int{"slave00": 8}, tests, "tests by worker")
		assert.Contains(t, b.out.String(), "(slave00) was sent 8 tests")
	})
}

func TestAGroupIsNeverCutHoweverLongItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var listing []string
		for i := range 40 {
			listing = append(listing, fmt.Sprintf("long::t%d", i))
		}
		b := newBench(4, listing, nil)
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code)
		assert.Len(t, b.groups, 1)
	})
}

func TestAFailedGroupIsSentAgainBeforeAllOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1, modules(4), func(_ *bench, id string, n int) *scripted {
			if n > 1 {
				return nil
			}
			return &scripted{id: id, listing: modules(4), run: func(_ context.Context, group string, tests []string, tell func(event)) error {
				if group != "m1[no params]" {
					return passAll(tests, tell)
				}
				tell(event{Test: tests[0], Started: true})
				tell(event{Test: tests[0], Status: "passed"})
				tell(event{Test: tests[1], Started: true})
				return errors.New("the worker died")
			}}
		})
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code, b.out.String())
		assert.Equal(t, []string{
			"slave00 m0[no params]", "slave00 m1[no params]",
			"slave00 m1[no params]", // again, before those that were not sent yet
			"slave00 m2[no params]", "slave00 m3[no params]",
		}, b.groups)
		assert.Contains(t, b.out.String(), "(slave00) the worker died")
		assert.Contains(t, b.out.String(), "8 passed", "each once")
	})
}

func TestMostFailuresEndTheRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1, modules(5), func(_ *bench, id string, _ int) *scripted {
			return &scripted{id: id, listing: modules(5), run: func(ctx context.Context, _ string, tests []string, tell func(event)) error {
				for _, test := range tests {
					tell(event{Test: test, Started: true})
					tell(event{Test: test, Status: "failed", Exit: 1})
					time.Sleep(time.Second) // so long the harness takes to say stop
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
				}
				return nil
			}}
		})
		code, err := b.session(t, options{MaxFail: 3}, nil)
		require.NoError(t, err)
		assert.Equal(t, 1, code)
		assert.Contains(t, b.out.String(), "Stopping after 3 failures")
		assert.Contains(t, b.out.String(), "3 failed, 7 aborted")
		assert.Equal(t, []string{"slave00 m0[no params]", "slave00 m1[no params]"}, b.groups)
	})
}

func TestWorkersThatFailAreStartedAgainOnlySoOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(2, modules(2), func(_ *bench, id string, _ int) *scripted {
			return &scripted{id: id, listing: modules(2), run: func(context.Context, string, []string, func(event)) error {
				return errors.New("dead at once")
			}}
		})
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Equal(t, 2, code)
		spawned, _ := b.registry.counts()
		assert.LessOrEqual(t, spawned, 2*(1+defaultRespawns))
		assert.GreaterOrEqual(t, spawned, 4)
		assert.Contains(t, b.out.String(), "4 errored")
	})
}

func TestOneWorkerThatFailsAgainAndAgainIsGivenUpAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(2, modules(3), func(_ *bench, id string, n int) *scripted {
			if id == "slave01" { // it lists something else, however often it is started
				return &scripted{id: id, listing: append(modules(3), "m3::extra")}
			}
			return &scripted{id: id, listing: modules(3), run: func(_ context.Context, _ string, tests []string, tell func(event)) error {
				time.Sleep(24 * time.Hour)
				return passAll(tests, tell)
			}}
		})
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code, b.out.String())
		assert.Equal(t, []string{"slave00 m0[no params]", "slave00 m1[no params]", "slave00 m2[no params]"}, b.groups)
		inOrder(t, b.out.String(), "(slave01) collection differs, respawning: slave01 lists also 1 (m3::extra)", "(slave01) collection differs, respawning", "(slave01) is given up: it failed 4 times", "6 passed")
		spawned, _ := b.registry.counts()
		assert.Equal(t, 2+4, spawned)
		assert.Equal(t, []string{"slave00"}, b.registry.ids())
	})
}

func TestAWorkerWhoseCollectionDiffersIsShownAndStartedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		want := modules(3)
		b := newBench(3, want, func(_ *bench, id string, n int) *scripted {
			if id == "slave01" && n <= 3 {
				return &scripted{id: id, listing: append(slices.Clone(want[1:]), "m9::new")}
			}
			if id == "slave02" && n <= 3 {
				return &scripted{id: id, listErr: errors.New("syntax error in m0")}
			}
			return &scripted{id: id, listing: want, run: func(_ context.Context, _ string, tests []string, tell func(event)) error {
				time.Sleep(time.Hour) // all workers are needed
				return passAll(tests, tell)
			}}
		})
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code)
		spawned, tests := b.registry.counts()
		assert.Equal(t, 5, spawned, "two were started again, and list the same")
		assert.Equal(t, map[string]int{"slave00": 2, "slave01": 2, "slave02": 2}, tests)
		inOrder(t, b.out.String(), "(slave01) collection differs, respawning", "(slave01) - m0::a", "(slave01) + m9::new", "(slave02) collection error, respawning: syntax error in m0")
	})
}

func TestErrorsOfAllCollectionsAreOneResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(2, nil, func(_ *bench, id string, _ int) *scripted {
			return &scripted{id: id, listErr: errors.New("syntax error on " + id)}
		})
		code, err := b.session(t, options{}, nil)
		assert.Error(t, err)
		assert.Equal(t, 2, code)
		inOrder(t, b.out.String(), "Errors of the collection:", "slave00: syntax error on slave00", "slave01: syntax error on slave01", "errored")
	})
}

func TestAWorkerKeepsTheProvidersThatItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var listing []string
		for _, module := range strings.Fields("m0 m1 m2 m3") {
			for _, p := range strings.Fields("vsphere55 vsphere55-nested") {
				listing = append(listing, fmt.Sprintf("%s::x[%s]", module, p))
			}
		}
		b := newBench(2, listing, func(_ *bench, id string, _ int) *scripted {
			return &scripted{id: id, listing: listing, run: func(_ context.Context, _ string, tests []string, tell func(event)) error {
				time.Sleep(time.Second)
				return passAll(tests, tell)
			}}
		})
		code, err := b.session(t, options{}, []string{"vsphere55", "vsphere55-nested"})
		require.NoError(t, err)
		assert.Zero(t, code)
		has := map[string]map[string]bool{}
		for _, g := range b.groups {
			worker, group, _ := strings.Cut(g, " ")
			if has[worker] == nil {
				has[worker] = map[string]bool{}
			}
			has[worker][parameter(group)] = true
		}
		assert.Equal(t, 2, len(has))
		for worker, providers := range has {
			assert.Len(t, providers, 1, "%s was given %v although another has that provider", worker, providers)
		}
	})
}

func TestABrokenApplianceIsReplacedBeforeItsWorkerGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(1, modules(2), func(_ *bench, id string, n int) *scripted {
			if n > 2 {
				return nil
			}
			if n == 2 { // the worker dies, and its appliance is sound
				return &scripted{id: id, listing: modules(2), run: func(context.Context, string, []string, func(event)) error {
					return errors.New("the worker died")
				}}
			}
			return &scripted{id: id, listing: modules(2), run: func(_ context.Context, _ string, tests []string, tell func(event)) error {
				tell(event{Test: tests[0], Started: true})
				tell(event{Test: tests[0], Status: "errored", Broken: "no answer"})
				return fmt.Errorf("%w: no answer", errMachine)
			}}
		})
		b.replace = func(_ context.Context, id string, broken appliance, why error) (appliance, error) {
			assert.Equal(t, "m0", broken.Name, "only that one broke")
			assert.ErrorIs(t, why, errMachine)
			return appliance{Name: "m9", URL: "https://10.0.0.9/"}, nil
		}
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code)
		inOrder(t, b.out.String(), "(slave00) replacing appliance m0", "(slave00) using appliance https://10.0.0.9/", "4 passed")
	})
}

func TestAnApplianceThatBreaksWhileItListsIsReplacedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(2, modules(1), func(_ *bench, id string, _ int) *scripted {
			return &scripted{id: id, listing: modules(1)}
		})
		spawn := b.spawn
		b.spawn = func(ctx context.Context, id string, a appliance) (executor, error) {
			if a.Name == "m1" {
				return nil, fmt.Errorf("%w: no answer", errMachine)
			}
			return spawn(ctx, id, a)
		}
		b.replace = func(_ context.Context, _ string, broken appliance, _ error) (appliance, error) {
			return appliance{Name: "m9", URL: "https://10.0.0.9/"}, nil
		}
		code, err := b.session(t, options{}, nil)
		require.NoError(t, err)
		assert.Zero(t, code)
		inOrder(t, b.out.String(), "(slave01) replacing appliance m1: the appliance failed: no answer", "(slave01) using appliance https://10.0.0.9/", "2 tests are collected by 2 of 2 workers")
	})
}
