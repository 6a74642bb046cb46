package pool

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// owned makes a machine by hand.
func owned(t *testing.T, d vm.Driver, name string, o vm.Owner) vm.Machine {
	if o.Incarnation == "" {
		o.Incarnation = "of-" + name
	}
	m, err := d.Create(t.Context(), vm.Spec{Name: name, Owner: o, OnExit: vm.Survive})
	require.NoError(t, err)
	return m
}

func listed(t *testing.T, d vm.Driver) []string {
	l, err := d.List(t.Context())
	require.NoError(t, err)
	var names []string
	for _, i := range l {
		names = append(names, string(i.ID))
	}
	return names
}

// FIELD (c) 4, 9, 11, 21: cleanup that hits what is not its own.
func TestReconcileDestroysLeftoversByTheTwoRulesAndNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		d := h.Driver()
		store := lease.NewMemStore()
		id, err := store.ID(t.Context())
		require.NoError(t, err)
		m := manager(t, store)
		other := manager(t, store)
		l, err := other.Acquire(t.Context(), slotKey("h", 5), nil)
		require.NoError(t, err)
		owned(t, d, "foreign", vm.Owner{Pool: "p2", Job: "other-job"})
		owned(t, d, "namesake", vm.Owner{Pool: "p", Store: "elsewhere", Slot: slotKey("h", 1), Lock: "/nonexistent/lock"})
		owned(t, d, "leased", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 5), Token: l.Token()})
		owned(t, d, "orphan", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 4)})
		owned(t, d, "slot0", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 0)})
		owned(t, d, "nobodys", vm.Owner{})
		change(t, h, func(i vm.Info) vm.Owner {
			if i.ID == "nobodys" {
				return vm.Owner{} // made by hand, or by another program
			}
			return i.Owner
		})
		p, err := New(Config{Name: "p", Leases: m, Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Driver: d, Slots: 1}}})
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		names := listed(t, d)
		require.Contains(t, names, "orphan", "one sighting is not enough")
		require.NotContains(t, names, "slot0", "older incarnations in a slot go before a new one is made")
		found, err := p.Reconcile(t.Context(), ReconcileOptions{DryRun: true})
		require.NoError(t, err)
		require.Len(t, found, 6)
		verdicts := map[string]string{}
		for _, f := range found {
			verdicts[string(f.Machine.ID)] = f.Verdict
			require.False(t, f.Destroyed)
		}
		require.Equal(t, "foreign", verdicts["foreign"])
		require.Equal(t, "foreign", verdicts["nobodys"])
		require.Equal(t, "leave", verdicts["namesake"])
		require.Equal(t, "wait", verdicts["leased"])
		require.Equal(t, "wait", verdicts["orphan"])
		time.Sleep(2 * DefaultPoll)
		names = listed(t, d)
		require.NotContains(t, names, "orphan")
		for _, kept := range []string{"foreign", "nobodys", "namesake", "leased"} {
			require.Contains(t, names, kept)
		}
		require.NoError(t, l.Release(t.Context()))
		time.Sleep(2 * DefaultPoll)
		require.NotContains(t, listed(t, d), "leased", "its lease is free now")
		require.NoError(t, p.Close(t.Context()))
		_, err = p.Reconcile(t.Context(), ReconcileOptions{})
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, other.Close(t.Context()))
		require.ElementsMatch(t, []string{"foreign", "nobodys", "namesake"}, listed(t, d))
		require.NoError(t, h.Close())
	})
}

