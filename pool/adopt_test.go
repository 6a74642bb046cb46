package pool

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// survivors leaves machines of a run of pool p behind that ended without Close:
// two ready ones in slots 0 and 1, and a used one. The store and the hypervisor
// go on.
func survivors(t *testing.T, h *fake.Hypervisor, template Template) (*lease.MemStore, []string) {
	t.Helper()
	store := lease.NewMemStore()
	cut := &cutStore{MemStore: store}
	m := manager(t, cut)
	d := h.Driver()
	first, err := New(Config{Name: "p", Run: Run{ID: "first"}, Leases: m, Hosts: []Host{{Name: "h", Driver: d, Slots: 3}}, Templates: []Template{template}})
	require.NoError(t, err)
	g, err := first.Acquire(t.Context(), Want{})
	require.NoError(t, err)
	_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
	require.NoError(t, err)
	time.Sleep(10 * time.Second)
	require.Equal(t, 2, first.Stats().Ready)
	used := g.Name()
	// Its process ends: nobody renews, and nothing is destroyed.
	cut.cut.Store(true)
	time.Sleep(2 * lease.DefaultTTL)
	_ = first.Close(t.Context())
	_ = m.Close(t.Context())
	require.NoError(t, d.Close())
	sessions, err := store.List(t.Context(), "session/")
	require.NoError(t, err)
	for _, r := range sessions { // which a proof of its death does as well
		require.NoError(t, store.Delete(t.Context(), r))
	}
	// A lock in a folder of a run, which nobody holds.
	lock := filepath.Join(t.TempDir(), "run-first", "lock")
	require.NoError(t, os.Mkdir(filepath.Dir(lock), 0o700))
	require.NoError(t, os.WriteFile(lock, nil, 0o600))
	change(t, h, func(i vm.Info) vm.Owner {
		i.Owner.Lock = lock
		return i.Owner
	})
	return store, []string{used}
}

// change rewrites the owners of all machines.
func change(t *testing.T, h *fake.Hypervisor, to func(vm.Info) vm.Owner) {
	t.Helper()
	d := h.Driver()
	defer d.Close()
	all, err := d.List(t.Context())
	require.NoError(t, err)
	for _, i := range all {
		m, err := d.Open(t.Context(), i.ID)
		require.NoError(t, err)
		o, ok := vm.As[vm.Owned](m)
		require.True(t, ok)
		require.NoError(t, o.SetOwner(t.Context(), to(i)))
	}
}

func surviving() Template { return Template{Name: "a", Ready: 2, OnExit: vm.Survive} }

func TestMachinesThatSurvivedTheirRunAreAdoptedWhenTheyAreClean(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store, used := survivors(t, h, surviving())
		before := listed(t, h.Driver())
		require.Len(t, before, 3)
		made := h.Made()
		m := manager(t, store)
		var adopted []string
		second, err := New(Config{
			Name: "p", Run: Run{ID: "second"}, Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{surviving()},
			Trace: &Trace{Event: func(e Event) {
				if e.Kind == EventAdopted {
					adopted = append(adopted, e.Machine)
				}
			}},
		})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		s := second.Stats()
		require.EqualValues(t, 2, s.Adopted)
		require.EqualValues(t, 1, s.Leftovers, "the used one")
		require.Equal(t, 2, s.Ready)
		require.Equal(t, made, h.Made(), "none is made")
		require.Len(t, adopted, 3, "all are tried")
		gs, err := second.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		for _, g := range gs {
			require.Contains(t, before, g.Name())
			require.NotContains(t, used, g.Name())
			require.Equal(t, "first", g.Properties()["run"], "as it was told")
			i, err := g.Machine().Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, "second", i.Owner.Run)
			require.Equal(t, m.SessionKey(), i.Owner.Session)
			require.Less(t, i.Owner.Token, g.Token())
			_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
			require.NoError(t, err)
			require.NoError(t, g.Release(t.Context(), nil))
		}
		require.NoError(t, second.Close(t.Context()))
		require.Zero(t, h.Count(), "what was adopted is the pool's like any other")
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestOnlyMachinesThatTheirRunsSuccessorCouldHaveMadeAreAdopted(t *testing.T) {
	for name, c := range map[string]struct {
		template Template
		pool     string
		owner    func(vm.Info) vm.Owner
		slots    int
		left     int // machines of the first run that are not destroyed
	}{
		"another recipe":           {template: Template{Name: "a", Ready: 2, OnExit: vm.Survive, Spec: vm.Spec{CPUs: 2}}},
		"other properties":         {template: Template{Name: "a", Ready: 2, OnExit: vm.Survive, Properties: map[string]string{"x": "y"}}},
		"no template of that name": {template: Template{Name: "b", OnExit: vm.Survive}},
		"not to survive any more":  {template: Template{Name: "a"}},
		"of no recipe": {template: surviving(), owner: func(i vm.Info) vm.Owner {
			i.Owner.Recipe = ""
			return i.Owner
		}},
		"an owner of whom nothing is known": {template: surviving(), owner: func(i vm.Info) vm.Owner {
			i.Owner.Lock = "/nonexistent/lock"
			return i.Owner
		}},
		"another pool in the same store": {template: surviving(), pool: "q"},
		"another store": {template: surviving(), owner: func(i vm.Info) vm.Owner {
			i.Owner.Store = "elsewhere"
			return i.Owner
		}},
		"another store and pool": {template: surviving(), pool: "q", left: 3, owner: func(i vm.Info) vm.Owner {
			i.Owner.Store = "elsewhere"
			return i.Owner
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := hypervisor("h")
				store, _ := survivors(t, h, surviving())
				if c.owner != nil {
					change(t, h, c.owner)
				}
				before := listed(t, h.Driver())
				m := manager(t, store)
				if c.pool == "" {
					c.pool = "p"
				}
				p, err := New(Config{Name: c.pool, Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{c.template}})
				require.NoError(t, err)
				time.Sleep(5 * DefaultPoll)
				require.Zero(t, p.Stats().Adopted)
				left := 0
				for _, id := range listed(t, h.Driver()) {
					for _, b := range before {
						if id == b {
							left++
						}
					}
				}
				require.Equal(t, c.left, left)
				require.NoError(t, p.Close(t.Context()))
				require.NoError(t, m.Close(t.Context()))
				require.NoError(t, h.Close())
			})
		})
	}
}

