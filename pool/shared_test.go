package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// cutStore is a store that a process can be cut off from.
type cutStore struct {
	*lease.MemStore
	cut atomic.Bool
}

var errCut = errors.New("cut off from the store")

func (s *cutStore) gone() error {
	if s.cut.Load() {
		return errCut
	}
	return nil
}

func (s *cutStore) ID(ctx context.Context) (string, error) {
	if err := s.gone(); err != nil {
		return "", err
	}
	return s.MemStore.ID(ctx)
}

func (s *cutStore) Load(ctx context.Context, key string) (lease.Record, error) {
	if err := s.gone(); err != nil {
		return lease.Record{}, err
	}
	return s.MemStore.Load(ctx, key)
}

func (s *cutStore) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	if err := s.gone(); err != nil {
		return lease.Record{}, err
	}
	return s.MemStore.Swap(ctx, prev, next, newToken)
}

func (s *cutStore) SwapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	return s.MemStore.SwapAll(ctx, swaps)
}

func (s *cutStore) Claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
	if err := s.gone(); err != nil {
		return lease.Record{}, err
	}
	return s.MemStore.Claim(ctx, keys, next)
}

func (s *cutStore) Delete(ctx context.Context, prev lease.Record) error {
	if err := s.gone(); err != nil {
		return err
	}
	return s.MemStore.Delete(ctx, prev)
}

func (s *cutStore) List(ctx context.Context, prefix string) ([]lease.Record, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	return s.MemStore.List(ctx, prefix)
}

// FIELD (c) 15: two agents on one machine. (c) 12: one node, two requests.
func TestTwoPoolsOnOneHostShareItsSlotsAndNoMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store := lease.NewMemStore()
		var pools []*Pool
		var managers []*lease.Manager
		for i := range 3 {
			m := manager(t, store)
			p, err := New(Config{
				Name: fmt.Sprint("p", i%2), Leases: m, Templates: []Template{{Name: "a", Ready: 1, Idle: IdleFor(time.Second)}},
				Hosts: []Host{{Driver: h.Driver(), Slots: 4, Starts: 2}},
			})
			require.NoError(t, err)
			pools, managers = append(pools, p), append(managers, m)
		}
		var mu sync.Mutex
		holders := map[string]bool{}
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(7, uint64(i)))
				for range 4 {
					g, err := pools[i%3].Acquire(t.Context(), Want{})
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					assert.False(t, holders[g.Name()])
					holders[g.Name()] = true
					mu.Unlock()
					time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
					assert.NoError(t, g.Context().Err())
					mu.Lock()
					delete(holders, g.Name())
					mu.Unlock()
					assert.NoError(t, g.Release(t.Context(), nil))
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, h.Peak(), 4, "never more machines than slots")
		for i, p := range pools {
			require.NoError(t, p.Close(t.Context()))
			require.NoError(t, managers[i].Close(t.Context()))
		}
		require.Zero(t, h.Count())
		require.NoError(t, h.Close())
	})
}

