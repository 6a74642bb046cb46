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

// FIELD (c) 14 the other way round: what is given back twice is no limit any more.
func TestAWaitThatEndsGivesItsQuotaBackOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Quotas: map[string]int{"dev": 2}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		held := w.acquire(Want{Account: "dev"}) // so that the account is remembered
		var others []*Guest
		for range 2 {
			others = append(others, w.acquire(Want{}))
		}
		_, err := w.Acquire(t.Context(), Want{Account: "dev", Timeout: time.Minute})
		require.ErrorIs(t, err, ErrTimeout)
		ticket, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		synctest.Wait()
		ticket.Cancel()
		synctest.Wait()
		for _, g := range others {
			w.release(g)
		}
		time.Sleep(time.Minute)
		second, err := w.TryAcquire(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		_, err = w.TryAcquire(t.Context(), Want{Account: "dev"})
		require.ErrorIs(t, err, ErrQuota, "two are out")
		w.release(second)
		w.release(held)
	})
}

func TestReloadChangesQuotas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := Config{Templates: one("a"), Hosts: []Host{{Slots: 4}}}
		w := start(t, c, hypervisor("h"))
		defer w.finish()
		c.Hosts[0].Driver = w.drivers[0]
		quotas := func(q map[string]int) {
			c.Quotas = q
			require.NoError(t, w.Reload(c))
		}
		before := w.acquire(Want{Account: "dev"})
		quotas(map[string]int{"dev": 1})
		first := w.acquire(Want{Account: "dev"})
		w.release(before) // it did not count
		second, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		synctest.Wait()
		require.False(t, second.Progress().Over)
		quotas(map[string]int{"dev": 2})
		g2, err := second.Wait(t.Context())
		require.NoError(t, err, "more is let in")
		third, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		quotas(map[string]int{"dev": 1})
		w.release(first)
		synctest.Wait()
		require.False(t, third.Progress().Over, "less counts from now on")
		quotas(nil)
		g3, err := third.Wait(t.Context())
		require.NoError(t, err, "none lets all in")
		fourth, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		g4, err := fourth.Wait(t.Context())
		require.NoError(t, err)
		w.release(g2)
		quotas(map[string]int{"dev": 1})
		g5 := w.acquire(Want{Account: "dev"})
		fifth, err := w.Request(t.Context(), Want{Account: "dev"})
		require.NoError(t, err)
		synctest.Wait()
		require.False(t, fifth.Progress().Over)
		quotas(map[string]int{"dev": 0})
		_, err = fifth.Wait(t.Context())
		require.ErrorIs(t, err, ErrImpossible)
		for _, g := range []*Guest{g3, g4, g5} {
			w.release(g)
		}
		w.mu.Lock()
		require.Empty(t, w.accounts, "nothing is counted any more")
		w.mu.Unlock()
	})
}
