package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWaitersAreServedByPriorityThenArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, NewMemStore())
		ctx := t.Context()
		first, err := m.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		type arrival struct{ priority, n int }
		var want, got []arrival
		var wg sync.WaitGroup
		for n := range 200 {
			a := arrival{rand.IntN(4), n}
			want = append(want, a)
			wg.Go(func() {
				l, err := m.Acquire(ctx, "k", &Options{Priority: a.priority})
				assert.NoError(t, err)
				got = append(got, a) // guarded by the lease itself
				assert.NoError(t, l.Release(ctx))
			})
			synctest.Wait()
		}
		slices.SortStableFunc(want, func(a, b arrival) int { return b.priority - a.priority })
		require.NoError(t, first.Release(ctx))
		wg.Wait()
		require.Equal(t, want, got)
	})
}

func TestTenThousandWaitersDoNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		other, m := newManager(t, mem), newManager(t, store)
		_, err := other.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		for range 10000 {
			wg.Go(func() {
				_, err := m.Acquire(ctx, "k", nil)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		synctest.Wait()
		before := store.count("load") + store.count("swap")
		wg.Wait()
		looks := store.count("load") + store.count("swap") - before
		// Two loads a look, one look in 0.375 s at most, and the renewals.
		assert.Less(t, looks, 2*int(time.Hour/(375*time.Millisecond))+1000)
		require.Empty(t, m.queues)
	})
}

func TestAWaitThatIsCancelledAtTheInstantOfTheGrantLosesNothing(t *testing.T) {
	for range 30 * soak(t) {
		synctest.Test(t, func(t *testing.T) {
			mem := NewMemStore()
			var store Store = mem
			if rand.IntN(2) == 0 {
				store = newFaulty(mem)
			}
			m := newManager(t, store)
			l, err := m.Acquire(t.Context(), "k", nil)
			require.NoError(t, err)
			var wg sync.WaitGroup
			var granted atomic.Int32
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				wg.Go(func() {
					defer cancel()
					l, err := m.Acquire(ctx, "k", nil)
					if err != nil {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
						return
					}
					granted.Add(1)
					assert.NoError(t, l.Check())
					assert.NoError(t, l.Release(t.Context()))
				})
			}
			last := make(chan *Lease)
			go func() { // waits longer than all the others: it must get its turn
				l, err := m.Acquire(t.Context(), "k", &Options{Priority: -1})
				assert.NoError(t, err)
				last <- l
			}()
			time.Sleep(time.Second) // the others' contexts end at this very instant
			require.NoError(t, l.Release(t.Context()))
			wg.Wait()
			require.NoError(t, (<-last).Release(t.Context()))
			rest, err := mem.List(t.Context(), "k")
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Empty(t, m.held)
		})
	}
}

func TestAWaiterThatLeavesAsItIsWokenPassesTheTurnOn(t *testing.T) {
	m := newManager(t, NewMemStore(), func(c *Config) { c.Poll = time.Hour }) // no poll helps
	waiting := func(n int) {
		for {
			m.mu.Lock()
			q := m.queues["k"]
			there := q != nil && len(q.heap) == n
			m.mu.Unlock()
			if there {
				return
			}
			runtime.Gosched()
		}
	}
	for range 1000 * soak(t) {
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		limit, stop := context.WithTimeout(t.Context(), time.Minute)
		ctx, cancel := context.WithCancel(limit)
		var wg sync.WaitGroup
		wg.Go(func() {
			if l, err := m.Acquire(ctx, "k", nil); err == nil {
				assert.NoError(t, l.Release(limit))
			}
		})
		waiting(1)
		wg.Go(func() {
			l, err := m.Acquire(limit, "k", nil)
			if assert.NoError(t, err) {
				assert.NoError(t, l.Release(limit))
			}
		})
		waiting(2)
		wg.Go(cancel)
		require.NoError(t, l.Release(limit))
		wg.Wait()
		stop()
		if t.Failed() {
			return
		}
	}
}

func TestTryAcquireNeverOvertakesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		ctx := t.Context()
		l, err := m.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		got, _ := takes(t, m, "k")
		synctest.Wait()
		store.set(on("swap", func(k string) bool { return k == "k" }, func(context.Context) error { time.Sleep(time.Second); return nil }), nil)
		require.NoError(t, l.Release(ctx))
		_, err = m.TryAcquire(ctx, "k", nil) // free in the store, but promised
		require.ErrorIs(t, err, ErrHeld)
		store.set(nil, nil)
		require.NoError(t, (<-got).Check())
	})
}

func TestAReleaseInAnotherManagerWakesTheWaiterThroughTheWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem, func(c *Config) { c.Poll = time.Hour })
		l, err := a.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		got, at := takes(t, b, "k")
		time.Sleep(10 * time.Second)
		now := time.Now().UnixNano()
		require.NoError(t, l.Release(t.Context()))
		require.NoError(t, (<-got).Check())
		assert.Equal(t, now, at.Load(), "woken at once, no poll")
		require.NoError(t, a.Close(t.Context()))
		assert.Error(t, b.Close(t.Context()), "its lease was still held")
	})
}

func TestAWaitOutlivesAStoreThatFailsForAWhileAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, mem), newManager(t, store)
		l, err := a.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		got, _ := takes(t, b, "k")
		time.Sleep(time.Minute)
		store.set(down, nil)
		time.Sleep(b.config.TTL * 2 / 3)
		store.set(nil, nil)
		time.Sleep(time.Second)
		require.NoError(t, l.Release(t.Context()))
		require.NoError(t, (<-got).Release(t.Context()))

		_, err = a.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		failed := make(chan error)
		go func() {
			_, err := b.Acquire(t.Context(), "k", nil)
			failed <- err
		}()
		time.Sleep(time.Minute)
		store.set(down, nil)
		require.ErrorIs(t, <-failed, errDown)
	})
}

func TestAWaitErrorSaysWhoHoldsItSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a := newManager(t, mem, func(c *Config) { c.Owner = "TestUpgrade" })
		b := newManager(t, mem)
		l, err := a.Acquire(t.Context(), "host/h1/slot/0", nil)
		require.NoError(t, err)
		time.Sleep(12 * time.Minute)
		for _, m := range []*Manager{a, b} {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("the test is over"))
			defer cancel()
			_, err = m.Acquire(ctx, "host/h1/slot/0", &Options{Note: "TestInstall"})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			var op *OpError
			require.ErrorAs(t, err, &op)
			assert.Equal(t, l.Token(), op.Holder.Token)
			assert.Regexp(t, `^lease: host/h1/slot/0: held by TestUpgrade on .* \(pid \d+\) since 12m\d+s, token \d+: acquire: waited 3s: context deadline exceeded: the test is over$`, err.Error())
		}
	})
}
