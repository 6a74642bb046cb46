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

// FIELD (c) 3: readiness is reported too early, and the machine is restarted
// under the test; the time to wait is ignored.
func TestReadinessIsNotReportedTooEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// The first boot crashes while it is probed, which the probe does not see.
		h := hypervisor("h", fake.Fault{Op: vm.OpStart, Times: 1, Guest: fake.Guest{Crash: true, CrashAfter: 5 * time.Second}})
		var crashed string
		w := start(t, Config{Hosts: []Host{{Slots: 1}}, Templates: []Template{{Name: "a", Probe: func(ctx context.Context, m vm.Machine) error {
			if crashed == "" {
				crashed = string(m.ID())
			}
			time.Sleep(30 * time.Second)
			return nil
		}}}}, h)
		defer w.finish()
		began := time.Now()
		_, err := w.Acquire(t.Context(), Want{Timeout: 20 * time.Second})
		require.ErrorIs(t, err, ErrTimeout)
		require.Equal(t, 20*time.Second, time.Since(began), "the time to wait is kept to")
		g := w.acquire(Want{})
		require.GreaterOrEqual(t, time.Since(began), time.Minute, "not before the second machine was probed")
		require.NotEqual(t, crashed, g.Name(), "a machine that ended while it was probed is not ready")
		exit, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.True(t, exit.OK())
		w.release(g)
	})
}

// FIELD (c) 8: release after a restart is refused by the client's own
// bookkeeping; the reaper was not told of a new type.
func TestLeftoversOfATemplateThatNobodyKnowsAnyMoreAreDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store := lease.NewMemStore()
		id, err := store.ID(t.Context())
		require.NoError(t, err)
		before := manager(t, store)
		l, err := before.Acquire(t.Context(), slotKey("h", 7), nil)
		require.NoError(t, err)
		d := h.Driver()
		_, err = d.Create(t.Context(), vm.Spec{Name: "old", Template: "forgotten", OnExit: vm.Survive, Owner: vm.Owner{
			Pool: "renamed since", Store: id, Slot: l.Key(), Token: l.Token(), Incarnation: "1",
		}})
		require.NoError(t, err)
		after := manager(t, store)
		w := start(t, Config{Leases: after, Templates: one("a"), Hosts: []Host{{Slots: 1}}}, h)
		time.Sleep(2 * DefaultPoll)
		require.Contains(t, listed(t, d), "old", "its slot is leased")
		// Another process gives the lease back: it needs nobody's bookkeeping.
		require.NoError(t, after.Release(t.Context(), l.Key(), l.Token()))
		time.Sleep(3 * DefaultPoll)
		require.NotContains(t, listed(t, d), "old", "though this pool has neither its template nor its slot")
		require.NoError(t, w.Close(t.Context()))
		require.NoError(t, after.Close(t.Context()))
		_ = before.Close(t.Context()) // which lost its lease
		require.NoError(t, d.Close())
		w.finish()
	})
}

// FIELD (c) 19: a lock is half taken or half released.
func TestLocksAreTakenAllOrNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := lease.NewMemStore()
		other := manager(t, store)
		held, err := other.Acquire(t.Context(), lockKey("B", 0), nil)
		require.NoError(t, err)
		mine := manager(t, store)
		w := start(t, Config{
			Leases: mine, Locks: map[string]int{"A": 1, "B": 1}, Hosts: []Host{{Slots: 1}},
			Templates: []Template{{Name: "ab", Locks: []string{"A", "B"}, Idle: IdleFor(0)}, {Name: "a", Locks: []string{"A"}, Idle: IdleFor(0)}},
		}, hypervisor("h"))
		first, err := w.Request(t.Context(), Want{Template: "ab"})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.False(t, first.Progress().Over)
		require.Contains(t, first.Progress().Reason, "others have a lock of ab")
		g := w.acquire(Want{Template: "a"}) // neither A nor the slot is kept by who lacks B
		require.Equal(t, "a", g.Template())
		require.NoError(t, held.Release(t.Context()))
		time.Sleep(time.Minute)
		require.False(t, first.Progress().Over, "the slot and A are held")
		locks, err := store.List(t.Context(), "lock/")
		require.NoError(t, err)
		require.Len(t, locks, 1)
		w.release(g)
		g, err = first.Wait(t.Context())
		require.NoError(t, err)
		locks, err = store.List(t.Context(), "lock/")
		require.NoError(t, err)
		require.Len(t, locks, 2)
		w.release(g)
		require.NoError(t, w.Close(t.Context()))
		locks, err = store.List(t.Context(), "lock/")
		require.NoError(t, err)
		require.Empty(t, locks, "none is left half released")
		require.NoError(t, mine.Close(t.Context()))
		require.NoError(t, other.Close(t.Context()))
		w.finish()
	})
}

// Slots that Resize took away are not claimed when others have those that stay.
func TestAResizedPoolDoesNotClaimTheSlotsThatAreGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := lease.NewMemStore()
		other := manager(t, store)
		held, err := other.Acquire(t.Context(), slotKey("h", 0), nil)
		require.NoError(t, err)
		mine := manager(t, store)
		w := start(t, Config{Leases: mine, Templates: one("a"), Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		require.NoError(t, w.Resize("h", 1))
		_, err = w.Acquire(t.Context(), Want{Timeout: time.Minute})
		require.ErrorIs(t, err, ErrTimeout)
		require.Zero(t, w.hyper[0].Made())
		require.NoError(t, held.Release(t.Context()))
		w.release(w.acquire(Want{}))
		require.NoError(t, w.Close(t.Context()))
		require.NoError(t, mine.Close(t.Context()))
		require.NoError(t, other.Close(t.Context()))
		w.finish()
	})
}

// FIELD (c) 6: a lock that expired is deleted by its late first holder, and so the
// next one's is gone.
func TestALateHolderDoesNotGiveBackWhatIsTheNextOnes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store := lease.NewMemStore()
		cut := &cutStore{MemStore: store}
		m1, m2 := manager(t, cut), manager(t, store)
		open := func(m *lease.Manager) *Pool {
			p, err := New(Config{Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 1}}, Templates: one("a")})
			require.NoError(t, err)
			return p
		}
		first := open(m1)
		late, err := first.Acquire(t.Context(), Want{Job: "late"})
		require.NoError(t, err)
		cut.cut.Store(true)
		second := open(m2)
		g, err := second.Acquire(t.Context(), Want{Job: "next", Timeout: 10 * time.Minute})
		require.NoError(t, err)
		before, err := store.Load(t.Context(), slotKey("h", 0))
		require.NoError(t, err)
		cut.cut.Store(false)
		require.ErrorIs(t, late.Release(t.Context(), nil), lease.ErrLost)
		require.ErrorIs(t, late.check(), ErrReleased)
		require.NoError(t, first.Close(t.Context()))
		_ = m1.Close(t.Context()) // it says what it lost
		after, err := store.Load(t.Context(), slotKey("h", 0))
		require.NoError(t, err)
		require.Equal(t, before.Token, after.Token, "the next one's lease is there")
		require.Greater(t, g.Token(), late.Token())
		_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.Equal(t, 1, h.Count())
		require.NoError(t, g.Release(t.Context(), nil))
		require.NoError(t, second.Close(t.Context()))
		require.NoError(t, m2.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}
