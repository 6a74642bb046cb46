package pool

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// FIELD (c) 12: it is decided on a copy that was read before the lock. Here the
// listing, which misses the machine for the second time, began before the machine
// was handed out.
func TestAMachineThatIsHandedOutDuringAListingIsNotDestroyedForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 1}}}, h)
		defer w.finish()
		time.Sleep(5 * time.Second)
		h.Inject(fake.Fault{Op: vm.OpList, Lose: 1, Delay: 20 * time.Second})
		lists := h.Calls(vm.OpList)
		for h.Calls(vm.OpList) < lists+2 { // the second one is under way
			time.Sleep(time.Second)
		}
		g := w.acquire(Want{})
		time.Sleep(DefaultPoll)
		h.Heal()
		exit, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.True(t, exit.OK())
		require.EqualValues(t, 1, h.Made())
		w.release(g)
	})
}

// slowStore answers late where a key is asked for.
type slowStore struct {
	*lease.MemStore
	key   string
	late  time.Duration
	asked atomic.Int64
}

func (s *slowStore) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	if prev.Key == s.key {
		s.asked.Add(1)
		time.Sleep(s.late)
	}
	return s.MemStore.Swap(ctx, prev, next, newToken)
}

// FIELD (c) 12, for adoptions: the template is another one by the time that the
// store has answered.
func TestAnAdoptionIsJudgedAgainOnceItsSlotIsLeased(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store, used := survivors(t, h, surviving())
		last := 2 // slot whose machine is listed last, and is clean
		if strings.HasPrefix(used[0], "p-2-") {
			last = 1
		}
		slow := &slowStore{MemStore: store, key: slotKey("h", last), late: 5 * time.Second}
		m := manager(t, slow)
		c := Config{Name: "p", Leases: m, Hosts: []Host{{Name: "h", Driver: h.Driver(), Slots: 3}}, Templates: []Template{surviving()}}
		p, err := New(c)
		require.NoError(t, err)
		for slow.asked.Load() == 0 {
			time.Sleep(time.Second)
		}
		before := p.Stats().Adopted
		c.Templates = []Template{surviving()}
		c.Templates[0].Properties = map[string]string{"colour": "blue"}
		require.NoError(t, p.Reload(c))
		time.Sleep(10 * time.Minute)
		require.Equal(t, before, p.Stats().Adopted, "it was made from what the template was")
		g, err := p.Acquire(t.Context(), Want{})
		require.NoError(t, err)
		require.Equal(t, "blue", g.Properties()["colour"])
		require.NoError(t, g.Release(t.Context(), nil))
		require.NoError(t, p.Close(t.Context()))
		require.Zero(t, h.Count())
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// FIELD (c) 13: who destroys a machine that is gone already tries it for ever.
func TestAMachineThatIsGoneAlreadyIsDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, h)
		defer w.finish()
		g := w.acquire(Want{})
		h.Inject(fake.Fault{Op: vm.OpDestroy, Err: vm.ErrNotFound, Late: true}) // by others, at this instant
		require.NoError(t, g.Release(t.Context(), Broken(errTest)))
		next, err := w.Acquire(t.Context(), Want{Timeout: time.Minute})
		require.NoError(t, err, "the slot is free again")
		require.NotEqual(t, g.Name(), next.Name())
		h.Heal()
		w.release(next)
	})
}

// FIELD (c) 6, when the late holder has a machine to destroy first: it gives back
// what is the next one's by then.
func TestATeardownThatEndsLateDoesNotGiveBackWhatIsTheNextOnes(t *testing.T) {
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
		time.Sleep(lease.DefaultTTL / 2)
		h.Inject(fake.Fault{Op: vm.OpDestroy, Hang: true, Times: 1}) // until destroyTimeout
		require.NoError(t, late.Release(t.Context(), Broken(errTest)))
		synctest.Wait()
		began := time.Now()
		second := open(m2)
		g, err := second.Acquire(t.Context(), Want{Job: "next", Timeout: destroyTimeout})
		require.NoError(t, err)
		cut.cut.Store(false)
		require.Less(t, time.Since(began), destroyTimeout, "the late one is at it still")
		before, err := store.Load(t.Context(), slotKey("h", 0))
		require.NoError(t, err)
		time.Sleep(2 * destroyTimeout)
		after, err := store.Load(t.Context(), slotKey("h", 0))
		require.NoError(t, err)
		require.Equal(t, before.Token, after.Token, "the next one's lease is there")
		_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.NoError(t, first.Close(t.Context()))
		_ = m1.Close(t.Context()) // it says what it lost
		require.NoError(t, g.Release(t.Context(), nil))
		require.NoError(t, second.Close(t.Context()))
		require.NoError(t, m2.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// FIELD (c) 2, for the sweep: one unexpected error of the store ends it for ever.
func TestASweepThatMetADeadStoreIsNotTheLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		d := h.Driver()
		store := lease.NewMemStore()
		id, err := store.ID(t.Context())
		require.NoError(t, err)
		cut := &cutStore{MemStore: store}
		m := manager(t, cut)
		p, err := New(Config{Leases: m, Hosts: []Host{{Name: "h", Driver: d, Slots: 1}}, Templates: []Template{{Name: "a", Ready: 1}}})
		require.NoError(t, err)
		time.Sleep(DefaultPoll / 2)
		cut.cut.Store(true)
		time.Sleep(DefaultPoll) // longer than a poll, shorter than a lease
		p.mu.Lock()
		require.ErrorIs(t, p.storeErr, errCut, "a sweep met it")
		p.mu.Unlock()
		cut.cut.Store(false)
		owned(t, d, "orphan", vm.Owner{Pool: "q", Store: id, Slot: slotKey("h", 4)})
		time.Sleep(10 * DefaultPoll)
		require.NotContains(t, listed(t, d), "orphan")
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.Zero(t, h.Count())
		require.NoError(t, h.Close())
	})
}
