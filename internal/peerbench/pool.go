package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
)

func poolBars() []bar {
	return []bar{
		{pkg: "pool", name: "queue, uncontended, to puddle", most: 1, stretch: 0.3, measure: handOff(1, puddlePeer)},
		{pkg: "pool", name: "queue, 512 waiters, to puddle", most: 1, stretch: 0.4, measure: handOff(520, puddlePeer)},
		{pkg: "pool", name: "queue, 512 waiters, to x/sync semaphore", most: 1, stretch: 0.4, measure: handOff(520, semaphorePeer)},
		{pkg: "pool", name: "queue, 10k waiters, to puddle", most: 1.3, stretch: 0.5, measure: handOff(10_008, puddlePeer)},
		{pkg: "pool", name: "Acquire and Release, no-op renewal, ns", most: 10_000, stretch: 3000, unit: " ns", measure: wholePool(false)},
		{pkg: "pool", name: "allocations of that", most: 20, stretch: 8, measure: wholePool(true)},
	}
}

// handOff compares the benchmark of that name in pool/internal/queue with a peer
// that as many goroutines acquire from. The queue cannot be imported here, so its
// benchmark runs in a process of its own, by turns with the peer.
func handOff(clients int, peer func() (acquire func(context.Context) (release func(), err error), end func(), err error)) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		dir, err := os.MkdirTemp("", "peerbench")
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, os.RemoveAll(dir)) }()
		binary := filepath.Join(dir, "queue.test")
		build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./pool/internal/queue")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, "", fmt.Errorf("build the queue's benchmark: %w: %s", err, out)
		}
		acquire, end, err := peer()
		if err != nil {
			return 0, "", err
		}
		defer end()
		n, rounds := 200_000, 10
		if full {
			n, rounds = 1_000_000, 31
		}
		return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
			return runBenchmark(ctx, binary, fmt.Sprintf("^BenchmarkHandOff$/^%d$", clients), n)
		}, func(ctx context.Context) (time.Duration, error) {
			return contend(ctx, clients, n, acquire)
		})
	}
}

// result lines: the name, the iterations, ns/op, and the benchmark's own metric.
var perHandOff = regexp.MustCompile(`([0-9.]+) ns/handoff`)

func runBenchmark(ctx context.Context, binary, pattern string, n int) (time.Duration, error) {
	out, err := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+strconv.Itoa(n)+"x").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	found := perHandOff.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("no benchmark %s in %s", pattern, out)
	}
	ns, err := strconv.ParseFloat(string(found[1]), 64)
	return time.Duration(ns * float64(time.Nanosecond)), err
}

// contend has as many clients acquire and release n times together, and gives the
// time of one.
func contend(ctx context.Context, clients, n int, acquire func(context.Context) (func(), error)) (time.Duration, error) {
	var wait sync.WaitGroup
	errs := make([]error, clients)
	each := max(1, n/clients)
	start := time.Now()
	for i := range clients {
		wait.Go(func() {
			for range each {
				release, err := acquire(ctx)
				if err != nil {
					errs[i] = err
					return
				}
				if clients > 1 {
					runtime.Gosched() // so that the others come and wait, as on our side
				}
				release()
			}
		})
	}
	wait.Wait()
	return time.Since(start) / time.Duration(each*clients), errors.Join(errs...)
}

func puddlePeer() (func(context.Context) (func(), error), func(), error) {
	p, err := puddlePool(8)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (func(), error) {
		r, err := p.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		return r.Release, nil
	}, p.Close, nil
}

func semaphorePeer() (func(context.Context) (func(), error), func(), error) {
	s := semaphore.NewWeighted(8)
	release := func() { s.Release(1) }
	return func(ctx context.Context) (func(), error) { return release, s.Acquire(ctx, 1) }, func() {}, nil
}

// wholePool measures Acquire and Release of a real pool whose machines need
// nothing: time, or allocations, with the renewal behind it.
func wholePool(allocs bool) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		m, end, err := manager()
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, end()) }()
		const slots = 8
		p, err := pool.New(pool.Config{
			Leases: m,
			Hosts:  []pool.Host{{Name: "h", Driver: newIdleDriver(), Slots: slots}},
			Templates: []pool.Template{{
				Name: "t", Ready: slots, Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert, vm.RungCold},
				Clean: func(context.Context, vm.Machine) error { return nil },
			}},
		})
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, p.Close(context.WithoutCancel(ctx))) }()
		once := func() error {
			g, err := p.Acquire(ctx, pool.Want{Template: "t"})
			if err != nil {
				return err
			}
			return g.Release(ctx, nil)
		}
		if _, err := each(1000, once); err != nil {
			return 0, "", err
		}
		n := 5_000
		if full {
			n = 50_000
		}
		if allocs {
			value, err = allocations(n, once)
			return value, "with the renewal", err
		}
		var samples []time.Duration
		for range 15 {
			took, err := each(n, once)
			if err != nil {
				return 0, "", err
			}
			samples = append(samples, took)
		}
		if s := p.Stats(); s.Destroyed > 0 || s.Failures > 0 {
			return 0, "", fmt.Errorf("machines were not renewed in place: %+v", s)
		}
		return float64(median(samples)), fmt.Sprintf("1 caller, %d machines, the renewal behind it included", slots), nil
	}
}
