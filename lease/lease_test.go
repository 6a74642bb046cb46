package lease

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
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

func TestAFixedTermEndsByItselfAndIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", &Options{Term: time.Hour, MostTerm: 2 * time.Hour, Note: "hold"})
		require.NoError(t, err)
		require.Empty(t, a.SessionKey(), "it needs none")
		time.Sleep(time.Hour - 1)
		require.NoError(t, l.Check())
		left, err := l.Extend(ctx, 30*time.Minute)
		require.NoError(t, err)
		require.Equal(t, 30*time.Minute, left)
		time.Sleep(20 * time.Minute)
		left, err = l.Extend(ctx, 2*time.Hour)
		require.NoError(t, err)
		require.Equal(t, 40*time.Minute+1, left, "not beyond the longest term")
		time.Sleep(left - 1)
		require.NoError(t, l.Check())
		time.Sleep(1)
		require.ErrorIs(t, l.Check(), ErrLost)
		require.ErrorContains(t, l.Check(), "fixed term of 1h0m0s is over")
		<-l.Done()
		_, err = l.Extend(ctx, time.Hour)
		require.Error(t, err)
		n, err := b.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		require.Greater(t, n.Token(), l.Token())
		_, err = n.Extend(ctx, time.Hour)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

func TestAFixedTermOutlivesItsManagerAndIsHandedOnByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		require.NoError(t, l.Fix(ctx, 8*time.Hour))
		require.NoError(t, l.Check())
		token := l.Token()
		require.NoError(t, a.Close(ctx))
		require.ErrorIs(t, l.Check(), ErrClosed)
		time.Sleep(time.Hour)
		_, err = b.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld)
		_, err = b.Adopt(ctx, "k", token+1)
		require.ErrorIs(t, err, ErrConflict)
		n, err := b.Adopt(ctx, "k", token)
		require.NoError(t, err)
		require.Greater(t, n.Token(), token)
		time.Sleep(100 * time.Hour)
		require.NoError(t, n.Check(), "it is renewed again")
	})
}

func TestAFixedTermIsFreeForOthersATermAfterTheySawIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		l, err := a.Acquire(t.Context(), "k", &Options{Term: time.Hour})
		require.NoError(t, err)
		require.NoError(t, a.Close(t.Context()))
		began := time.Now()
		n, err := b.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		require.Equal(t, time.Hour+b.config.Margin, time.Since(began))
		require.Greater(t, n.Token(), l.Token())
	})
}

func TestWhatAManagerLostItAdoptsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		ctx := t.Context()
		l, err := m.Acquire(ctx, "k", &Options{Note: "n"})
		require.NoError(t, err)
		_, err = m.Adopt(ctx, "k", l.Token())
		require.ErrorIs(t, err, ErrHeld)
		store.set(down, nil)
		time.Sleep(m.config.TTL)
		require.ErrorIs(t, l.Check(), ErrLost)
		store.set(nil, nil)
		began := time.Now()
		n, err := m.Adopt(ctx, "k", l.Token())
		require.NoError(t, err)
		require.Equal(t, began, time.Now())
		require.Equal(t, "n", n.Note())
		require.NoError(t, n.Check())
		require.NoError(t, l.Release(ctx))
		require.NoError(t, n.Check())
		_, err = m.Adopt(ctx, "none", 5)
		require.ErrorIs(t, err, ErrLost)
	})
}

func TestTheLeaseOfALivingSessionIsNotAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		began := time.Now()
		_, err = b.Adopt(ctx, "k", l.Token())
		require.ErrorIs(t, err, ErrHeld)
		require.Less(t, time.Since(began), a.config.TTL, "known as soon as it is seen renewed")
		require.NoError(t, l.Check())
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = b.Adopt(short, "k", l.Token())
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestTheLeaseOfADeadSessionIsAdoptedAfterTTLAndMargin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		store.set(down, nil)
		began := time.Now()
		n, err := b.Adopt(ctx, "k", l.Token())
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), a.config.TTL+a.config.Margin)
		require.Less(t, time.Since(began), a.config.TTL+a.config.Margin+time.Second)
		require.Greater(t, n.Token(), l.Token())
		require.ErrorIs(t, l.Check(), ErrLost)
	})
}

