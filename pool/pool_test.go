package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func TestAMachineIsBootedHandedOutAndRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("deb")}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{Template: "deb", Job: "TestA"})
		require.Equal(t, "deb", g.Template())
		require.Equal(t, "h", g.Host())
		info, err := g.Machine().Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, info.State)
		require.NotZero(t, g.Token())
		require.NoError(t, vm.ProveClean(t.Context(), g.Machine()))
		first, token := g.Name(), g.Token()
		w.release(g)
		w.release(g)
		_, err = g.Machine().Info(t.Context())
		require.ErrorIs(t, err, ErrReleased)
		require.ErrorIs(t, context.Cause(g.Context()), ErrReleased)
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.Stats().Ready, "renewed behind the caller")
		g = w.acquire(Want{})
		require.NotEqual(t, first, g.Name(), "a cold boot is a new incarnation")
		require.Greater(t, g.Token(), token)
		w.release(g)
		synctest.Wait()
	})
}

func TestReadyMachinesAreBootedAheadOfDemand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		require.Equal(t, 2, w.Stats().Ready)
		began := time.Now()
		g := w.acquire(Want{})
		require.Zero(t, time.Since(began), "no wait for a warm machine")
		time.Sleep(time.Minute)
		require.Equal(t, 2, w.Stats().Ready, "the next is booted behind it")
		w.release(g)
		time.Sleep(time.Hour)
		require.Equal(t, 2, w.Stats().Ready, "the surplus was idle and is gone")
		require.Equal(t, 2, w.hyper[0].Count())
	})
}
