package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// queueBars are those of pool/internal/queue. It cannot be imported here, so its
// benchmarks run in processes of their own, by turns with the peer.
func queueBars() []bar {
	binary := new(queueBinary)
	bars := []bar{
		{name: "queue, uncontended, to puddle", most: 1, stretch: 0.3, measure: binary.handOff(1, puddlePeer)},
		{name: "queue, 512 waiters, to puddle", most: 1, stretch: 0.4, measure: binary.handOff(520, puddlePeer)},
		{name: "queue, 512 waiters, to x/sync semaphore", most: 1, stretch: 0.4, measure: binary.handOff(520, semaphorePeer)},
		{name: "queue, 10k waiters, to puddle", most: 1.3, stretch: 0.5, measure: binary.handOff(10_008, puddlePeer)},
		{name: "queue, 10k waiters, to 64 waiters", most: 5, stretch: 2, measure: binary.versus(
			side{"HandOff/10008", "handoff", 100_000}, side{"HandOff/72", "handoff", 100_000}, "an acquire and release")},
		{name: "queue, 10k waiters cancelled, to x/sync semaphore", most: 1.5, stretch: 1.1, measure: binary.byTurns(
			side{"CancelStorm", "storm", 5}, "all of them; none of 8 machines lost")},
		{name: "queue, acquire of 10k labelled, to a linear scan", most: 0.05, stretch: 1.0 / 300, measure: binary.versus(
			side{"AcquireWithLabels/queue", "op", 200_000}, side{"AcquireWithLabels/scan", "op", 10_000}, "and the release; 100 kinds, one of each free")},
		{name: "queue, release that fits none of 10k, to a scan", most: 0.01, stretch: 1e-5, measure: binary.versus(
			side{"ReleaseWhomNothingFits/queue", "thousand", 2_000_000}, side{"ReleaseWhomNothingFits/scan", "thousand", 100}, "1,000 releases")},
	}
	for i := range bars {
		bars[i].pkg, bars[i].end = "pool", binary.remove
	}
	return bars
}

// queueBinary is the test binary of pool/internal/queue, built when it is first
// needed.
type queueBinary struct{ dir string }

func (q *queueBinary) remove() error {
	dir := q.dir
	q.dir = ""
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

func (q *queueBinary) path(ctx context.Context) (string, error) {
	const name = "queue.test"
	if q.dir != "" {
		return filepath.Join(q.dir, name), nil
	}
	dir, err := os.MkdirTemp("", "peerbench")
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", filepath.Join(dir, name), "./pool/internal/queue")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the queue's benchmarks: %w: %s", err, out), os.RemoveAll(dir))
	}
	q.dir = dir
	return filepath.Join(dir, name), nil
}

// handOff compares acquire and release among as many goroutines with a peer that as
// many acquire from.
func (q *queueBinary) handOff(clients int, peer func() (acquire func(context.Context) (release func(), err error), end func(), err error)) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		binary, err := q.path(ctx)
		if err != nil {
			return 0, "", err
		}
		acquire, end, err := peer()
		if err != nil {
			return 0, "", err
		}
		defer end()
		n, rounds := 100_000, 10
		if full {
			n, rounds = 1_000_000, 31
		}
		ours := side{fmt.Sprintf("HandOff/%d", clients), "handoff", n}
		return pairs(ctx, rounds, ours.run(binary), func(ctx context.Context) (time.Duration, error) {
			return contend(ctx, clients, n, acquire)
		})
	}
}

// versus compares two benchmarks of the queue, of which the second may be a peer.
func (q *queueBinary) versus(ours, peer side, what string) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (float64, string, error) {
		binary, err := q.path(ctx)
		if err != nil {
			return 0, "", err
		}
		rounds := 7
		if full {
			rounds = 31
		}
		value, note, err := pairs(ctx, rounds, ours.run(binary), peer.run(binary))
		return value, note + ", " + what, err
	}
}

// byTurns is versus with a benchmark that runs the peer by turns with the queue
// itself, and reports its time as ns/peer and the ratio of the pairs beside ours.
// Processes of their own would be seconds apart, and so would what else the
// machine does. The first process is not counted, as in pairs.
func (q *queueBinary) byTurns(both side, what string) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (float64, string, error) {
		binary, err := q.path(ctx)
		if err != nil {
			return 0, "", err
		}
		rounds := 7
		if full {
			rounds = 31
		}
		var ratios []float64
		var mine, theirs []time.Duration
		for i := range rounds {
			reported, err := both.reports(ctx, binary)
			if err != nil {
				return 0, "", err
			}
			if i == 0 {
				continue
			}
			ratio, ours, peers := reported["ratio"], reported["ns/"+both.per], reported["ns/peer"]
			if ratio <= 0 || ours <= 0 || peers <= 0 {
				return 0, "", fmt.Errorf("benchmark %s reports no ratio, ns/%s and ns/peer: %v", both.name, both.per, reported)
			}
			ratios = append(ratios, ratio)
			mine, theirs = append(mine, time.Duration(ours)), append(theirs, time.Duration(peers))
		}
		note := fmt.Sprintf("%v to %v, %d times %d pairs, %s to %s, %s", short(median(mine)), short(median(theirs)),
			len(ratios), both.n, number(slices.Min(ratios)), number(slices.Max(ratios)), what)
		return median(ratios), note, nil
	}
}

// side is a benchmark of the queue: its name without "Benchmark", what its time is
// reported for, and how often it runs.
type side struct {
	name, per string
	n         int
}

func (s side) run(binary string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		reported, err := s.reports(ctx, binary)
		if err != nil {
			return 0, err
		}
		ns, ok := reported["ns/"+s.per]
		if !ok {
			return 0, fmt.Errorf("benchmark %s reports no ns/%s: %v", s.name, s.per, reported)
		}
		return time.Duration(ns), nil
	}
}

// reports runs the benchmark in a process of its own and gives what it reports, by
// unit.
func (s side) reports(ctx context.Context, binary string) (map[string]float64, error) {
	pattern := "^Benchmark" + strings.ReplaceAll(s.name, "/", "$/^") + "$"
	out, err := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+strconv.Itoa(s.n)+"x").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		reported := make(map[string]float64)
		for i := 2; i+1 < len(fields); i += 2 { // after the name and how often
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%w: %s", err, line)
			}
			reported[fields[i+1]] = value
		}
		return reported, nil
	}
	return nil, fmt.Errorf("no benchmark %s in %s", s.name, out)
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
