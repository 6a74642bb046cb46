package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

var nobody = slog.New(slog.DiscardHandler)

func TestGroupsAreGeneratedByModuleAndParameter(t *testing.T) {
	t.Parallel()
	var got []string
	for g := range groups([]string{"a::x", "a::y[p1]", "a::z[p2]", "a::w[p1]", "b::x[p1]", "a::late"}, []string{"p"}, nobody) {
		got = append(got, fmt.Sprint(g.name, " ", g.tests, " ", g.provider))
	}
	assert.Equal(t, []string{
		"a[no params] [a::x] ", "a[p1] [a::y[p1] a::w[p1]] p", "a[p2] [a::z[p2]] p", "b[p1] [b::x[p1]] p", "a[no params]' [a::late] ",
	}, got)
	n := 0
	for range groups([]string{"a::x", "b::x", "c::x"}, nil, nobody) {
		if n++; n == 2 {
			break // a generator: nothing is made that nobody wants
		}
	}
	assert.Equal(t, 2, n)
}

func TestTheLongestProviderIsTheOneThatATestNeeds(t *testing.T) {
	t.Parallel()
	keys := longestFirst([]string{"vsphere55", "rhv41", "vsphere55-nested", "rhv41", "vsphere6"})
	assert.Equal(t, []string{"vsphere55-nested", "vsphere55", "vsphere6", "rhv41"}, keys, "longest first, each once")
	for test, want := range map[string]string{
		"m::t[vsphere55]": "vsphere55", "m::t[vsphere55-nested]": "vsphere55-nested", "m::t[x-rhv41-y]": "rhv41", "m::t[none]": "", "m::t": "", "m::t[a[rhv41]]": "rhv41",
	} {
		assert.Equal(t, want, provider(parameter(test), keys), test)
	}
}

func TestEachTestIsInOneGroupInTheOrderOfTheCollection(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		collection := rapid.SliceOfDistinct(rapid.StringMatching(`[ab]::[a-d](\[[pq]\]?)?`), func(s string) string { return s }).Draw(t, "collection")
		names := map[string]bool{}
		var all []string
		for g := range groups(collection, []string{"p", "q"}, nobody) {
			if len(g.tests) == 0 || names[g.name] {
				t.Fatalf("group %s has %d tests, or is there twice", g.name, len(g.tests))
			}
			names[g.name] = true
			if !slices.IsSortedFunc(g.tests, func(a, b string) int { return slices.Index(collection, a) - slices.Index(collection, b) }) {
				t.Fatalf("%v is not in the order of %v", g.tests, collection)
			}
			for _, test := range g.tests {
				if parameter(test) != parameter(g.tests[0]) || !strings.HasPrefix(test, g.tests[0][:1]) {
					t.Fatalf("%v does not belong together", g.tests)
				}
			}
			all = append(all, g.tests...)
		}
		slices.Sort(all)
		want := slices.Sorted(slices.Values(collection))
		if !slices.Equal(all, want) {
			t.Fatalf("%v, want %v", all, want)
		}
	})
}
