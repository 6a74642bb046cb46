package pool

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// others makes machines by hand, as somebody does who knows no pool; each has a
// snapshot "clean". stop tells which are left off.
func others(t *testing.T, h *fake.Hypervisor, owner vm.Owner, names ...string) (destroy func()) {
	t.Helper()
	d := h.Driver()
	for _, n := range names {
		owner.Incarnation = "of-" + n
		m, err := d.Create(t.Context(), vm.Spec{Name: n, Owner: owner, OnExit: vm.Survive})
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context()))
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, snapshotOnce(t.Context(), m))
	}
	require.NoError(t, d.Close()) // it holds the machines' channels
	return func() {
		d := h.Driver()
		for _, n := range names {
			m, err := d.Open(context.Background(), vm.ID(n))
			require.NoError(t, err)
			require.NoError(t, m.Destroy(context.Background()))
		}
		require.NoError(t, d.Close())
	}
}

func static(snapshot string, names ...string) Template {
	t := Template{Name: "static", Snapshot: snapshot}
	for _, n := range names {
		t.Existing = append(t.Existing, Existing{Machine: vm.ID(n)})
	}
	return t
}

func TestExistingMachinesAreLeasedRevertedAndNeverMadeNorDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		destroy := others(t, h, vm.Owner{}, "lab1", "lab2")
		w := start(t, Config{Templates: []Template{static("clean", "lab1", "lab2")}, Hosts: []Host{{Slots: 0}}}, h)
		gs, err := w.AcquireAll(t.Context(), 2, Want{Template: "static"})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"lab1", "lab2"}, []string{gs[0].Name(), gs[1].Name()})
		_, err = w.AcquireAll(t.Context(), 3, Want{})
		require.ErrorIs(t, err, ErrImpossible)
		rs, err := w.store.List(t.Context(), "machine/h/")
		require.NoError(t, err)
		require.Len(t, rs, 2, "each is a leased key")
		var tokens []uint64
		for range 3 {
			_, err = gs[0].Exec(t.Context(), vm.Command{Argv: []string{"true"}})
			require.NoError(t, err)
			tokens = append(tokens, gs[0].Token())
			w.release(gs[0])
			g := w.acquire(Want{})
			require.Equal(t, gs[0].Name(), g.Name(), "reverted, though it was used")
			gs[0] = g
		}
		require.IsIncreasing(t, tokens)
		require.Equal(t, "static", gs[0].Properties()["template"])
		w.release(gs[0])
		require.NoError(t, gs[1].Release(t.Context(), Broken(errTest)))
		time.Sleep(time.Hour)
		require.NoError(t, w.Pause("h"))
		require.NoError(t, w.Drain("h"))
		w.shut()
		require.Equal(t, 2, h.Made())
		require.Equal(t, 2, h.Count(), "they are still there")
		destroy()
		w.finish()
	})
}

func TestAnExistingMachineThatIsNotCleanIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		destroy := others(t, h, vm.Owner{}, "lab1", "lab2")
		w := start(t, Config{Templates: []Template{static("", "lab1", "lab2")}, Hosts: []Host{{Slots: 0}}}, h)
		first := w.acquire(Want{})
		_, err := first.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		w.release(first) // nothing can take back what was done on it
		for range 3 {
			g := w.acquire(Want{})
			require.NotEqual(t, first.Name(), g.Name())
			w.release(g) // unused, so still clean
		}
		other := w.acquire(Want{})
		ticket, err := w.Request(t.Context(), Want{})
		require.NoError(t, err)
		require.Contains(t, ticket.Progress().Reason, first.Name()+" quarantined")
		// Somebody sees to it.
		d := h.Driver()
		m, err := d.Open(t.Context(), vm.ID(first.Name()))
		require.NoError(t, err)
		s, _ := vm.As[vm.Snapshotter](m)
		require.NoError(t, s.Revert(t.Context(), "clean"))
		require.NoError(t, d.Close())
		g, err := ticket.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, first.Name(), g.Name(), "probed again, and clean")
		ticket, err = w.Request(t.Context(), Want{})
		require.NoError(t, err)
		require.NotContains(t, ticket.Progress().Reason, first.Name(), "its quarantine has ended")
		ticket.Cancel()
		w.release(g)
		w.release(other)
		w.shut()
		require.Equal(t, 2, h.Count())
		destroy()
		w.finish()
	})
}