func TestAUsedMachineThatSurvivedIsRevertedWhereItCanBe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		template := surviving()
		template.Snapshot, template.Probe = "clean", snapshotOnce
		store, used := survivors(t, h, template)
		m := manager(t, store)
		p, err := New(Config{Name: "p", Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{template}})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 3, p.Stats().Adopted)
		require.Contains(t, listed(t, h.Driver()), used[0])
		gs, err := p.AcquireAll(t.Context(), 3, Want{})
		require.NoError(t, err)
		for _, g := range gs {
			require.NoError(t, vm.ProveClean(t.Context(), g.Machine()))
			require.NoError(t, g.Release(t.Context(), nil))
		}
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// FIELD (c) 13: killed between the lease and the ownership.
func TestAnAdoptionThatFailsHalfWayLeavesNothing(t *testing.T) {
	for name, fault := range map[string]fake.Fault{
		"the ownership":        {Op: vm.OpSetOwner, Err: errTest},
		"opening it":           {Op: vm.OpOpen, Err: errTest, Times: 3},
		"its channel":          {Op: vm.OpChannel, Err: errTest},
		"looking at it":        {Op: vm.OpInfo, Err: errTest, Times: 3},
		"the ownership, later": {Op: vm.OpSetOwner, Err: errTest, Late: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := hypervisor("h")
				store, _ := survivors(t, h, surviving())
				h.Inject(fault)
				m := manager(t, store)
				p, err := New(Config{Name: "p", Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{surviving()}})
				require.NoError(t, err)
				time.Sleep(10 * time.Minute)
				h.Heal()
				time.Sleep(2 * time.Hour)
				require.NoError(t, p.consistent())
				require.Equal(t, 2, p.Stats().Ready)
				require.Equal(t, 2, h.Count(), "the others are destroyed")
				require.NoError(t, p.Close(t.Context()))
				require.Zero(t, h.Count())
				rs, err := store.List(t.Context(), "host/")
				require.NoError(t, err)
				require.Empty(t, rs)
				require.NoError(t, m.Close(t.Context()))
				require.NoError(t, h.Close())
			})
		})
	}
}

func TestADryRunSaysWhatWouldBeAdopted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store, _ := survivors(t, h, surviving())
		m := manager(t, store)
		h.Inject(fake.Fault{Op: vm.OpList, Err: errTest}) // nothing happens yet
		p, err := New(Config{Name: "p", Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{surviving()}})
		require.NoError(t, err)
		time.Sleep(time.Second)
		h.Heal()
		found, err := p.Reconcile(t.Context(), ReconcileOptions{DryRun: true})
		require.NoError(t, err)
		require.Len(t, found, 3)
		for _, f := range found {
			require.True(t, f.Adopted)
			require.Equal(t, "claim", f.Verdict)
		}
		require.NoError(t, p.Close(context.WithoutCancel(t.Context())))
		change(t, h, func(i vm.Info) vm.Owner { return vm.Owner{Incarnation: i.Owner.Incarnation} })
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}
