package pool

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestIdleMachinesGoAfterTheirTimeAndReadyOnesStay(t *testing.T) {
	for name, c := range map[string]struct {
		idle  Idle
		after time.Duration
		left  int
	}{
		"ten minutes by default": {0, 10*time.Minute + 5*time.Second, 1},
		"not before":             {0, 9 * time.Minute, 3},
		"a time of its own":      {IdleFor(time.Minute), time.Minute + 5*time.Second, 1},
		"at once":                {IdleFor(0), 5 * time.Second, 1},
		"never":                  {IdleNever, 100 * time.Hour, 3},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1, Idle: c.idle}}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
				defer w.finish()
				gs, err := w.AcquireAll(t.Context(), 3, Want{})
				require.NoError(t, err)
				for _, g := range gs {
					w.release(g)
				}
				time.Sleep(c.after)
				require.Equal(t, c.left, w.Stats().Ready, w)
				made := w.hyper[0].Made()
				time.Sleep(time.Minute)
				require.Equal(t, made, w.hyper[0].Made(), "no flapping")
			})
		})
	}
}

// FIELD (c) 20: an age cap kills a busy machine.
func TestOnlyIdleMachinesAreRecycledForTheirAge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1, MostAge: time.Hour}}, Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		time.Sleep(5 * time.Hour)
		require.NoError(t, g.Context().Err())
		_, err := g.Machine().Info(t.Context())
		require.NoError(t, err)
		w.release(g)
		time.Sleep(time.Minute)
		name := w.Guests()[0].Name
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.Stats().Ready)
		require.NotEqual(t, name, w.Guests()[0].Name, "an idle one is made anew")
	})
}

// The same beside an idle machine of the template, which does go for its age.
func TestAMachineInUseOutlivesIdleOnesOfItsTemplate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{
			Templates: []Template{{Name: "a", Ready: 1, MostAge: time.Hour, Idle: IdleFor(time.Minute)}}, Hosts: []Host{{Slots: 2}},
		}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		time.Sleep(5 * time.Hour)
		require.Greater(t, w.hyper[0].Made(), 4, "the idle one was made anew each hour")
		require.NoError(t, g.Context().Err())
		exit, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.True(t, exit.OK())
		w.release(g)
	})
}

func TestAMachineIsRevertedUntilItsMostUses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{
			Name: "a", MostUses: 3, Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert, vm.RungCold},
			Probe: snapshotOnce,
		}}, Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		var names []string
		var tokens []uint64
		for range 6 {
			g := w.acquire(Want{})
			names = append(names, g.Name())
			tokens = append(tokens, g.Token())
			w.release(g)
		}
		require.Equal(t, names[0], names[1])
		require.Equal(t, names[0], names[2])
		require.NotEqual(t, names[0], names[3], "three uses")
		require.Equal(t, names[3], names[5])
		require.IsIncreasing(t, tokens)
		require.Equal(t, 1, w.hyper[0].Peak())
	})
}

func TestABrokenMachineIsDestroyedAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}, {Slots: 1}}}, hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		g := w.acquire(Want{})
		bad := g.Host()
		require.NoError(t, g.Release(t.Context(), Broken(errTest)))
		require.Nil(t, Broken(nil))
		require.ErrorIs(t, Broken(errTest), errTest)
		require.False(t, IsBroken(errTest))
		g = w.acquire(Want{})
		require.NotEqual(t, bad, g.Host(), "elsewhere, while the template is left alone on that host")
		require.NoError(t, g.Release(t.Context(), errTest))
		require.EqualValues(t, 1, w.Stats().Failures)
	})
}

func TestPropertiesGoMachineOverTemplateOverHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := map[string]string{}
		h := fake.NewHypervisor(fake.Config{HostID: "h"})
		w := start(t, Config{
			Name:      "p",
			Templates: []Template{{Name: "a", Properties: map[string]string{"color": "template", "machine": "not this"}, Spec: vm.Spec{Properties: map[string]string{"color": "spec", "size": "spec"}}}},
			Hosts:     []Host{{Name: "h1", Slots: 1, Properties: map[string]string{"color": "host", "room": "host"}}},
		}, h)
		defer w.finish()
		g := w.acquire(Want{})
		mu.Lock()
		defer mu.Unlock()
		_ = seen
		got := g.Properties()
		require.Equal(t, "template", got["color"])
		require.Equal(t, "spec", got["size"])
		require.Equal(t, "host", got["room"])
		require.Equal(t, g.Name(), got["machine"])
		require.Equal(t, "h1", got["host"])
		require.Equal(t, "a", got["template"])
		require.Equal(t, g, FromContext(NewContext(t.Context(), g)))
		require.Nil(t, FromContext(t.Context()))
		require.Contains(t, w.String(), "held")
		require.Contains(t, g.String(), "a on h1")
		w.release(g)
	})
}