func TestCloseReleasesWhatIsLeftAndOnlyThenStopsRenewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		ctx := t.Context()
		a, err := m.Acquire(ctx, "a", nil)
		require.NoError(t, err)
		b, err := m.Acquire(ctx, "b", nil)
		require.NoError(t, err)
		waiting := make(chan error)
		go func() {
			_, err := m.Acquire(ctx, "a", nil)
			waiting <- err
		}()
		synctest.Wait()
		var deletes atomic.Int32
		store.set(on("delete", anyKey, func(context.Context) error {
			if deletes.Add(1) <= 2 {
				time.Sleep(m.timeout - 1) // slow, while the session must be renewed
			}
			return nil
		}), nil)
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- m.Close(ctx) }()
		}
		require.ErrorIs(t, <-waiting, ErrClosed)
		first := <-closed
		require.ErrorContains(t, first, "2 still held, released: a (token")
		require.Equal(t, first, <-closed, "idempotent")
		require.ErrorIs(t, a.Check(), ErrReleased)
		require.NoError(t, b.Release(ctx))
		rest, err := mem.List(ctx, "")
		require.NoError(t, err)
		require.Empty(t, rest)
		_, err = m.Acquire(ctx, "a", nil)
		require.ErrorIs(t, err, ErrClosed)
		_, err = m.TryAcquire(ctx, "a", nil)
		require.ErrorIs(t, err, ErrClosed)
		_, err = m.Adopt(ctx, "a", 1)
		require.ErrorIs(t, err, ErrClosed)
		_, err = m.AcquireAll(ctx, []string{"a", "b"}, nil)
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestCloseIsBoundedByItsContextAndCleansUpWithOneThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		_, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		release := make(chan struct{})
		store.set(on("delete", anyKey, func(context.Context) error { <-release; return nil }), nil) // deaf to contexts
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, m.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.ErrorIs(t, m.Close(ctx), context.DeadlineExceeded, "still")
		close(release)
		require.Error(t, m.Close(t.Context()))
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rest)
	})
	mem := NewMemStore()
	m := newManager(t, newFaulty(mem))
	_, err := m.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	late, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, m.Close(late), "still held")
	rest, err := mem.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestCloseInTheMiddleOfEverythingLeavesNothing(t *testing.T) {
	for range 40 * soak() {
		mem := NewMemStore()
		var store Store = batching{newFaulty(mem)}
		m := newManager(t, store)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for {
					var err error
					var l *Lease
					switch w % 4 {
					case 0:
						l, err = m.Acquire(t.Context(), "k", nil)
					case 1:
						l, err = m.TryAny(t.Context(), []string{"k", "j", "i"}, nil)
					case 2:
						l, err = m.TryAcquire(t.Context(), "i", nil)
					case 3:
						var ls []*Lease
						if ls, err = m.AcquireAll(t.Context(), []string{"i", "j"}, nil); err == nil {
							l = ls[0]
							_ = ls[1].Release(t.Context())
						}
					}
					if errors.Is(err, ErrClosed) {
						return
					}
					if err == nil {
						_, _ = l.Raise(t.Context())
						_ = l.Release(t.Context())
					} else if !errors.Is(err, ErrHeld) && !errors.Is(err, ErrLost) && !errors.Is(err, ErrReleased) {
						t.Error(err)
						return
					}
				}
			})
		}
		for mem.token < 50 {
			l, err := m.TryAcquire(t.Context(), "other", nil)
			require.NoError(t, err)
			require.NoError(t, l.Release(t.Context()))
		}
		_ = m.Close(t.Context())
		wg.Wait()
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rest)
	}
}
