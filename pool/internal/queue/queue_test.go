package queue

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type (
	tq = Queue[int, int]
	ti = Item[int, int]
	tw = Waiter[int, int]
)

func labels(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func TestTheOldestWaiterGetsTheMachine(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	var ws []*tw
	for i := range 3 {
		w := &tw{Value: i, Demand: d, Need: 1}
		require.False(t, q.Add(w))
		ws = append(ws, w)
		assert.Equal(t, i, q.Place(w))
	}
	item := &ti{Value: 7, Class: c}
	for i := range 3 {
		got := q.Offer(item)
		require.Same(t, ws[i], got)
		assert.Equal(t, -1, q.Place(got))
		got.Leave()
	}
	assert.Nil(t, q.Offer(item))
	assert.True(t, item.Free())
	assert.Equal(t, 1, c.Free())
	assert.True(t, q.Take(item))
	assert.False(t, q.Take(item))
}

func TestPriorityGoesBeforeArrival(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", labels("os", "x"))
	low := &tw{Demand: q.Demand("", labels("os", "x")), Need: 1}
	high := &tw{Demand: q.Demand("a", nil), Need: 1, Priority: 5}
	q.Add(low)
	q.Add(high)
	assert.Equal(t, 1, q.Place(low))
	assert.Same(t, high, q.Offer(&ti{Class: c}))
	assert.Same(t, low, q.Offer(&ti{Class: c}))
}

func TestWantingSeveralReservesAtItsTurn(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	all := &tw{Value: 1, Demand: d, Need: 2}
	one := &tw{Value: 2, Demand: d, Need: 1}
	q.Add(all)
	q.Add(one)
	first := &ti{Class: c}
	assert.Nil(t, q.Offer(first), "reserved")
	assert.Same(t, all, first.Reserved())
	assert.Equal(t, 2, d.Needed())
	granted := q.Remove(all)
	require.Len(t, granted, 1, "what it had goes to the next")
	assert.Same(t, one, granted[0])
	assert.Equal(t, 0, q.Waiting())
}

func TestTwoWhoWantAllDoNotDeadlock(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	low := &tw{Demand: d, Need: 2}
	q.Add(low)
	m1, m2 := &ti{Value: 1, Class: c}, &ti{Value: 2, Class: c}
	q.Offer(m1)
	high := &tw{Demand: d, Need: 2, Priority: 1}
	assert.False(t, q.Add(high))
	assert.Same(t, high, m1.Reserved(), "the first of all takes what those behind collect")
	assert.Same(t, high, q.Offer(m2))
	high.Leave()
	q.Offer(m1)
	assert.Same(t, low, q.Offer(m2))
}

func TestAvoidedMachinesAreTakenOnlyWhenNoOtherIsFree(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	for i := range 3 {
		q.Offer(&ti{Value: i, Class: c})
	}
	w := &tw{Demand: d, Need: 1, Avoid: func(v int) bool { return v > 0 }}
	require.True(t, q.Add(w))
	assert.Equal(t, 0, w.Got[0].Value)
	v := &tw{Demand: d, Need: 1, Avoid: func(v int) bool { return true }}
	require.True(t, q.Add(v), "an avoided one is better than none")
}

func TestALateGrantGivesTheOldPlaceBack(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	first, second := &tw{Demand: d, Need: 1}, &tw{Demand: d, Need: 1}
	q.Add(first)
	q.Add(second)
	m := &ti{Class: c}
	require.Same(t, first, q.Offer(m))
	first.Leave() // the machine was found dead
	q.Add(first)
	assert.Equal(t, 0, q.Place(first))
	assert.Same(t, first, q.Offer(m))
}

func TestTryNeverQueues(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	w := &tw{Demand: q.Demand("", nil), Need: 2}
	q.Offer(&ti{Class: c})
	assert.False(t, q.Try(w))
	assert.Equal(t, 1, c.Free())
	q.Offer(&ti{Class: c})
	assert.True(t, q.Try(w))
	assert.Len(t, w.Got, 2)
}

func TestDroppedMachinesAreNotHandedOut(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	c := q.Class("a", nil)
	d := q.Demand("a", nil)
	w := &tw{Demand: d, Need: 2}
	q.Add(w)
	m := &ti{Class: c}
	q.Offer(m)
	require.True(t, q.Drop(m))
	assert.Equal(t, 2, w.Lacks())
	assert.Equal(t, 2, d.Needed())
	assert.False(t, q.Drop(m))
	f := &ti{Class: c}
	q.Remove(w)
	q.Offer(f)
	require.True(t, q.Drop(f))
	assert.Zero(t, c.Free())
}

func TestUniqueLabelsAreForgotten(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	q.Class("a", nil)
	kept := q.Demand("a", labels("kept", "1"))
	q.Add(&tw{Demand: kept, Need: 1})
	for i := range 10 * maxIdleDemands {
		q.Demand("a", labels("run", fmt.Sprint(i)))
	}
	assert.LessOrEqual(t, len(q.demands), 2*maxIdleDemands+2)
	assert.Same(t, kept, q.Demand("a", labels("kept", "1")))
}

func TestADemandThatWasForgottenStillWaits(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	d := q.Demand("a", nil)
	delete(q.demands, d.key)
	w := &tw{Demand: d, Need: 1}
	q.Add(w)
	c := q.Class("a", nil) // a class that appears later serves it
	assert.Same(t, w, q.Offer(&ti{Class: c}))
}

func TestLabelKeysDoNotRunIntoEachOther(t *testing.T) {
	t.Parallel()
	assert.NotEqual(t, labelKey(labels("a", "bc")), labelKey(labels("ab", "c")))
	assert.NotEqual(t, labelKey(labels("a", "b", "c", "d")), labelKey(labels("a", "b\x01c\x01d")))
	long := string(make([]byte, 300))
	assert.NotEqual(t, labelKey(labels(long, "")), labelKey(labels("", long)))
}

func TestWalkGoesInOrderAndSkips(t *testing.T) {
	t.Parallel()
	q := New[int, int]()
	a, b := q.Demand("a", nil), q.Demand("b", nil)
	for i := range 6 {
		d := a
		if i%2 == 1 {
			d = b
		}
		q.Add(&tw{Value: i, Demand: d, Need: 1, Priority: i / 4})
	}
	var got []int
	q.Walk(func(w *tw) Next { got = append(got, w.Value); return Go })
	assert.Equal(t, []int{4, 5, 0, 1, 2, 3}, got)
	got = nil
	q.Walk(func(w *tw) Next {
		got = append(got, w.Value)
		if w.Demand == a {
			return SkipDemand
		}
		if len(got) == 3 {
			return Stop
		}
		return Go
	})
	assert.Equal(t, []int{4, 5, 1}, got)
	q2 := New[int, int]()
	q2.Walk(func(*tw) Next { t.Fatal("empty"); return Go })
	d := q2.Demand("", nil)
	q2.Add(&tw{Demand: d, Need: 1, Value: 1})
	q2.Add(&tw{Demand: d, Need: 1, Value: 2, Priority: 1})
	got = nil
	q2.Walk(func(w *tw) Next { got = append(got, w.Value); return Go })
	assert.Equal(t, []int{2, 1}, got)
}

// The queue against its rule: programs of arrivals, cancellations, offers,
// takes, drops and returns.
func TestNobodyIsOvertaken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := New[int, int]()
		templates := []string{"a", "b"}
		oses := []string{"x", "y"}
		var classes []*Class[int, int]
		for _, tp := range templates {
			for _, os := range oses {
				classes = append(classes, q.Class(tp, labels("os", os)))
			}
		}
		var waiting []*tw
		var out []*ti // with holders
		var all []*ti
		grant := func(w *tw) {
			if w.Lacks() != 0 || w.Queued() {
				t.Fatalf("granted with %d lacking, queued %v", w.Lacks(), w.Queued())
			}
			for _, i := range w.Got {
				if !w.Demand.Accepts(i.Class) {
					t.Fatalf("got a machine that it does not accept")
				}
				out = append(out, i)
			}
			w.Leave()
			waiting = slices.DeleteFunc(waiting, func(v *tw) bool { return v == w })
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1:
				w := &tw{Need: 1, Priority: rapid.IntRange(0, 2).Draw(t, "priority")}
				if rapid.Bool().Draw(t, "several") {
					w.Need = rapid.IntRange(2, 3).Draw(t, "need")
				}
				tp := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "template")
				var l map[string]string
				if os := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "os"); os != "" {
					l = labels("os", os)
				}
				w.Demand = q.Demand(tp, l)
				waiting = append(waiting, w)
				if q.Add(w) {
					grant(w)
				}
			case 2:
				if len(waiting) > 0 {
					w := rapid.SampledFrom(waiting).Draw(t, "leaves")
					waiting = slices.DeleteFunc(waiting, func(v *tw) bool { return v == w })
					for _, g := range q.Remove(w) {
						grant(g)
					}
				}
			case 3:
				i := &ti{Value: len(all), Class: rapid.SampledFrom(classes).Draw(t, "class")}
				all = append(all, i)
				out = append(out, i)
				fallthrough
			case 4, 5:
				if len(out) == 0 {
					continue
				}
				n := rapid.IntRange(0, len(out)-1).Draw(t, "back")
				i := out[n]
				out = slices.Delete(out, n, n+1)
				var want *tw
				for _, w := range waiting {
					if w.Demand.Accepts(i.Class) && (want == nil || w.before(want)) {
						want = w
					}
				}
				had := 0
				if want != nil {
					had = len(want.Got)
				}
				g := q.Offer(i)
				if want == nil && (g != nil || !i.Free()) || want != nil && g == nil && len(want.Got) != had+1 || g != nil && g != want {
					t.Fatalf("the machine did not go to the first who accepts it")
				}
				if g != nil {
					grant(g)
				}
			case 6:
				if len(all) == 0 {
					continue
				}
				i := rapid.SampledFrom(all).Draw(t, "drop")
				if i.Free() && rapid.Bool().Draw(t, "take") {
					q.Take(i)
					out = append(out, i)
				} else if q.Drop(i) {
					out = append(out, i)
				}
			}
			checkRule(t, q, waiting, all, out)
		}
	})
}