// FIELD (c) 11, 13 and the buildbot traps: closing while everything goes on.
func TestCloseEndsWaitsBootsAndIdleMachines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Slots: 3}}},
			fake.NewHypervisor(fake.Config{HostID: "h", Times: fake.Times{Boot: 10 * time.Second}}))
		defer w.finish()
		time.Sleep(5 * time.Second) // two are booting
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := w.Acquire(context.Background(), Want{})
				assert.ErrorIs(t, err, ErrClosed)
			})
		}
		wg.Go(func() {
			_, err := w.AcquireAll(context.Background(), 3, Want{})
			assert.ErrorIs(t, err, ErrClosed)
		})
		synctest.Wait()
		wg.Go(w.shut)
		wg.Go(func() { assert.NoError(t, w.Close(t.Context())) })
		wg.Wait()
		_, err := w.Acquire(t.Context(), Want{})
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestAGrantAtTheInstantOfCloseIsGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		wt := &wait{ready: make(chan struct{})}
		w.mu.Lock()
		assert.NoError(t, w.admit(t.Context(), wt, 1))
		assert.True(t, w.q.Add(&wt.q))
		w.grant(wt, time.Now())
		w.unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.shut()
		}()
		synctest.Wait()
		require.ErrorIs(t, w.await(t.Context(), wt), ErrClosed)
		<-done
	})
}

func TestCloseWaitsForGuestsAndThenTakesThemAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		store := lease.NewMemStore()
		m := manager(t, store)
		w := start(t, Config{Templates: one("a"), Leases: m, Drain: time.Minute}, h)
		good, bad := w.acquire(Want{}), w.acquire(Want{Job: "TestStuck"})
		time.AfterFunc(30*time.Second, func() { assert.NoError(t, good.Release(context.Background(), nil)) })
		began := time.Now()
		err := w.Close(t.Context())
		require.ErrorContains(t, err, "was not released within 1m0s and was taken away from TestStuck")
		require.Equal(t, time.Minute, time.Since(began))
		require.ErrorIs(t, context.Cause(bad.Context()), ErrClosed)
		_, ierr := bad.Machine().Info(t.Context())
		require.ErrorIs(t, ierr, ErrReleased)
		require.NoError(t, bad.Release(t.Context(), nil))
		require.Equal(t, err, w.Close(t.Context()), "idempotent")
		require.Zero(t, h.Count())
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestCloseReportsMachinesThatItCannotDestroy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		m := manager(t, lease.NewMemStore())
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Leases: m}, h)
		time.Sleep(time.Minute)
		h.Inject(fake.Fault{Op: vm.OpDestroy, Err: errTest})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := w.Close(ctx)
		require.ErrorIs(t, err, errTest)
		require.ErrorContains(t, err, "machine bullpen-0-")
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestAPoolWithoutLeasesMakesItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		p, err := New(Config{Hosts: []Host{{Driver: h.Driver(), Slots: 1}}, Templates: one("a")})
		require.NoError(t, err)
		g, err := p.Acquire(t.Context(), Want{})
		require.NoError(t, err)
		require.NoError(t, g.Release(t.Context(), nil))
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestAMachineThatDiesUnusedIsNotHandedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		dead := w.Guests()[0].Name
		require.NoError(t, w.hyper[0].Crash(vm.ID(dead)))
		synctest.Wait()
		g := w.acquire(Want{})
		require.NotEqual(t, dead, g.Name())
		// One that dies in use is renewed as any other.
		require.NoError(t, w.hyper[0].Crash(vm.ID(g.Name())))
		w.release(g)
		g = w.acquire(Want{})
		require.NoError(t, vm.ProveClean(t.Context(), g.Machine()))
		w.release(g)
	})
}

// FIELD P20: a record whose machine is gone.
func TestAMachineThatVanishedIsMadeAnewAfterTwoListings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{HostID: "h", Without: vm.CanWait})
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 1}}}, h)
		defer w.finish()
		time.Sleep(5 * time.Second)
		gone := w.Guests()[0].Name
		require.NoError(t, h.Remove(vm.ID(gone)))
		time.Sleep(DefaultPoll)
		require.Equal(t, gone, w.Guests()[0].Name, "one listing proves nothing")
		time.Sleep(DefaultPoll + time.Second)
		require.NotEqual(t, gone, w.Guests()[0].Name)
		require.Equal(t, 1, w.Stats().Ready)
	})
}

func TestTraceTellsInOrderAndMayCallThePool(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var p *Pool
		var mu sync.Mutex
		var kinds []EventKind
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}, Trace: &Trace{Event: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind != EventWait && e.Kind != EventReconciled { // in any order
				kinds = append(kinds, e.Kind)
			}
			if p != nil {
				p.Stats()
				_ = p.String()
			}
		}}}, hypervisor("h"))
		p = w.Pool
		g := w.acquire(Want{Job: "TestA"})
		w.release(g)
		time.Sleep(time.Minute)
		w.finish()
		mu.Lock()
		defer mu.Unlock()
		want := []EventKind{EventBoot, EventReady, EventGranted, EventReleased, EventRenew, EventReady, EventClosing, EventDestroy, EventGone}
		require.Equal(t, want, kinds)
	})
}

// A job may kill its machine; only when it happens again and again is it the
// host's or the template's fault.
func TestAMachineThatDiesInUseDelaysTheNextOneOnlyWhenItHappensInARow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		waits := func(reason error) time.Duration {
			begun := time.Now()
			g := w.acquire(Want{})
			waited := time.Since(begun)
			require.NoError(t, g.Release(t.Context(), reason))
			return waited
		}
		boot := waits(Broken(errTest)) // the pool's first listing and a boot
		require.LessOrEqual(t, waits(Broken(errTest)), boot)
		require.LessOrEqual(t, waits(nil), boot)
		for range deathsInARow {
			require.LessOrEqual(t, waits(Broken(errTest)), boot, "one given back healthy between: counting begins anew")
		}
		require.GreaterOrEqual(t, waits(nil), 10*time.Second, "three in a row")
	})
}
