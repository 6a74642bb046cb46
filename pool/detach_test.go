package pool

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestADetachedMachineIsNeverThePoolsAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, h)
		g := w.acquire(Want{Job: "TestA"})
		d, err := g.Detach(t.Context(), "me")
		require.NoError(t, err)
		_, err = g.Machine().Info(t.Context())
		require.ErrorIs(t, err, ErrReleased)
		require.NoError(t, g.Release(t.Context(), nil), "which changes nothing")
		_, err = w.Acquire(t.Context(), Want{Timeout: time.Minute})
		require.ErrorIs(t, err, ErrTimeout, "the slot is kept")
		time.Sleep(3 * DefaultPoll)
		exit, err := vm.Exec(t.Context(), d.Machine, vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.True(t, exit.OK())
		i, err := d.Machine.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, "detached: me", i.Owner.Pool)
		require.Equal(t, slotKey("h", 0), d.Slot)
		require.NotZero(t, d.Token)
		require.NoError(t, d.Machine.Destroy(t.Context()))
		d.End()
		d.End()
		g = w.acquire(Want{})
		d, err = g.Detach(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, w.Close(t.Context()), "Close does not wait for it")
		require.Equal(t, 1, h.Count(), "nor destroy it")
		require.NoError(t, d.Machine.Destroy(t.Context()))
		d.End()
		w.finish()
	})
}

func TestDetachRefusesWhatItCannotGiveAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a")}, fake.NewHypervisor(fake.Config{HostID: "h", Without: vm.CanOwn}))
		defer w.finish()
		g := w.acquire(Want{})
		_, err := g.Detach(t.Context(), "me")
		require.ErrorIs(t, err, errors.ErrUnsupported)
		_, err = g.Machine().Info(t.Context())
		require.NoError(t, err, "the guest is still held")
		w.release(g)
		_, err = g.Detach(t.Context(), "me")
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}
