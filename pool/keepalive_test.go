package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestAReadyMachineThatDoesNotAnswerIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		alive time.Duration
		made  int
	}{
		"asked every minute": {time.Minute, 2},
		"never asked":        {0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				// The first guest goes deaf once it is ready: its machine runs on.
				h := hypervisor("h")
				w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1, Clean: noProof}}, Hosts: []Host{{Slots: 1, Keepalive: c.alive}}}, h)
				defer w.finish()
				h.Inject(fake.Fault{Op: vm.OpStart, Times: 1, Guest: fake.Guest{Deaf: true}})
				time.Sleep(5 * time.Minute)
				require.Equal(t, c.made, h.Made())
				require.Equal(t, 1, w.Stats().Ready)
			})
		})
	}
}

func TestKeepaliveLeavesMachinesThatAnswerAndGuestsAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2, Clean: noProof}}, Hosts: []Host{{Slots: 2, Keepalive: time.Minute}}}, h)
		defer w.finish()
		time.Sleep(10 * time.Second)
		g := w.acquire(Want{})
		time.Sleep(10 * time.Minute)
		require.NoError(t, g.Context().Err())
		require.Equal(t, 2, h.Made())
		require.Zero(t, w.Stats().Failures)
		w.release(g)
	})
}

// What was asked while it was ready, and is held when it does not answer, is its
// guest's to judge.
func TestKeepaliveTakesNoMachineAwayFromItsGuest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 1, Clean: noProof}}, Hosts: []Host{{Slots: 1, Keepalive: time.Minute}}}, h)
		defer w.finish()
		h.Inject(fake.Fault{Op: vm.OpStart, Times: 1, Guest: fake.Guest{Deaf: true}})
		time.Sleep(65 * time.Second)
		g := w.acquire(Want{})
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1, w.Stats().Held)
		require.Zero(t, w.Stats().Failures)
		w.release(g)
	})
}

func TestAReadyMachineWhoseProbeFailsLaterIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad := map[vm.ID]bool{}
		var mu sync.Mutex
		w := start(t, Config{Hosts: []Host{{Slots: 2, Keepalive: time.Minute}}, Templates: []Template{{Name: "a", Ready: 1, Probe: func(_ context.Context, m vm.Machine) error {
			mu.Lock()
			defer mu.Unlock()
			if bad[m.ID()] {
				return errTest
			}
			return nil
		}}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(10 * time.Second)
		name := w.Guests()[0].Name
		time.Sleep(5 * time.Minute)
		require.Equal(t, name, w.Guests()[0].Name)
		mu.Lock()
		bad[vm.ID(name)] = true
		mu.Unlock()
		time.Sleep(5 * time.Minute)
		require.Equal(t, 1, w.Stats().Ready)
		require.NotEqual(t, name, w.Guests()[0].Name)
		require.EqualValues(t, 1, w.Stats().Failures)
		require.Equal(t, 2, w.hyper[0].Made())
	})
}

func TestAMachineIsNotHandedOutWhileItsProbeRunsAndNoGuestIsProbed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var p atomic.Pointer[Pool]
		var probes atomic.Int32
		w := start(t, Config{Hosts: []Host{{Slots: 1, Keepalive: time.Minute}}, Templates: []Template{{Name: "a", Ready: 1, Idle: IdleFor(10 * time.Minute), Probe: func(context.Context, vm.Machine) error {
			probes.Add(1)
			time.Sleep(10 * time.Second)
			for _, g := range p.Load().Guests() {
				if g.State == "held" {
					t.Error("a guest is probed")
				}
			}
			return nil
		}}}}, hypervisor("h"))
		p.Store(w.Pool)
		defer w.finish()
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 1, probes.Load())
		time.Sleep(time.Minute - 15*time.Second)
		synctest.Wait()
		require.EqualValues(t, 2, probes.Load())
		require.Equal(t, 1, w.Stats().Renewing)
		began := time.Now()
		g := w.acquire(Want{})
		require.Positive(t, time.Since(began), "the probe is waited for")
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 2, probes.Load())
		require.Equal(t, 1, w.hyper[0].Made(), "none is made beside")
		w.release(g)
	})
}

func TestProbesDoNotKeepAMachineFromBeingIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Hosts: []Host{{Slots: 1, Keepalive: time.Minute}}, Templates: []Template{{Name: "a", Idle: IdleFor(5 * time.Minute), Probe: func(context.Context, vm.Machine) error { return nil }}}}, hypervisor("h"))
		defer w.finish()
		w.release(w.acquire(Want{}))
		time.Sleep(7 * time.Minute)
		require.Zero(t, w.hyper[0].Count())
	})
}

func TestAProbeThatRunsWhenThePoolClosesEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var again atomic.Bool
		w := start(t, Config{Hosts: []Host{{Slots: 1, Keepalive: time.Minute}}, Templates: []Template{{Name: "a", Ready: 1, Probe: func(ctx context.Context, _ vm.Machine) error {
			if again.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			again.Store(true)
			return nil
		}}}}, hypervisor("h"))
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, w.Stats().Renewing)
		w.finish()
	})
}
