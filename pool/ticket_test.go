package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// FIELD P1, P3: asked for now, collected later, with place, percent and reason.
func TestARequestHasItsPlaceAndTellsItsProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}},
			fake.NewHypervisor(fake.Config{HostID: "h", Times: fake.Times{Boot: 10 * time.Second}}))
		defer w.finish()
		_, err := w.Request(t.Context(), Want{Template: "none"})
		require.ErrorIs(t, err, ErrImpossible)
		first, err := w.Request(t.Context(), Want{})
		require.NoError(t, err)
		second, err := w.Request(t.Context(), Want{})
		require.NoError(t, err)
		require.NotEqual(t, first.ID(), second.ID())
		time.Sleep(5 * time.Second)
		require.Equal(t, Progress{Percent: 50, Reason: "1 booting"}, first.Progress())
		require.Equal(t, Progress{Place: 1, Reason: "1 booting; 1 before it"}, second.Progress())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, Progress{Percent: 100, Over: true, Reason: "it is there"}, first.Progress())
		g, err := first.Wait(t.Context())
		require.NoError(t, err)
		_, err = first.Wait(t.Context())
		require.ErrorContains(t, err, "collected before")
		first.Cancel()
		_, err = g.Machine().Info(t.Context())
		require.NoError(t, err, "a collected guest is not the ticket's any more")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = second.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.release(g)
		time.Sleep(3 * time.Second)
		require.Equal(t, 30, second.Progress().Percent, "by what the last one took")
		g, err = second.Wait(t.Context())
		require.NoError(t, err)
		w.release(g)
	})
}

// FIELD (c) 1 and 9: allocated to a request that is deleted, or that nobody
// collects.
func TestARequestThatNobodyCollectsLeaksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		w.release(w.acquire(Want{}))
		for _, after := range []time.Duration{0, 500 * time.Millisecond, time.Second, time.Minute} {
			ctx, cancel := context.WithCancel(t.Context())
			ticket, err := w.Request(ctx, Want{})
			require.NoError(t, err)
			cancelled, err := w.Request(t.Context(), Want{})
			require.NoError(t, err)
			time.Sleep(after)
			cancelled.Cancel()
			cancelled.Cancel()
			cancel()
			synctest.Wait()
			_, err = ticket.Wait(t.Context())
			require.ErrorIs(t, err, context.Canceled)
			p := ticket.Progress()
			require.True(t, p.Over)
			require.ErrorIs(t, p.Err, context.Canceled)
			time.Sleep(time.Minute)
			require.Equal(t, 1, w.Stats().Ready)
			w.release(w.acquire(Want{}))
		}
		ready, err := w.Request(t.Context(), Want{})
		require.NoError(t, err)
		waits, err := w.Request(t.Context(), Want{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		w.shut()
		for _, ticket := range []*Ticket{ready, waits} {
			_, err = ticket.Wait(t.Context())
			require.ErrorIs(t, err, ErrClosed)
		}
	})
}

func TestAHeldMachineIsKeptForAPersonUntilItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Name: "here", Slots: 2}}, Kept: 1}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{Job: "TestA"})
		_, err := g.Hold(t.Context(), HoldOptions{TTL: -1})
		require.Error(t, err)
		how, err := g.Hold(t.Context(), HoldOptions{TTL: time.Minute})
		require.NoError(t, err)
		require.Equal(t, g.Name(), string(how.Machine))
		require.Contains(t, how.String(), "on here (h) until 00:0")
		require.Contains(t, how.String(), "for TestA; accelerator: none")
		require.NoError(t, g.Release(t.Context(), nil), "it was given back by Hold")
		_, err = g.Hold(t.Context(), HoldOptions{})
		require.ErrorIs(t, err, ErrReleased)
		m, err := w.drivers[0].Open(t.Context(), how.Machine)
		require.NoError(t, err)
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, info.State)
		g = w.acquire(Want{})
		_, err = g.Hold(t.Context(), HoldOptions{})
		require.ErrorIs(t, err, ErrQuota)
		_, err = g.Machine().Info(t.Context())
		require.NoError(t, err, "still held after an error")
		require.Equal(t, 1, w.Stats().Kept)
		time.Sleep(time.Minute)
		require.NotContains(t, listed(t, w.drivers[0]), string(how.Machine))
		how, err = g.Hold(t.Context(), HoldOptions{Owner: "me"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = w.AcquireAll(ctx, 2, Want{})
		require.ErrorContains(t, err, "held: kept for me 1s")
		require.Error(t, w.EndHold("nobody"))
		require.NoError(t, w.EndHold(string(how.Machine)))
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		w.release(gs[0])
		_, err = gs[1].Hold(t.Context(), HoldOptions{TTL: 30 * time.Second})
		require.NoError(t, err)
		began := time.Now()
		w.shut()
		require.Equal(t, 30*time.Second, time.Since(began).Truncate(time.Second), "Close waits for the person")
	})
}

func TestCloseEndsHoldsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		m := manager(t, lease.NewMemStore())
		w := start(t, Config{Templates: one("a"), Leases: m}, h)
		g := w.acquire(Want{Job: "TestA"})
		_, err := g.Hold(t.Context(), HoldOptions{})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, w.Close(ctx), "was kept for TestA and is destroyed")
		require.Zero(t, h.Count())
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, h.Close())
	})
}

// FIELD P24 and (c) 14: a pause that is never ended, a drain that kills.
func TestPausedAndDrainedHostsTakeNothingNewAndKeepTheirGuests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 4}}}, hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		time.Sleep(time.Minute)
		g := w.acquire(Want{Avoid: []string{"h2"}})
		require.Equal(t, "h1", g.Host())
		require.NoError(t, w.Drain("h1"))
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.hyper[0].Count())
		require.NoError(t, g.Context().Err())
		w.release(g)
		time.Sleep(time.Minute)
		require.Zero(t, w.hyper[0].Count())
		require.NoError(t, w.Pause("h2"))
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err, "what is ready is handed out")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = w.Acquire(ctx, Want{})
		require.ErrorContains(t, err, "h1 is paused; h2 is paused")
		require.NoError(t, w.Resume("h1"))
		g = w.acquire(Want{})
		require.Equal(t, "h1", g.Host())
		require.Error(t, w.Resume("h9"))
		for _, g := range append(gs, g) {
			w.release(g)
		}
	})
}
