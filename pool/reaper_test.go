package pool

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// verdicts are those of findings by machine.
func verdicts(found []Finding) map[string]string {
	out := map[string]string{}
	for _, f := range found {
		out[string(f.Machine.ID)] = f.Verdict
		if f.Destroyed {
			out[string(f.Machine.ID)] = "destroyed"
		}
	}
	return out
}

func TestTheReaperWorksByThePoolsRulesWithoutAPool(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		d := h.Driver()
		store := lease.NewMemStore()
		id, err := store.ID(t.Context())
		require.NoError(t, err)
		m, holder := manager(t, store), manager(t, store)
		l, err := holder.Acquire(t.Context(), slotKey("h", 5), nil)
		require.NoError(t, err)
		owned(t, d, "foreign", vm.Owner{Pool: "p2", Job: "p"})
		owned(t, d, "unknown", vm.Owner{Pool: "p", Store: "elsewhere", Slot: slotKey("h", 1), Lock: "/nonexistent/lock"})
		owned(t, d, "leased", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 5), Token: l.Token()})
		owned(t, d, "orphan", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 4)})
		reaper := Reaper{Name: "p", Leases: m, Hosts: []Host{{Driver: d}}, DryRun: true}
		began := time.Now()
		found, err := Reconcile(t.Context(), reaper)
		require.NoError(t, err)
		require.Equal(t, DefaultBetween, time.Since(began), "two looks")
		require.Equal(t, map[string]string{"foreign": "foreign", "unknown": "leave", "leased": "leave", "orphan": "claim"}, verdicts(found))
		for _, f := range found {
			if f.Machine.ID == "leased" {
				require.Contains(t, f.Reason, "held by "+t.Name(), "who has it")
			}
		}
		require.Equal(t, 4, h.Count(), "a dry run is dry")
		reaper.DryRun = false
		found, err = Reconcile(t.Context(), reaper)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"foreign": "foreign", "unknown": "leave", "leased": "claim", "orphan": "destroyed"}, verdicts(found))
		require.Equal(t, []string{"foreign", "leased", "unknown"}, listed(t, d))
		rs, err := store.List(t.Context(), "host/")
		require.NoError(t, err)
		require.Len(t, rs, 1, "no lease of the reaper's is left")
		require.NoError(t, l.Release(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, holder.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// The pool of a harness that lives is at work in the very same slots.
func TestTheReaperLeavesTheMachinesOfAPoolThatWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Name: "p", Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		time.Sleep(10 * time.Second)
		m := manager(t, w.store)
		d := w.hyper[0].Driver()
		defer d.Close()
		for range 3 {
			found, err := Reconcile(t.Context(), Reaper{Name: "p", Leases: m, Hosts: []Host{{Driver: d}}})
			require.NoError(t, err)
			require.Len(t, found, 2)
			for _, f := range found {
				require.False(t, f.Destroyed, f.Reason)
			}
		}
		require.NoError(t, g.Context().Err())
		require.Equal(t, 2, w.hyper[0].Count())
		require.NoError(t, m.Close(t.Context()))
		w.release(g)
	})
}

// Without a store only the owner's lock tells.
func TestTheReaperWithoutAStoreGoesByTheOwnersLock(t *testing.T) {
	t.Parallel()
	d := fake.New(fake.Config{HostID: "h"})
	defer d.Close()
	dir := t.TempDir()
	live, err := lease.New(lease.Config{Store: lease.NewMemStore(), Dir: dir})
	require.NoError(t, err)
	l, err := live.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	owned(t, d, "living", vm.Owner{Pool: "p", Store: "s", Lock: live.LockPath()})
	dead := filepath.Join(dir, "run-x", "lock")
	require.NoError(t, syscall.Mkdir(filepath.Dir(dead), 0o700))
	f, err := syscall.Creat(dead, 0o600)
	require.NoError(t, err)
	require.NoError(t, syscall.Close(f))
	owned(t, d, "dead", vm.Owner{Pool: "p", Store: "s", Lock: dead})
	found, err := Reconcile(t.Context(), Reaper{Name: "p", Hosts: []Host{{Driver: d}}})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"living": "leave", "dead": "destroyed"}, verdicts(found))
	require.NoError(t, l.Release(t.Context()))
	require.NoError(t, live.Close(t.Context()))
}

func TestTheReaperSaysWhatItCouldNotDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, bad := hypervisor("good"), hypervisor("bad", fake.Fault{Op: vm.OpList, Err: errTest})
		d := good.Driver()
		store := lease.NewMemStore()
		m := manager(t, store)
		id, err := store.ID(t.Context())
		require.NoError(t, err)
		owned(t, d, "stuck", vm.Owner{Store: id, Slot: slotKey("good", 0)})
		good.Inject(fake.Fault{Op: vm.OpDestroy, Err: errTest})
		reaper := Reaper{Leases: m, Hosts: []Host{{Driver: d}, {Driver: bad.Driver()}}}
		found, err := Reconcile(t.Context(), reaper)
		require.ErrorIs(t, err, errTest)
		require.ErrorContains(t, err, "host bad")
		require.ErrorContains(t, err, "machine stuck on host good")
		require.Len(t, found, 1, "hosts that answered are complete")
		require.ErrorIs(t, found[0].Err, errTest)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = Reconcile(ctx, reaper)
		require.ErrorIs(t, err, context.DeadlineExceeded, "between the looks")
		for _, r := range []Reaper{{}, {Hosts: []Host{{}}}, {Hosts: []Host{{Driver: d}}, Between: -1}} {
			_, err := Reconcile(t.Context(), r)
			require.Error(t, err)
		}
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, good.Close())
		require.NoError(t, bad.Close())
	})
}
