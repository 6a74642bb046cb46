package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// FIELD P22, and (c) 14: a handler that is paused for its quota is never unpaused.
func TestAnAccountHasNoMoreThanItsQuotaAndStopsNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Quotas: map[string]int{"dev": 1}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		first := w.acquire(Want{Account: "dev"})
		second, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		third, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		_, err = w.TryAcquire(t.Context(), Want{Account: "dev"})
		require.ErrorIs(t, err, ErrQuota)
		_, err = w.AcquireAll(t.Context(), 2, Want{Account: "dev"})
		require.ErrorIs(t, err, ErrImpossible)
		_, err = w.Acquire(t.Context(), Want{Account: "dev", Timeout: time.Minute})
		require.ErrorContains(t, err, "account dev uses 1 of its quota of 1")
		free := w.acquire(Want{}) // others go on
		other := w.acquire(Want{Account: "ops"})
		require.False(t, second.Progress().Over)
		w.release(first)
		g, err := second.Wait(t.Context())
		require.NoError(t, err)
		require.False(t, third.Progress().Over, "one at a time")
		third.Cancel()
		fourth, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		require.NoError(t, g.Release(t.Context(), Broken(errTest)))
		g, err = fourth.Wait(t.Context())
		require.NoError(t, err)
		fifth, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		w.release(free)
		w.release(other)
		w.release(g)
		synctest.Wait()
		fifth.Cancel()
		w.mu.Lock()
		require.Empty(t, w.accounts, "nothing is counted any more")
		w.mu.Unlock()
	})
}
