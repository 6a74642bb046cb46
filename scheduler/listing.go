package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// Listing is what one worker says that there is to run.
type Listing struct {
	Worker string
	Tests  []string // in the order in which they were listed
	Err    error    // it could not list them; Tests do not count then
}

// Listings is what a comparison of listings gives.
type Listings struct {
	// Tests is what most workers agree on; of listings that are equally many
	// that of the worker that comes first. nil when no worker could list.
	Tests []string
	// By is how many workers agree on it.
	By int
	// Odd are the workers that list something else, or nothing, in the order
	// in which they came.
	Odd []OddListing
}

// OddListing says how one worker's listing differs from that of most.
type OddListing struct {
	Worker  string
	Missing []string // in the order of those that agree
	Extra   []string // in its own order; what it lists twice is here too
	Moved   int      // how many stand at another place, where nothing is missing or extra
	Err     error    // it could not list
}

// CompareListings compares what several workers list, order and repeats
// included: tests that are named by their place are others when the order is.
// It changes nothing and starts nothing. What to do with the odd ones: return
// OddListing.Reason from Worker.Run, so that the worker is released with it
// and replaced. Listings.Verdict is the one result for tests that nobody could
// list.
func CompareListings(all []Listing) Listings {
	var out Listings
	var kinds, counts []int // the first listing of each kind, and how many are like it
	best := -1
	for i := range all {
		if all[i].Err != nil {
			continue
		}
		k := slices.IndexFunc(kinds, func(first int) bool { return slices.Equal(all[first].Tests, all[i].Tests) })
		if k < 0 {
			k = len(kinds)
			kinds, counts = append(kinds, i), append(counts, 0)
		}
		counts[k]++
	}
	for k, n := range counts {
		if n > out.By {
			best, out.By = kinds[k], n
		}
	}
	if best >= 0 {
		out.Tests = append([]string{}, all[best].Tests...)
	}
	for i := range all {
		l := &all[i]
		switch {
		case l.Err != nil:
			out.Odd = append(out.Odd, OddListing{Worker: l.Worker, Err: l.Err})
		case !slices.Equal(out.Tests, l.Tests):
			out.Odd = append(out.Odd, difference(l.Worker, out.Tests, l.Tests))
		}
	}
	return out
}

func difference(worker string, want, has []string) OddListing {
	o := OddListing{Worker: worker}
	left := make(map[string]int, len(want))
	for _, name := range has {
		left[name]++
	}
	for _, name := range want {
		if left[name] == 0 {
			o.Missing = append(o.Missing, name)
			continue
		}
		left[name]--
	}
	for i := len(has) - 1; i >= 0; i-- { // of repeats the last is too many
		if name := has[i]; left[name] > 0 {
			left[name]--
			o.Extra = append(o.Extra, name)
		}
	}
	slices.Reverse(o.Extra)
	if len(o.Missing) == 0 && len(o.Extra) == 0 {
		for i := range want {
			if want[i] != has[i] {
				o.Moved++
			}
		}
	}
	return o
}

// String says what differs: "vm-2 misses 1 (TestB), lists also 2 (TestX, TestY)".
func (o OddListing) String() string {
	var parts []string
	switch {
	case o.Err != nil:
		parts = append(parts, "could not list the tests: "+o.Err.Error())
	case o.Moved > 0:
		parts = append(parts, fmt.Sprintf("lists %d at other places", o.Moved))
	}
	for _, side := range []struct {
		what  string
		names []string
	}{{"misses", o.Missing}, {"lists also", o.Extra}} {
		if n := len(side.names); n > 0 {
			text := strings.Join(side.names[:min(n, mostNamed)], ", ")
			if n > mostNamed {
				text += ", ..."
			}
			parts = append(parts, fmt.Sprintf("%s %d (%s)", side.what, n, text))
		}
	}
	return o.Worker + " " + strings.Join(parts, ", ")
}

// Reason is the error with which the worker is to be given back: one of the
// environment.
func (o OddListing) Reason() error {
	if o.Err != nil {
		return Infra(fmt.Errorf("worker %s could not list the tests: %w", o.Worker, o.Err))
	}
	return Infra(fmt.Errorf("the listing differs from that of the other workers: %s", o))
}

// String shows the differences, a line per odd worker; empty when all agree.
func (l Listings) String() string {
	var s strings.Builder
	for _, o := range l.Odd {
		s.WriteString(o.String())
		s.WriteByte('\n')
	}
	return s.String()
}

// Verdict is passed when there is a listing to run by, though some workers be
// odd; else it is the one errored result of the whole listing, with the error
// of each worker.
func (l Listings) Verdict() Verdict {
	if l.By > 0 {
		return Verdict{Status: Passed}
	}
	if len(l.Odd) == 0 {
		return Verdict{Status: Errored, Infra: Infra(fmt.Errorf("the tests were not listed: there was no worker"))}
	}
	err := fmt.Errorf("the tests were not listed by any of %d workers: %w", len(l.Odd), l.Odd[0].Reason())
	for _, o := range l.Odd[1:] {
		err = fmt.Errorf("%w; %w", err, o.Reason())
	}
	return Verdict{Status: Errored, Infra: Infra(err)}
}
