package queue

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Demands and classes in any order against the words of their documentation: a
// demand accepts the classes of its template, or of any, that have its labels; and
// equal arguments give the same one, others another one.
func TestADemandAcceptsTheClassesThatHaveItsTemplateAndLabels(t *testing.T) {
	t.Parallel()
	templates := rapid.SampledFrom([]string{"", "a", "b", "aa"})
	some := rapid.MapOfN(rapid.SampledFrom([]string{"os", "zone", "o"}), rapid.SampledFrom([]string{"", "1", "2"}), 0, 3)
	type asked struct {
		template string
		labels   map[string]string
	}
	rapid.Check(t, func(t *rapid.T) {
		q := New[int, int]()
		demands, classes := map[*Demand[int, int]]asked{}, map[*Class[int, int]]asked{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			a := asked{templates.Draw(t, "template"), some.Draw(t, "labels")}
			if rapid.Bool().Draw(t, "nil") && len(a.labels) == 0 {
				a.labels = nil
			}
			if rapid.Bool().Draw(t, "class") {
				c := q.Class(a.template, a.labels)
				if had, ok := classes[c]; ok && (had.template != a.template || !maps.Equal(had.labels, a.labels)) {
					t.Fatalf("the class of %v is given for %v", had, a)
				}
				classes[c] = a
			} else {
				d := q.Demand(a.template, a.labels)
				if had, ok := demands[d]; ok && (had.template != a.template || !maps.Equal(had.labels, a.labels)) {
					t.Fatalf("the demand of %v is given for %v", had, a)
				}
				demands[d] = a
				if again := q.Demand(a.template, maps.Clone(a.labels)); again != d {
					t.Fatalf("two demands for %v", a)
				}
			}
			for d, want := range demands {
				n := 0
				for c, have := range classes {
					fits := want.template == "" || want.template == have.template
					for k, v := range want.labels {
						value, ok := have.labels[k]
						fits = fits && ok && value == v
					}
					if d.Accepts(c) != fits {
						t.Fatalf("a demand for %v accepts %v: %t", want, have, d.Accepts(c))
					}
					if fits {
						n++
					}
				}
				if len(d.Classes()) != n {
					t.Fatalf("a demand for %v lists %d classes, want %d", want, len(d.Classes()), n)
				}
			}
		}
	})
}

func TestADemandsLabelsAreItsOwn(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	asked := labels("os", "x")
	d := q.Demand("a", asked)
	asked["os"] = "y"
	assert.True(t, d.Accepts(q.Class("a", labels("os", "x"))))
	assert.False(t, d.Accepts(q.Class("a", labels("os", "y"))))
}

func TestRemoveLeavesOneWhoDoesNotWaitAsItIs(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c, d := q.Class("a", nil), q.Demand("a", nil)
	granted, other := &tw{Demand: d, Need: 1}, &tw{Demand: d, Need: 1}
	q.Add(granted)
	q.Add(other)
	m := &ti{Class: c}
	require.Same(t, granted, q.Offer(m))
	assert.Empty(t, q.Remove(granted), "it has its machine, and keeps it")
	assert.Equal(t, []*ti{m}, granted.Got)
	assert.Equal(t, 1, q.Waiting())
	assert.Equal(t, 1, d.Needed())
	granted.Leave()
	q.Remove(other)
	assert.Empty(t, q.Remove(other), "nor is one removed twice")
	assert.Zero(t, q.Waiting())
	assert.Zero(t, d.Needed())
	assert.Nil(t, q.Offer(m))
}