// FIELD L13, (c) 2 and 7: the holder learns it, is cut off, and the machine is
// destroyed by whoever has the slot next, before anything is made in it.
func TestALostLeaseCutsTheGuestOffAndTheNextOwnerDestroysTheMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		shared := lease.NewMemStore()
		cut := &cutStore{MemStore: shared}
		m1 := manager(t, cut)
		p1, err := New(Config{Name: "p1", Leases: m1, Templates: []Template{{Name: "a", Ready: 2, OnExit: vm.Survive}}, Hosts: []Host{{Driver: h.Driver(), Slots: 2}}})
		require.NoError(t, err)
		g, err := p1.Acquire(t.Context(), Want{Job: "TestA"})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, h.Count())
		cut.cut.Store(true)
		began := time.Now()
		<-g.Context().Done()
		require.ErrorIs(t, context.Cause(g.Context()), lease.ErrLost)
		require.LessOrEqual(t, time.Since(began), lease.DefaultTTL)
		_, err = g.Machine().Info(t.Context())
		require.ErrorIs(t, err, lease.ErrLost)
		err = g.Machine().Destroy(t.Context())
		require.ErrorIs(t, err, lease.ErrLost)
		require.Equal(t, 2, h.Count(), "who lost the right touches nothing")
		synctest.Wait()
		require.EqualValues(t, 2, p1.Stats().LeasesLost)
		err = g.Release(t.Context(), nil)
		require.ErrorIs(t, err, lease.ErrLost)
		require.NoError(t, g.Release(t.Context(), nil), "once")

		m2 := manager(t, shared)
		p2, err := New(Config{Name: "p2", Leases: m2, Templates: one("b"), Hosts: []Host{{Driver: h.Driver(), Slots: 2}}})
		require.NoError(t, err)
		began = time.Now()
		gs, err := p2.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), lease.DefaultTTL+lease.DefaultTTL/6+30*time.Second)
		require.Equal(t, 2, h.Peak(), "older incarnations went first")
		for _, g := range gs {
			require.NoError(t, g.Release(t.Context(), nil))
		}
		require.NoError(t, p2.Close(t.Context()))
		require.NoError(t, m2.Close(t.Context()))
		require.NoError(t, p1.Close(t.Context()))
		_ = m1.Close(t.Context())
		require.Zero(t, h.Count())
		require.NoError(t, h.Close())
	})
}

func TestAPoolGoesOnWhenItsStoreComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		cut := &cutStore{MemStore: lease.NewMemStore()}
		m := manager(t, cut)
		p, err := New(Config{Leases: m, Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Driver: h.Driver(), Slots: 2}}})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		cut.cut.Store(true)
		time.Sleep(5 * time.Minute)
		require.Zero(t, p.Stats().Ready)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Acquire(ctx, Want{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "lease store")
		require.Zero(t, p.Stats().Quarantined, "no host is to blame")
		cut.cut.Store(false)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 2, p.Stats().Ready)
		require.Equal(t, 2, h.Count())
		require.Equal(t, 2, h.Peak())
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestTheSessionThatIsRemovedByAnotherIsTakenAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		time.Sleep(time.Minute)
		rs, err := w.store.List(t.Context(), "session/")
		require.NoError(t, err)
		require.Len(t, rs, 1)
		require.NoError(t, w.store.Delete(t.Context(), rs[0]))
		<-g.Context().Done()
		require.ErrorIs(t, g.Release(t.Context(), nil), lease.ErrLost)
		g = w.acquire(Want{})
		require.NoError(t, vm.ProveClean(t.Context(), g.Machine()))
		require.LessOrEqual(t, w.hyper[0].Count(), 2)
		w.release(g)
		time.Sleep(5 * time.Minute)
	})
}

// FIELD (c) 16: after a crash of the harness, the next one with the same store
// takes over: it destroys what is left once the leases have run out.
func TestAfterACrashTheNextPoolDestroysWhatWasLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		shared := lease.NewMemStore()
		cut := &cutStore{MemStore: shared}
		m1 := manager(t, cut)
		p1, err := New(Config{Name: "p", Leases: m1, Templates: []Template{{Name: "a", Ready: 1, OnExit: vm.Survive}}, Hosts: []Host{{Driver: h.Driver(), Slots: 3}}})
		require.NoError(t, err)
		g, err := p1.Acquire(t.Context(), Want{})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		cut.cut.Store(true) // kill -9: it never says another word
		m2 := manager(t, shared)
		p2, err := New(Config{Name: "p", Leases: m2, Templates: one("a"), Hosts: []Host{{Driver: h.Driver(), Slots: 3}}})
		require.NoError(t, err)
		began := time.Now()
		gs, err := p2.AcquireAll(t.Context(), 3, Want{})
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), 2*time.Minute)
		require.LessOrEqual(t, h.Peak(), 3)
		for _, g := range gs {
			require.NoError(t, g.Release(t.Context(), nil))
		}
		require.NoError(t, p2.Close(t.Context()))
		require.NoError(t, m2.Close(t.Context()))
		require.Zero(t, h.Count())
		require.ErrorIs(t, g.Release(t.Context(), nil), lease.ErrLost)
		require.NoError(t, p1.Close(t.Context()))
		_ = m1.Close(t.Context())
		require.NoError(t, h.Close())
	})
}