func checkRule(t *rapid.T, q *tq, waiting []*tw, all, out []*ti) {
	needed := map[*Demand[int, int]]int{}
	for _, w := range waiting {
		if !w.Queued() || w.Lacks() <= 0 {
			t.Fatalf("waits with %d lacking, queued %v", w.Lacks(), w.Queued())
		}
		needed[w.Demand] += w.Lacks()
		for _, i := range all {
			if !w.Demand.Accepts(i.Class) {
				continue
			}
			if i.Free() {
				t.Fatalf("a machine is free that a waiter accepts")
			}
			if v := i.Reserved(); v != nil && w.before(v) {
				t.Fatalf("a machine is reserved for one behind")
			}
		}
		before := 0
		for _, v := range waiting {
			if v.before(w) {
				before++
			}
		}
		if q.Place(w) != before {
			t.Fatalf("place %d, want %d", q.Place(w), before)
		}
	}
	freeCount := map[*Class[int, int]]int{}
	for _, i := range all {
		places := 0
		if i.Free() {
			places++
			freeCount[i.Class]++
		}
		if v := i.Reserved(); v != nil {
			places++
			if !slices.Contains(v.Got, i) || !v.Queued() {
				t.Fatalf("reserved for one who does not know")
			}
		}
		if slices.Contains(out, i) {
			places++
		}
		if places != 1 {
			t.Fatalf("a machine is in %d places", places)
		}
	}
	for _, c := range q.list {
		n := 0
		c.EachFree(func(int) bool { n++; return true })
		if c.Free() != freeCount[c] || n != freeCount[c] {
			t.Fatalf("class counts %d and lists %d free, want %d", c.Free(), n, freeCount[c])
		}
		for _, d := range c.active {
			if d.Waiting() == 0 {
				t.Fatalf("active without waiters")
			}
		}
	}
	for _, d := range q.Active() {
		if d.Needed() != needed[d] {
			t.Fatalf("needed is %d, want %d", d.Needed(), needed[d])
		}
	}
	if q.Waiting() != len(waiting) {
		t.Fatalf("waiting %d, want %d", q.Waiting(), len(waiting))
	}
	last := (*tw)(nil)
	q.Walk(func(w *tw) Next {
		if last != nil && !last.before(w) {
			t.Fatalf("walk out of order")
		}
		last = w
		return Go
	})
}

func BenchmarkUncontended(b *testing.B) {
	q := New[int, int]()
	c := q.Class("a", nil)
	item := &ti{Class: c}
	q.Offer(item)
	w := &tw{Need: 1}
	b.ReportAllocs()
	for b.Loop() {
		w.Demand = q.Demand("a", nil)
		w.seq = 0
		if !q.Add(w) {
			b.Fatal("not granted")
		}
		w.Leave()
		q.Offer(item)
	}
}

func BenchmarkReleaseWithWaitersWhomNothingFits(b *testing.B) {
	q := New[int, int]()
	c := q.Class("a", nil)
	for i := range 10000 {
		q.Add(&tw{Demand: q.Demand("b", labels("n", fmt.Sprint(i))), Need: 1})
	}
	item := &ti{Class: c}
	b.ReportAllocs()
	for b.Loop() {
		q.Offer(item)
		q.Take(item)
	}
}
