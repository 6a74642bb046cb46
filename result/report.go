package result

import (
	"iter"
	"slices"
	"sync"
	"time"
)

// Report collects the cases of a run. The zero value is ready; it must not be
// copied after its first use and is safe for concurrent use. It keeps each case
// once, in the order of their first Add.
type Report struct {
	mu    sync.Mutex
	cases []*Case
	index map[identity]int
}

type identity struct{ suite, name string }

// Add adds cases. A case whose suite and name are in the report already counts
// as later attempts at the same test: its attempts are appended, and the
// verdict is folded as the package comment says. A case without attempts makes
// one of itself. A status that is none becomes Errored, with the reason in the
// message; a status that is better than the case's own attempts allow becomes
// theirs.
func (r *Report) Add(cases ...Case) {
	for _, c := range cases {
		c := normal(c)
		key := identity{c.Suite, c.Name}
		r.mu.Lock()
		if at, ok := r.index[key]; ok {
			c = merge(*r.cases[at], c)
			r.cases[at] = &c
		} else {
			if r.index == nil {
				r.index = make(map[identity]int)
			}
			r.index[key] = len(r.cases)
			r.cases = append(r.cases, &c)
		}
		r.mu.Unlock()
	}
}

// Cases gives all cases in the order of their first Add. The cases are the
// caller's own, but for the bytes of their outputs, which are shared.
func (r *Report) Cases() []Case {
	kept := r.snapshot()
	cases := make([]Case, len(kept))
	for i, c := range kept {
		cases[i] = c.clone()
	}
	return cases
}

// All yields the cases in the order of their first Add, as they are at the moment
// of the call, without copying them: what they hold must not be changed. It is
// for encoders; Cases gives copies.
func (r *Report) All() iter.Seq[Case] {
	kept := r.snapshot()
	return func(yield func(Case) bool) {
		for _, c := range kept {
			if !yield(*c) {
				return
			}
		}
	}
}

// snapshot gives the cases as they are kept: they are replaced, never changed.
func (r *Report) snapshot() []*Case {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.cases)
}

// Case gives the case of that suite and name, and whether there is one.
func (r *Report) Case(suite, name string) (Case, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.index[identity{suite, name}]
	if !ok {
		return Case{}, false
	}
	return r.cases[at].clone(), true
}

// Len is the number of cases.
func (r *Report) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cases)
}

// Counts gives the number of cases by status; a status without a case is not in
// the map.
func (r *Report) Counts() map[Status]int {
	counts := make(map[Status]int)
	for _, c := range r.snapshot() {
		counts[c.Status]++
	}
	return counts
}

// Flaky gives the cases whose attempts both passed and failed or timed out.
func (r *Report) Flaky() []Case {
	var flaky []Case
	for _, c := range r.snapshot() {
		if c.Flaky {
			flaky = append(flaky, c.clone())
		}
	}
	return flaky
}

// Worst is the worst status of all cases; empty for an empty report.
func (r *Report) Worst() Status {
	var worst Status
	for _, c := range r.snapshot() {
		if c.Status.Worse(worst) {
			worst = c.Status
		}
	}
	return worst
}

// ExitCode is what a harness ends with: 1 if any case failed or timed out, else
// 2 if any errored or was aborted, or if there is no case at all (nothing was
// tested, which is no success); else 0.
func (r *Report) ExitCode() int {
	code := 0
	kept := r.snapshot()
	for _, c := range kept {
		switch {
		case c.Status.Bad():
			return 1
		case c.Status == Errored || c.Status == Aborted:
			code = 2
		}
	}
	if len(kept) == 0 {
		return 2
	}
	return code
}

// Elapsed is the time from the earliest known start of an attempt to the latest
// known end of one; zero when no start is known.
func (r *Report) Elapsed() time.Duration {
	var from, to time.Time
	see := func(start time.Time, took time.Duration) {
		if start.IsZero() {
			return
		}
		if from.IsZero() || start.Before(from) {
			from = start
		}
		if end := start.Add(took); end.After(to) {
			to = end
		}
	}
	for _, c := range r.snapshot() {
		see(c.Start, c.Duration)
		for _, a := range c.Attempts {
			see(a.Start, max(a.Took(), a.Phases.Total()))
		}
	}
	return to.Sub(from)
}
