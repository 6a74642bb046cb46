package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// outcome is what a simulated run of tasks came to.
type outcome struct {
	took         time.Duration // virtual
	cold, forked int64
	inserted     time.Duration // in waiting for inputs
	busiest      float64       // the share of the tasks that the busiest host did
}

func (o outcome) String() string {
	return fmt.Sprintf("%v for all tasks, %d machines booted from cold, %d made from a parent, %v spent on inputs, the busiest host did %.2f of it",
		o.took.Round(time.Second), o.cold, o.forked, o.inserted.Round(time.Second), o.busiest)
}

// blinded hides from the pool, not from the boots of machines, what a host has:
// that is placement by load alone.
func blinded(d vm.Driver) vm.Driver {
	return vm.Intercept(d, vm.Interceptor{Call: func(ctx context.Context, op string, _ vm.ID, _ any, do func(context.Context) error) error {
		if at, ok := ctx.Deadline(); (op == vm.OpParents || op == vm.OpStock) && ok && time.Until(at) <= askTimeout {
			return errTest // boots ask without such a bound
		}
		return do(ctx)
	}})
}

// placing is a simulated run of tasks.
type placing struct {
	parents []string // by host; empty: it has none
	slots   int
	c       Config
	callers int
	want    func(*rand.Rand) (Want, vm.Image)
}

const placed = 600 // tasks

func (s placing) run(t *testing.T, blind bool, seed uint64) (out outcome) {
	var hyper []*fake.Hypervisor
	var drivers []vm.Driver
	c := s.c
	c.Leases = manager(t, lease.NewMemStore())
	for i, parent := range s.parents {
		h := fake.NewHypervisor(fake.Config{HostID: fmt.Sprint("h", i), Times: fake.Times{Create: time.Second, Boot: 3 * time.Minute, Fork: time.Second, Insert: 20 * time.Second}})
		if parent != "" {
			withParent(t, h, parent)
		}
		var d vm.Driver = h.Driver()
		if blind {
			d = blinded(d)
		}
		hyper, drivers = append(hyper, h), append(drivers, d)
		c.Hosts = append(c.Hosts, Host{Driver: d, Slots: s.slots})
	}
	p, err := New(c)
	require.NoError(t, err)
	time.Sleep(5 * time.Minute) // what is to be ready is
	begun := time.Now()
	var mu sync.Mutex
	done := map[string]int{}
	var all sync.WaitGroup
	for i := range s.callers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), seed))
			for range placed / s.callers {
				want, in := s.want(r)
				g, err := p.Acquire(t.Context(), want)
				if err != nil {
					t.Error(err)
					return
				}
				before := time.Now()
				if in != nil {
					a, _ := vm.As[vm.Attacher](g.Machine())
					err = a.Insert(t.Context(), 0, in)
				}
				mu.Lock()
				out.inserted += time.Since(before)
				done[g.Host()]++
				mu.Unlock()
				time.Sleep(time.Duration(5+r.IntN(20)) * time.Second)
				if err := errors.Join(err, g.Release(t.Context(), nil)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Duration(r.IntN(40)) * time.Second)
			}
		})
	}
	all.Wait()
	out.took = time.Since(begun)
	st := p.Stats()
	out.cold, out.forked = st.Cold, st.FromParent
	for _, n := range done {
		out.busiest = max(out.busiest, float64(n)/placed)
	}
	require.NoError(t, p.Close(t.Context()))
	require.NoError(t, c.Leases.Close(t.Context()))
	for i, d := range drivers {
		require.NoError(t, d.Close())
		require.NoError(t, hyper[i].Close())
	}
	return out
}

// both runs the same tasks on the same hosts with placement by what they have,
// and by load alone.
func (s placing) both(t *testing.T) (with, without outcome) {
	sum := func(name string, blind bool) (all outcome) {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(name, ", ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := s.run(t, blind, seed)
					all.took, all.cold, all.forked, all.inserted = all.took+o.took, all.cold+o.cold, all.forked+o.forked, all.inserted+o.inserted
					all.busiest = max(all.busiest, o.busiest)
				})
			})
		}
		t.Logf("%s: %v", name, all)
		return all
	}
	return sum("by what hosts have", false), sum("by load alone", true)
}

// digestOf is an input of which only the digest counts.
type digestOf int

func (d digestOf) Digest() string                        { return fmt.Sprint("sha256:", int(d)) }
func (digestOf) Size() int64                             { return 0 }
func (digestOf) ReadAt([]byte, int64) (n int, err error) { return 0, nil }

func TestPlacingByParentsSavesColdBoots(t *testing.T) {
	s := placing{parents: []string{"px", "px", "px", "py", "py", "py", "", ""}, slots: 4, callers: 14}
	for _, n := range []string{"x", "y"} {
		s.c.Templates = append(s.c.Templates, Template{Name: n, Parent: "p" + n, Idle: IdleFor(30 * time.Second)})
	}
	s.want = func(r *rand.Rand) (Want, vm.Image) { return Want{Template: []string{"x", "y"}[r.IntN(2)]}, nil }
	with, without := s.both(t)
	require.Less(t, 2*with.cold, without.cold, "cold boots")
	require.Less(t, with.took, without.took*11/10, "makespan: it is shorter by a tenth or two")
	require.Less(t, with.busiest, 0.5, "one host does it all")
}

func TestPlacingByInputsSavesTheirWay(t *testing.T) {
	s := placing{parents: make([]string, 6), slots: 12, callers: 12}
	s.c.Templates = []Template{{Name: "x", Ready: 72, Snapshot: "clean", Probe: snapshotOnce}}
	s.want = func(r *rand.Rand) (Want, vm.Image) {
		in := digestOf(r.IntN(60))
		return Want{Inputs: []string{in.Digest()}}, in
	}
	with, without := s.both(t)
	require.Less(t, 2*with.inserted, without.inserted, "time spent on inputs")
	require.Less(t, with.took, without.took*11/10, "makespan: it is shorter by a tenth or two")
	require.Less(t, with.busiest, 0.5, "one host does it all")
}
