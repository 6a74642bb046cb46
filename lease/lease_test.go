package lease

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func isK(key string) bool { return key == "k" }

func fails(context.Context) error { return errDown }

func TestALateFirstHolderDoesNotDeleteTheLockOfTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		ctx := t.Context()
		first, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		store.set(down, nil)
		second, err := b.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		store.set(nil, nil)
		require.NoError(t, first.Release(ctx))
		require.NoError(t, a.Release(ctx, "k", first.Token()))
		require.NoError(t, b.Release(ctx, "k", first.Token()))
		require.NoError(t, second.Check())
		rec, err := mem.Load(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, second.Token(), rec.Token)
		_, err = first.Raise(ctx)
		require.ErrorIs(t, err, ErrLost)
	})
}

func TestAReleaseWorksAfterTheProcessWasRestarted(t *testing.T) {
	ctx := t.Context()
	mem := NewMemStore()
	a, b := newManager(t, mem), newManager(t, mem)
	l, err := a.Acquire(ctx, "k", nil)
	require.NoError(t, err)
	require.NoError(t, b.Release(ctx, "k", l.Token()+1), "another token is not this one's")
	_, err = b.TryAcquire(ctx, "k", nil)
	require.ErrorIs(t, err, ErrHeld)
	require.NoError(t, b.Release(ctx, "k", l.Token()))
	require.NoError(t, b.Release(ctx, "k", l.Token()), "idempotent")
	n, err := b.TryAcquire(ctx, "k", nil)
	require.NoError(t, err)
	_, err = l.Raise(ctx)
	require.ErrorIs(t, err, ErrLost, "the holder hears of it at its next raise")
	require.ErrorContains(t, err, "now held by")
	require.ErrorIs(t, l.Check(), ErrLost)
	<-l.Done()
	require.NoError(t, l.Release(ctx))
	require.NoError(t, n.Check())
}

func TestRaiseFencesWhatWasHandedOutBefore(t *testing.T) {
	ctx := t.Context()
	m := newManager(t, NewMemStore())
	l, err := m.Acquire(ctx, "k", nil)
	require.NoError(t, err)
	var fences []func() error
	last := l.Token()
	for range 5 {
		fences = append(fences, l.Fence())
		token, err := l.Raise(ctx)
		require.NoError(t, err)
		require.Greater(t, token, last)
		last = token
		for _, f := range fences {
			require.ErrorIs(t, f(), ErrLost)
		}
		require.NoError(t, l.Check())
		require.NoError(t, l.Fence()())
	}
	require.NoError(t, m.Release(ctx, "k", last-1), "an old token releases nothing")
	require.NoError(t, l.Check())
	require.NoError(t, m.Release(ctx, "k", last))
	require.ErrorIs(t, l.Check(), ErrReleased)
	require.ErrorIs(t, l.Fence()(), ErrReleased)
	require.ErrorContains(t, l.Err(), "lease: k: check (token")
}

func TestALostAnswerNeitherLeaksTheKeyNorTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		ctx := t.Context()
		w, err := a.Acquire(ctx, "warm", nil) // the session is there
		require.NoError(t, err)

		store.set(nil, on("swap", isK, fails))
		_, err = a.Acquire(ctx, "k", nil)
		require.ErrorIs(t, err, errDown)
		store.set(nil, nil)
		l, err := a.TryAcquire(ctx, "k", nil) // what is left over is ours
		require.NoError(t, err)

		store.set(nil, on("swap", isK, fails))
		before := l.Token()
		_, err = l.Raise(ctx)
		require.ErrorIs(t, err, errDown)
		require.NoError(t, l.Check())
		store.set(nil, nil)
		token, err := l.Raise(ctx)
		require.NoError(t, err)
		require.Greater(t, token, before+1)

		store.set(nil, on("swap", isK, fails))
		_, err = l.Raise(ctx)
		require.ErrorIs(t, err, errDown)
		store.set(nil, nil)
		require.NoError(t, l.Release(ctx))
		rec, err := mem.Load(ctx, "k")
		require.NoError(t, err)
		require.True(t, rec.Zero())

		// Nobody here asks again: it is found and deleted behind the renewals.
		store.set(nil, on("swap", isK, fails))
		_, err = a.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, errDown)
		store.set(nil, nil)
		_, err = b.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld)
		time.Sleep(a.config.TTL / 2)
		n, err := b.TryAcquire(ctx, "k", nil)
		require.NoError(t, err)
		time.Sleep(10 * a.config.TTL)
		require.NoError(t, n.Check())
		require.NoError(t, w.Check())
		require.Empty(t, a.doubts)
	})
}

func TestOneCleanupThatFailsDoesNotBlockTheOthersAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		ctx := t.Context()
		k, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		other, err := a.Acquire(ctx, "other", nil)
		require.NoError(t, err)
		store.set(on("delete", isK, fails), nil)
		require.ErrorIs(t, k.Release(ctx), errDown)
		require.ErrorIs(t, k.Check(), ErrReleased, "the right is gone all the same")
		require.NoError(t, other.Release(ctx))
		_, err = a.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld, "its record is still there")
		time.Sleep(a.config.TTL)
		store.set(nil, nil)
		time.Sleep(a.config.TTL)
		l, err := b.TryAcquire(ctx, "k", nil)
		require.NoError(t, err)
		require.NoError(t, k.Release(ctx))
		require.NoError(t, l.Check())
	})
}

func TestAReleaseDoesNotEndWithTheCallersContext(t *testing.T) {
	for _, store := range []Store{NewMemStore(), newFaulty(NewMemStore())} {
		m := newManager(t, store)
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		late, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, l.Release(late))
		_, err = m.Acquire(late, "k", nil)
		require.ErrorIs(t, err, context.Canceled)
		_, err = m.TryAcquire(t.Context(), "k", nil)
		require.NoError(t, err)
	}
}

func TestARaiseAndAReleaseAtTheSameTimeLeaveNothing(t *testing.T) {
	mem := NewMemStore()
	for _, store := range []Store{mem, newFaulty(mem)} {
		m := newManager(t, store)
		for range 300 {
			l, err := m.Acquire(t.Context(), "k", nil)
			require.NoError(t, err)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := l.Raise(t.Context()); err != nil {
						assert.ErrorIs(t, err, ErrReleased)
					}
				})
				wg.Go(func() { assert.NoError(t, l.Release(t.Context())) })
			}
			wg.Wait()
			rec, err := mem.Load(t.Context(), "k")
			require.NoError(t, err)
			require.True(t, rec.Zero())
		}
	}
}

func TestAContextEndsWithTheLeaseAndSaysWhy(t *testing.T) {
	m := newManager(t, NewMemStore())
	l, err := m.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	a, cancelA := l.Context(t.Context())
	b, cancelB := l.Context(t.Context())
	defer cancelB()
	cancelA()
	require.ErrorIs(t, context.Cause(a), context.Canceled)
	require.NoError(t, b.Err())
	done := l.Done()
	require.NoError(t, l.Release(t.Context()))
	<-b.Done()
	require.ErrorIs(t, context.Cause(b), ErrReleased)
	<-done
	<-l.Done()
	c, cancelC := l.Context(t.Context())
	defer cancelC()
	require.ErrorIs(t, context.Cause(c), ErrReleased)
}
