package result

import (
	"math"
	"slices"
	"time"
)

// Estimate is what history expects of a test's duration.
type Estimate struct {
	// Duration is the median of the test's passes; of a test that never passed,
	// the longest it ran before it failed or timed out.
	Duration time.Duration
	// Spread is a robust standard deviation of the same durations: 1.4826 times
	// the median distance from the median (the MAD; Hampel 1974). Zero with one.
	Spread time.Duration
	// Count is how many durations it rests on.
	Count int
}

// Estimate gives what to expect of a test, and whether anything is known of it.
// The newest records count, up to PerTest: a test that became slower is believed
// once half of them say so.
func (h *History) Estimate(suite, name string) (Estimate, bool) {
	var passed, other []time.Duration
	for _, p := range h.Past(suite, name) {
		if p.Status == Passed {
			passed = append(passed, p.Duration)
		} else {
			other = append(other, p.Duration)
		}
	}
	if len(passed) == 0 {
		if len(other) == 0 {
			return Estimate{}, false
		}
		return Estimate{Duration: slices.Max(other), Spread: spread(other), Count: len(other)}, true
	}
	return Estimate{Duration: median(passed), Spread: spread(passed), Count: len(passed)}, true
}

// Flakiness is how unreliable a test was.
type Flakiness struct {
	Runs     int // attempts that history knows of
	Failures int // of them failed or timed out
	// Flips counts neighbours in time with different verdicts. A test that
	// broke and stays broken has one, a flaky one has many.
	Flips int
	// Retried counts attempts in runs in which the test both passed and failed.
	Retried int
}

// Rate is the share of neighbours in time that differ: 0 for a steady test, 1
// for one that changes each time.
func (f Flakiness) Rate() float64 {
	if f.Runs < 2 {
		return 0
	}
	return float64(f.Flips) / float64(f.Runs-1)
}

// Flakiness gives how unreliable a test was within its newest records.
func (h *History) Flakiness(suite, name string) Flakiness {
	var f Flakiness
	past := h.Past(suite, name)
	for i, p := range past {
		f.Runs++
		if p.Status.Bad() {
			f.Failures++
		}
		if p.Flaky {
			f.Retried++
		}
		if i > 0 && p.Status.Bad() != past[i-1].Status.Bad() {
			f.Flips++
		}
	}
	return f
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	// Half of each first: hostile durations must not overflow.
	a, b := s[n/2-1], s[n/2]
	return a/2 + b/2 + (a%2+b%2)/2
}

func spread(d []time.Duration) time.Duration {
	m := median(d)
	distances := make([]time.Duration, len(d))
	for i, x := range d {
		distances[i] = time.Duration(math.Abs(float64(x) - float64(m)))
		if distances[i] < 0 {
			distances[i] = math.MaxInt64
		}
	}
	return time.Duration(min(1.4826*float64(median(distances)), math.MaxInt64/2))
}