// FIELD P11 and (c) 18: locks and starts are leased keys, not counters.
func TestLocksAndStartsAreSharedByAllWhoShareTheStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{HostID: "h", Times: fake.Times{Boot: 10 * time.Second}})
		store := lease.NewMemStore()
		var pools []*Pool
		var managers []*lease.Manager
		for range 2 {
			m := manager(t, store)
			p, err := New(Config{
				Leases: m, Templates: []Template{{Name: "a", Ready: 2}, {Name: "licensed", Locks: []string{"license"}, Idle: IdleFor(0)}},
				Locks: map[string]int{"license": 1}, Hosts: []Host{{Driver: h.Driver(), Slots: 8, Starts: 1}},
			})
			require.NoError(t, err)
			pools, managers = append(pools, p), append(managers, m)
		}
		time.Sleep(12 * time.Second)
		require.LessOrEqual(t, h.Count(), 2, "one at a time")
		time.Sleep(2 * time.Minute)
		require.Equal(t, 4, h.Count())
		g, err := pools[0].Acquire(t.Context(), Want{Template: "licensed"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err = pools[1].Acquire(ctx, Want{Template: "licensed"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, g.Release(t.Context(), nil))
		g, err = pools[1].Acquire(t.Context(), Want{Template: "licensed"})
		require.NoError(t, err)
		require.NoError(t, g.Release(t.Context(), nil))
		_, err = pools[0].AcquireAll(t.Context(), 2, Want{Template: "licensed"})
		require.ErrorIs(t, err, ErrImpossible)
		for i, p := range pools {
			require.NoError(t, p.Close(t.Context()))
			require.NoError(t, managers[i].Close(t.Context()))
		}
		rs, err := store.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rs)
		require.NoError(t, h.Close())
	})
}

func TestHeavyMachinesTakeSeveralSlots(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "big", Weight: 2}, {Name: "small"}}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		big := w.acquire(Want{Template: "big"})
		small := w.acquire(Want{Template: "small"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Acquire(ctx, Want{Template: "small"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.release(big)
		s2 := w.acquire(Want{Template: "small"})
		w.release(small)
		w.release(s2)
		big = w.acquire(Want{Template: "big"})
		w.release(big)
		_, err = w.AcquireAll(t.Context(), 2, Want{Template: "big"})
		require.ErrorIs(t, err, ErrImpossible)
	})
}

// There is always one who wants a light machine at the moment one slot comes free.
func TestAHeavyMachineIsNotOvertakenByLightOnesForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{
			Templates: []Template{{Name: "big", Weight: 2}, {Name: "small"}, {Name: "other"}}, Hosts: []Host{{Slots: 3}, {Slots: 2}},
		}, hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				for ctx.Err() == nil {
					g, err := w.Acquire(ctx, Want{Template: []string{"small", "other"}[i%2]})
					if err != nil {
						return
					}
					time.Sleep(time.Duration(3+i) * time.Second)
					assert.NoError(t, g.Release(t.Context(), nil))
				}
			})
		}
		time.Sleep(time.Minute)
		for range 5 {
			g, err := w.Acquire(t.Context(), Want{Template: "big", Timeout: 2 * time.Minute})
			require.NoError(t, err)
			time.Sleep(10 * time.Second)
			require.NoError(t, w.consistent())
			w.release(g)
		}
		before := w.Stats().Grants
		time.Sleep(time.Minute)
		require.Greater(t, w.Stats().Grants, before+20, "the light ones go on")
		stop()
		all.Wait()
	})
}
