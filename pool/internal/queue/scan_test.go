package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// fleet is what a pool without an index would keep: a list of machines and a list
// of waiters, both looked through from the start. Labels and templates are those of
// the queue beside it.
type fleet struct {
	machines []scanned
	waiters  []wanted
}

type scanned struct {
	free     bool
	template string
	labels   map[string]string
}

type wanted struct {
	template string
	labels   map[string]string
}

func (m *scanned) fits(w *wanted) bool {
	if m.template != w.template {
		return false
	}
	for k, v := range w.labels {
		if m.labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fleet) acquire(w *wanted) *scanned {
	for i := range f.machines {
		if m := &f.machines[i]; m.free && m.fits(w) {
			m.free = false
			return m
		}
	}
	return nil
}

// release gives the machine to the first waiter that it fits.
func (f *fleet) release(m *scanned) *wanted {
	for i := range f.waiters {
		if m.fits(&f.waiters[i]) {
			return &f.waiters[i]
		}
	}
	m.free = true
	return nil
}

const (
	fleetMachines = 10_000
	fleetKinds    = 100 // sets of labels: 10 systems in 10 zones
)

func kind(n int) map[string]string {
	return labels("os", fmt.Sprintf("system-%d", n%10), "zone", fmt.Sprintf("zone-%d", n/10))
}

// busyFleet gives 10,000 machines in no order of which one of each kind is free,
// as they are in a pool that is in use.
func busyFleet() (*fleet, *Queue[int, int]) {
	f, q := &fleet{}, New[int, int]()
	seen := make([]bool, fleetKinds)
	for i, n := range rand.New(rand.NewPCG(1, 2)).Perm(fleetMachines) {
		k := n % fleetKinds
		m := scanned{template: "t", labels: kind(k), free: n/fleetKinds == 0}
		f.machines = append(f.machines, m)
		if class := q.Class("t", m.labels); m.free {
			q.Offer(&Item[int, int]{Value: i, Class: class})
			seen[k] = true
		}
	}
	for k, ok := range seen {
		if !ok {
			panic(fmt.Sprintf("no machine of kind %d is free", k))
		}
	}
	return f, q
}

// BenchmarkAcquireWithLabels takes a machine by template and two labels out of
// 10,000 of which 100 are free, and gives it back, with nobody waiting.
func BenchmarkAcquireWithLabels(b *testing.B) {
	f, q := busyFleet()
	var wants []wanted
	for _, k := range rand.New(rand.NewPCG(3, 4)).Perm(fleetKinds) {
		wants = append(wants, wanted{"t", kind(k)})
	}
	b.Run("queue", func(b *testing.B) {
		w := &tw{Need: 1}
		for i := range b.N {
			want := &wants[i%len(wants)]
			w.Demand, w.seq = q.Demand(want.template, want.labels), 0
			if !q.Add(w) {
				b.Fatal("no machine, though one is free")
			}
			item := w.Got[0]
			w.Leave()
			q.Offer(item)
		}
	})
	b.Run("scan", func(b *testing.B) {
		for i := range b.N {
			m := f.acquire(&wants[i%len(wants)])
			if m == nil {
				b.Fatal("no machine, though one is free")
			}
			f.release(m)
		}
	})
}

// BenchmarkReleaseWhomNothingFits gives a machine back, out of 10,000, while 10,000
// wait for labels that no machine has. What is reported is 1,000 of that.
func BenchmarkReleaseWhomNothingFits(b *testing.B) {
	f, q := busyFleet()
	for i := range fleetMachines {
		l := labels("os", "system-1", "serial", fmt.Sprint(i))
		f.waiters = append(f.waiters, wanted{"t", l})
		q.Add(&tw{Demand: q.Demand("t", l), Need: 1})
	}
	report := func(b *testing.B) {
		b.ReportMetric(1000*float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/thousand")
	}
	b.Run("queue", func(b *testing.B) {
		items := make([]*ti, fleetKinds)
		for k := range items {
			items[k] = &ti{Class: q.Class("t", kind(k))}
		}
		b.ResetTimer()
		for i := range b.N {
			item := items[i%fleetKinds]
			if q.Offer(item) != nil {
				b.Fatal("it went to somebody whom it does not fit")
			}
			q.Take(item)
		}
		report(b)
	})
	b.Run("scan", func(b *testing.B) {
		for i := range b.N {
			m := &f.machines[i%len(f.machines)]
			if f.release(m) != nil {
				b.Fatal("it went to somebody whom it does not fit")
			}
			m.free = false
		}
		report(b)
	})
}
