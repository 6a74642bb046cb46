package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

func TestEachWayInWhichAMachineIsHeldByNobodyIsALeak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, five(`, "build_wait_timeout": -1`))
		defer w.finish()
		h := w.hyper["h"]
		require.Equal(t, result.Passed, w.all(1, "b0")[0].Status)
		time.Sleep(20 * time.Second) // the machine for the next build is up
		// Another process: a driver and leases of its own.
		outside := h.Driver()
		defer outside.Close()
		looker, err := lease.New(lease.Config{Store: w.parts.store, NoLock: true})
		require.NoError(t, err)
		defer looker.Close(t.Context())
		hosts := []opened{{hostConfig: hostConfig{Name: "h"}, driver: outside}}
		leaks, held, err := findLeaks(t.Context(), "latent", looker, hosts)
		require.NoError(t, err)
		require.Empty(t, leaks)
		require.Equal(t, 1, held)

		all, err := outside.List(t.Context())
		require.NoError(t, err)
		right := all[0].Owner
		for why, change := range map[string]func(*vm.Owner){
			"nobody has a lease on its slot": func(o *vm.Owner) { o.Slot = "host/h/slot/4" },
			"by another session":             func(o *vm.Owner) { o.Session = "session/of-a-dead-run" },
			"a newer machine has its slot":   func(o *vm.Owner) { o.Token-- },
			"another lease store":            func(o *vm.Owner) { o.Store = "gone" },
		} {
			owner := right
			owner.Incarnation = why
			change(&owner)
			m, err := outside.Create(t.Context(), vm.Spec{Name: "neglected", Owner: owner})
			require.NoError(t, err)
			require.NoError(t, m.Start(t.Context()))
			leaks, held, err := findLeaks(t.Context(), "latent", looker, hosts)
			require.NoError(t, err)
			require.Len(t, leaks, 1, why)
			require.Equal(t, 1, held)
			require.Contains(t, leaks[0].String(), "LEAK neglected on h (running): ")
			require.Contains(t, leaks[0].why, why)
			leaks, held, err = findLeaks(t.Context(), "somebody else's master", looker, hosts)
			require.NoError(t, err)
			require.Empty(t, leaks, "others' machines are not judged")
			require.Zero(t, held)
			require.NoError(t, m.Destroy(t.Context()))
		}
		h.Lose(true)
		_, _, err = findLeaks(t.Context(), "latent", looker, hosts)
		require.ErrorIs(t, err, vm.ErrHostLost, "could not look is not: there is none")
		h.Lose(false)
	})
}
