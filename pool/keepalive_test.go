package pool

import (
	"testing"
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
