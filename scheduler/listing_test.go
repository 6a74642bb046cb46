package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

func TestField23DifferingListingsAreShownAndTheOddWorkerNamed(t *testing.T) {
	t.Parallel()
	boom := errors.New("import error")
	for _, c := range []struct {
		name string
		all  []Listing
		text string
		want []string
		by   int
	}{
		{"all agree", []Listing{{"a", []string{"x", "y"}, nil}, {"b", []string{"x", "y"}, nil}}, "", []string{"x", "y"}, 2},
		{"the first is odd", []Listing{{"a", []string{"x", "z", "z2"}, nil}, {"b", []string{"x", "y"}, nil}, {"c", []string{"x", "y"}, nil}},
			"a misses 1 (y), lists also 2 (z, z2)\n", []string{"x", "y"}, 2},
		{"another order", []Listing{{"a", []string{"x", "y", "z"}, nil}, {"b", []string{"y", "x", "z"}, nil}}, "b lists 2 at other places\n", []string{"x", "y", "z"}, 1},
		{"a repeat", []Listing{{"a", []string{"x", "y"}, nil}, {"b", []string{"x", "x", "y"}, nil}}, "b lists also 1 (x)\n", []string{"x", "y"}, 1},
		{"an error", []Listing{{"a", nil, boom}, {"b", []string{"x"}, nil}}, "a could not list the tests: import error\n", []string{"x"}, 1},
		{"nothing to run is a listing", []Listing{{"a", nil, nil}, {"b", []string{}, nil}}, "", []string{}, 2},
		{"many", []Listing{{"a", nil, nil}, {"b", nil, nil}, {"c", []string{"1", "2", "3", "4", "5", "6"}, nil}}, "c lists also 6 (1, 2, 3, 4, 5, ...)\n", []string{}, 2},
	} {
		got := CompareListings(c.all)
		assert.Equal(t, c.text, got.String(), c.name)
		assert.Equal(t, c.want, got.Tests, c.name)
		assert.Equal(t, c.by, got.By, c.name)
		assert.Equal(t, Passed, got.Verdict().Status, c.name)
		for _, o := range got.Odd {
			assert.ErrorIs(t, o.Reason(), ErrInfra, c.name)
		}
	}
}

func TestAnErrorWhileListingIsOneErroredResult(t *testing.T) {
	t.Parallel()
	boom, lost := errors.New("import error"), errors.New("connection lost")
	got := CompareListings([]Listing{{"a", []string{"half of it"}, boom}, {"b", nil, lost}})
	assert.Nil(t, got.Tests)
	v := got.Verdict()
	assert.Equal(t, Errored, v.Status)
	for _, err := range []error{boom, lost, ErrInfra} {
		assert.ErrorIs(t, v.Infra, err)
	}
	assert.EqualError(t, v.Infra, "the tests were not listed by any of 2 workers: worker a could not list the tests: import error; worker b could not list the tests: connection lost")
	assert.Equal(t, Errored, CompareListings(nil).Verdict().Status)
}

func TestAListingsDifferenceLeadsFromOneToTheOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 8)
		want, has := names.Draw(t, "want"), names.Draw(t, "has")
		o := difference("w", want, has)
		got := slices.Concat(want, o.Extra)
		for _, m := range o.Missing {
			i := slices.Index(got, m)
			got = slices.Delete(got, i, i+1)
		}
		slices.Sort(got)
		sorted := slices.Sorted(slices.Values(has))
		if !slices.Equal(got, sorted) {
			t.Fatalf("%v and %v differ by %+v", want, has, o)
		}
		if equal := slices.Equal(want, has); equal != (o.Moved == 0 && len(o.Missing) == 0 && len(o.Extra) == 0) {
			t.Fatalf("%v and %v: %+v", want, has, o)
		}
	})
}

func ExampleCompareListings() {
	l := CompareListings([]Listing{
		{Worker: "vm-1", Tests: []string{"TestA", "TestB"}},
		{Worker: "vm-2", Tests: []string{"TestA"}},
		{Worker: "vm-3", Tests: []string{"TestA", "TestB"}},
	})
	fmt.Println(l.Tests, "by", l.By)
	fmt.Print(l)
	// Output:
	// [TestA TestB] by 2
	// vm-2 misses 1 (TestB)
}