// FIELD (c) 5: the reaper reads "expired", the holder renews, the reaper kills.
func TestALeftoverThatChangesHandsBeforeItIsDestroyedIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		d := h.Driver()
		store := lease.NewMemStore()
		id, _ := store.ID(t.Context())
		m := manager(t, store)
		owned(t, d, "x", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 4)})
		// What the listing says is not what is true under the lock.
		wrapped := fake.Wrap(d, fake.Fault{Op: vm.OpInfo, Lie: func(i *vm.Info) { i.Owner.Incarnation = "newer" }})
		p, err := New(Config{Name: "p", Leases: m, Templates: one("a"), Hosts: []Host{{Driver: wrapped, Slots: 1}}})
		require.NoError(t, err)
		time.Sleep(5 * DefaultPoll)
		require.Contains(t, listed(t, d), "x")
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// FIELD (c) 10: an inventory call that fails stops growth and deletion there,
// and only there.
func TestAListingErrorStopsGrowthAndDeletionOnThatHostOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad, good := hypervisor("bad", fake.Fault{Op: vm.OpList, Err: errTest}), hypervisor("good")
		w := start(t, Config{Name: "p", Templates: one("a")}, bad, good)
		id, _ := w.store.ID(t.Context())
		owned(t, w.drivers[0], "orphan", vm.Owner{Pool: "p", Store: id, Slot: slotKey("bad", 0)})
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		for _, g := range gs {
			require.Equal(t, "good", g.Host())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		_, err = w.Acquire(ctx, Want{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "bad quarantined")
		require.ErrorContains(t, err, "on purpose")
		require.LessOrEqual(t, bad.Calls(vm.OpList), 10, "with back-off, no hot loop")
		require.Equal(t, 1, bad.Count())
		_, err = w.Reconcile(t.Context(), ReconcileOptions{})
		require.ErrorContains(t, err, "host bad")
		bad.Heal()
		g := w.acquire(Want{})
		require.Equal(t, "bad", g.Host())
		require.NotContains(t, listed(t, w.drivers[0]), "orphan")
		w.release(g)
		for _, g := range gs {
			w.release(g)
		}
		w.finish()
	})
}

// FIELD (c) 21: rule (b), for stores that died with their process: the pool's
// name and an owner that is seen dead, and nothing less.
func TestALeftoverOfADeadProcessGoesAtOnceAndThatOfALivingOneStays(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "run-dead", "lock")
	require.NoError(t, os.Mkdir(filepath.Dir(dead), 0o700))
	require.NoError(t, os.WriteFile(dead, nil, 0o600))
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		d := h.Driver()
		living, err := lease.New(lease.Config{Store: lease.NewMemStore(), Dir: dir})
		require.NoError(t, err)
		_, err = living.Acquire(t.Context(), "x", nil)
		require.NoError(t, err)
		owned(t, d, "of-the-dead", vm.Owner{Pool: "p", Store: "s", Slot: slotKey("h", 0), Lock: dead})
		owned(t, d, "of-another-pool", vm.Owner{Pool: "p2", Store: "s", Slot: slotKey("h", 0), Lock: dead})
		owned(t, d, "of-the-living", vm.Owner{Pool: "p", Store: "s", Slot: slotKey("h", 0), Lock: living.LockPath()})
		p, err := New(Config{Name: "p", Leases: manager(t, lease.NewMemStore()), Templates: one("a"), Hosts: []Host{{Driver: d, Slots: 1}}})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.ElementsMatch(t, []string{"of-another-pool", "of-the-living"}, listed(t, d))
		time.Sleep(5 * DefaultPoll)
		require.ElementsMatch(t, []string{"of-another-pool", "of-the-living"}, listed(t, d))
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, p.leases.Close(t.Context()))
		_ = living.Close(t.Context())
		require.NoError(t, h.Close())
	})
}

// A harness that was killed seems to live for as long as a child of it is between
// its fork and its exec: its successor looks again soon, and when it closes.
func TestALeftoverWhoseOwnerDiesAfterTheFirstLookIsNotLeft(t *testing.T) {
	for _, when := range []string{"soon", "at the end"} {
		t.Run(when, func(t *testing.T) {
			dir := t.TempDir()
			dying := filepath.Join(dir, "run-dying", "lock")
			require.NoError(t, os.Mkdir(filepath.Dir(dying), 0o700))
			lock, err := os.Create(dying)
			require.NoError(t, err)
			require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
			bubble(t, func(t *testing.T) {
				h := hypervisor("h")
				d := h.Driver()
				owned(t, d, "leftover", vm.Owner{Pool: "p", Store: "s", Slot: slotKey("h", 0), Lock: dying})
				p, err := New(Config{Name: "p", Leases: manager(t, lease.NewMemStore()), Templates: one("a"), Hosts: []Host{{Driver: d, Slots: 1}}})
				require.NoError(t, err)
				time.Sleep(time.Second / 2)
				require.Equal(t, []string{"leftover"}, listed(t, d))
				require.NoError(t, lock.Close())
				if when == "soon" {
					time.Sleep(4 * time.Second)
					require.Empty(t, listed(t, d))
				}
				require.NoError(t, p.Close(t.Context()))
				require.Empty(t, listed(t, d))
				require.NoError(t, p.leases.Close(t.Context()))
				require.NoError(t, h.Close())
			})
		})
	}
}
