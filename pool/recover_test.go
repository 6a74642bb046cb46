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

func TestReadyMachinesOfALostHostAreNotHandedOutUntilItIsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Slots: 1}, {Slots: 1}}}, hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		time.Sleep(5 * time.Second)
		lost := 0
		if w.Guests()[0].Host == "h2" {
			lost = 1
		}
		// Only its listing fails: the machine itself goes on.
		w.hyper[lost].Inject(fake.Fault{Op: vm.OpList, Err: errTest})
		time.Sleep(DefaultPoll + 5*time.Second)
		for range 3 {
			g := w.acquire(Want{})
			require.NotEqual(t, w.drivers[lost].HostID(), g.Host())
			w.release(g)
		}
		require.Equal(t, 1, w.hyper[lost].Count())
		w.hyper[lost].Heal()
		time.Sleep(2 * time.Minute)
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		require.Equal(t, 1, w.hyper[lost].Made(), "it is the one from before")
		for _, g := range gs {
			w.release(g)
		}
	})
}

func TestNoMoreRoomIsMadeThanIsNeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{HostID: "h", Times: fake.Times{Boot: time.Second, Destroy: 20 * time.Second}})
		w := start(t, Config{Templates: []Template{{Name: "a"}, {Name: "b", Ready: 3}}, Hosts: []Host{{Slots: 3}}}, h)
		defer w.finish()
		time.Sleep(10 * time.Second)
		for range 5 { // each looks for room anew
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := w.Acquire(ctx, Want{Template: "a"})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "1 destroying")
			cancel()
		}
		require.Equal(t, 2, w.Stats().Ready)
	})
}

func TestABootEndsWhenItsLeaseIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		cut := &cutStore{MemStore: lease.NewMemStore()}
		m := manager(t, cut)
		ended := make(chan struct{}, 10)
		p, err := New(Config{Leases: m, Hosts: []Host{{Driver: h.Driver(), Slots: 1}}, Templates: []Template{{
			Name: "a", Ready: 1, BootTimeout: 10 * time.Hour,
			Probe: func(ctx context.Context, _ vm.Machine) error {
				<-ctx.Done()
				ended <- struct{}{}
				return context.Cause(ctx)
			},
		}}})
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		cut.cut.Store(true)
		began := time.Now()
		<-ended
		require.LessOrEqual(t, time.Since(began), lease.DefaultTTL)
		cut.cut.Store(false)
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

func TestALockThatOthersHaveStopsItsTemplateOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{
			Templates: []Template{{Name: "licensed", Locks: []string{"license"}}, {Name: "free"}},
			Locks:     map[string]int{"license": 1}, Hosts: []Host{{Slots: 3}},
		}, hypervisor("h"))
		defer w.finish()
		other := manager(t, w.store)
		l, err := other.Acquire(t.Context(), lockKey("license", 0), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := w.Acquire(ctx, Want{Template: "licensed"})
			done <- err
		}()
		time.Sleep(10*time.Second + 100*time.Millisecond)
		began := time.Now()
		g := w.acquire(Want{Template: "free"})
		require.LessOrEqual(t, time.Since(began), time.Second)
		w.release(g)
		cancel()
		require.ErrorContains(t, <-done, "others have a lock of licensed (license)")
		require.NoError(t, l.Release(t.Context()))
		require.NoError(t, other.Close(t.Context()))
		w.release(w.acquire(Want{Template: "licensed"}))
	})
}

// FIELD (c) 1: made, and the answer lost on its way.
func TestAMachineWhoseMakingFailedLateIsFoundAndDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Poll: time.Hour}, hypervisor("h", fake.Fault{Op: vm.OpCreate, Err: errTest, Late: true}))
		defer w.finish()
		_, err := w.Acquire(t.Context(), Want{Timeout: 5 * time.Second})
		require.ErrorIs(t, err, ErrTimeout)
		require.Zero(t, w.hyper[0].Count())
		require.Zero(t, w.Stats().Machines)
	})
}

// A lease may be lost at the very instant of the grant, before the pool was told.
func TestAMachineWhoseLeaseIsLostAtTheGrantIsNotHandedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 3}}, Hosts: []Host{{Slots: 4}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(10 * time.Second)
		spoil := func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			var top *unit // the one that is handed out next
			w.templates[0].places[0].class.EachFree(func(u *unit) bool { top = u; return false })
			top.fence = func() error { return lease.ErrLost }
			return top.name
		}
		lost := spoil()
		g := w.acquire(Want{})
		require.NotEqual(t, lost, g.Name())
		w.release(g)
		time.Sleep(10 * time.Second)
		lost = spoil()
		gs, err := w.AcquireAll(t.Context(), 3, Want{})
		require.NoError(t, err)
		for _, g := range gs {
			require.NotEqual(t, lost, g.Name())
			require.NoError(t, g.fence())
			w.release(g)
		}
		time.Sleep(10 * time.Second)
		spoil()
		g, err = w.TryAcquire(t.Context(), Want{})
		if err == nil {
			w.release(g)
		}
		require.NoError(t, w.consistent())
		time.Sleep(15 * time.Minute)
		require.Equal(t, 3, w.Stats().Ready)
		require.EqualValues(t, 3, w.Stats().LeasesLost)
	})
}
