package main

import (
	"iter"
	"log/slog"
	"slices"
	"strings"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// group are tests that go to one worker together.
type group struct {
	name  string // the module and the parameter, such as test_vm.py[vsphere55]
	tests []string
	// provider is the key of the management system that the tests need; empty: none.
	provider string
}

// noParams stands for the parameter of tests that have none.
const noParams = "no params"

// parameter is what stands in a test's brackets: of test_a.py::test_x[one] "one".
func parameter(test string) string {
	_, rest, ok := strings.Cut(test, "[")
	if !ok {
		return noParams
	}
	if i := strings.LastIndex(rest, "]"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// groups generates the groups of a collection, in its order: by module, and in a
// module by parameter. Modules that are listed in several places are several groups.
func groups(collection, providers []string, log *slog.Logger) iter.Seq[group] {
	providers = longestFirst(providers)
	return func(yield func(group) bool) {
		left := len(collection)
		seen := map[string]int{}
		for len(collection) > 0 {
			module, _, _ := strings.Cut(collection[0], "::")
			n := slices.IndexFunc(collection, func(test string) bool {
				other, _, _ := strings.Cut(test, "::")
				return other != module
			})
			if n < 0 {
				n = len(collection)
			}
			var params []string
			by := map[string][]string{}
			for _, test := range collection[:n] {
				p := parameter(test)
				if by[p] == nil {
					params = append(params, p)
				}
				by[p] = append(by[p], test)
			}
			collection = collection[n:]
			for _, p := range params {
				name := module + "[" + p + "]"
				if seen[name]++; seen[name] > 1 {
					name += strings.Repeat("'", seen[name]-1)
				}
				left -= len(by[p])
				log.Info("tests remaining to send", "group", name, "tests", len(by[p]), "remaining", left)
				if !yield(group{name, by[p], provider(p, providers)}) {
					return
				}
			}
		}
	}
}

// longestFirst gives the providers' keys once each, the longest first: vsphere55 is
// a part of vsphere55-nested, and must not be taken for it.
func longestFirst(keys []string) []string {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	slices.SortStableFunc(keys, func(a, b string) int { return len(b) - len(a) })
	return keys
}

// provider gives the longest key that is in a parameter.
func provider(param string, longestFirst []string) string {
	if param == noParams {
		return ""
	}
	for _, key := range longestFirst {
		if strings.Contains(param, key) {
			return key
		}
	}
	return ""
}

// tasks makes a group what the scheduler is given: it stays in one batch, and prefers
// workers that know its provider.
func (g group) tasks(s suite) []scheduler.Task[string] {
	all := make([]scheduler.Task[string], len(g.tests))
	for i, test := range g.tests {
		// They wait as long as others run: the run ends when no worker is left.
		all[i] = scheduler.Task[string]{ID: test, Group: g.name, Affinity: g.provider, Timeout: s.timeout(), PendingLimit: -1, Payload: test}
	}
	return all
}

// choose keeps the tests that are asked for: those whose id begins with one of the
// words; all where there is none.
func choose(collection, words []string) []string {
	if len(words) == 0 {
		return collection
	}
	return slices.DeleteFunc(slices.Clone(collection), func(test string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(test, w) })
	})
}