func TestThoseWhoWaitForExistingMachinesAreToldWhenAllFail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		template := static("clean", "nowhere")
		w := start(t, Config{Templates: []Template{template}, Hosts: []Host{{Slots: 0}}}, h)
		defer w.finish()
		began := time.Now()
		_, err := w.Acquire(t.Context(), Want{})
		require.ErrorIs(t, err, vm.ErrNotFound)
		require.ErrorContains(t, err, "3 boots of template static in a row failed")
		require.Equal(t, 30*time.Second, time.Since(began).Round(time.Second), "10 s and 20 s of back-off")
	})
}

// FIELD P2, and (c) 15: two agents on one machine.
func TestTwoPoolsShareAnExistingMachineOneAfterTheOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		// Its ownership says that a dead run of the same pool made it: not a
		// reason to destroy it.
		destroy := others(t, h, vm.Owner{Pool: "bullpen", Lock: "/nowhere/lock", Slot: "host/h/slot/0"}, "lab")
		store := lease.NewMemStore()
		one := manager(t, store)
		two := manager(t, store)
		template := []Template{static("clean", "lab"), {Name: "own"}}
		w1 := start(t, Config{Leases: one, Templates: template, Hosts: []Host{{Slots: 1}}}, h)
		w2 := start(t, Config{Leases: two, Templates: template, Hosts: []Host{{Slots: 1}}}, h)
		g := w1.acquire(Want{Template: "static"})
		own := w1.acquire(Want{Template: "own"}) // takes the slot, which the existing one does not
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w2.Acquire(ctx, Want{Template: "static"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w1.release(own)
		w1.release(g)
		require.NoError(t, w1.Close(t.Context()))
		g = w2.acquire(Want{Template: "static"})
		require.Equal(t, "lab", g.Name())
		found, err := w2.Reconcile(t.Context(), ReconcileOptions{})
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, "ours", found[0].Verdict)
		w2.release(g)
		require.NoError(t, w2.Close(t.Context()))
		for _, m := range []*lease.Manager{one, two} {
			require.NoError(t, m.Close(t.Context()))
		}
		require.Equal(t, 1, h.Count())
		destroy()
		for _, w := range []*world{w1, w2} {
			require.NoError(t, w.drivers[0].Close())
		}
		require.NoError(t, h.Close())
	})
}

func TestTemplatesOfExistingMachinesAreValidated(t *testing.T) {
	t.Parallel()
	host := []Host{{Name: "h", Driver: fake.New(fake.Config{}), Slots: 1}}
	for want, template := range map[string]Template{
		`Existing[0].Host is "x", want the name of a host`:                              {Name: "a", Existing: []Existing{{Host: "x", Machine: "m"}}},
		`Existing[0].Machine is empty`:                                                  {Name: "a", Existing: []Existing{{}}},
		`Existing[1].Machine is "m", want a machine that template a does not name`:      {Name: "a", Existing: []Existing{{Machine: "m"}, {Machine: "m"}}},
		`Weight is 2, want 0: existing machines take no slots`:                          {Name: "a", Weight: 2, Existing: []Existing{{Machine: "m"}}},
		`Rungs is [cold], want none, or revert alone: existing machines are never made`: {Name: "a", Rungs: []vm.Rung{vm.RungCold}, Existing: []Existing{{Machine: "m"}}},
		`Ready is 2, want at most the 1 of Existing`:                                    {Name: "a", Ready: 2, Existing: []Existing{{Machine: "m"}}},
		`MostUses or MostAge is set, want 0: existing machines are never made anew`:     {Name: "a", MostUses: 2, Existing: []Existing{{Machine: "m"}}},
		`Parent is "p", want none: existing machines are never made`:                    {Name: "a", Parent: "p", Existing: []Existing{{Machine: "m"}}},
		`Hosts is [h], want none: Existing names them`:                                  {Name: "a", Hosts: []string{"h"}, Existing: []Existing{{Machine: "m"}}},
	} {
		_, err := New(Config{Hosts: host, Templates: []Template{template}})
		require.ErrorContains(t, err, want)
	}
}
