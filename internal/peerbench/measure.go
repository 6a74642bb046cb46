package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// pairs runs ours and the peer's by turns, the other one first each time, after a
// collection each, and gives the median of ours by the peer's. What is timed is
// what the funcs return.
func pairs(ctx context.Context, rounds int, ours, peer func(context.Context) (time.Duration, error)) (float64, string, error) {
	var ratios []float64
	var mine, theirs []time.Duration
	for i := range rounds {
		var took [2]time.Duration
		for j := range 2 {
			side := (i + j) % 2
			if err := context.Cause(ctx); err != nil {
				return 0, "", err
			}
			runtime.GC()
			var err error
			if took[side], err = [...]func(context.Context) (time.Duration, error){ours, peer}[side](ctx); err != nil {
				return 0, "", err
			}
		}
		if i == 0 && rounds > 2 {
			continue // to warm up
		}
		mine, theirs = append(mine, took[0]), append(theirs, took[1])
		ratios = append(ratios, float64(took[0])/float64(took[1]))
	}
	return median(ratios), fmt.Sprintf("%v to %v, %d pairs", short(median(mine)), short(median(theirs)), len(ratios)), nil
}

// each times n calls and gives the time of one.
func each(n int, call func() error) (time.Duration, error) {
	start := time.Now()
	for range n {
		if err := call(); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / time.Duration(n), nil
}

// timed gives how long one call took.
func timed(call func() error) (time.Duration, error) {
	start := time.Now()
	err := call()
	return time.Since(start), err
}

// allocations gives how many allocations one of n calls makes, on average.
func allocations(n int, call func() error) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		if err := call(); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), nil
}

// reachable gives the bytes of the heap that are in use.
func reachable() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// median gives the middle one; of an even number the lower of the two.
func median[T float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[(len(s)-1)/2]
}

func short(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d
}
