package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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

func TestCloseRenewsThroughATeardownThatIsLongerThanTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		for i := range 200 {
			_, err := m.Acquire(t.Context(), fmt.Sprint("k", i), nil)
			require.NoError(t, err)
		}
		session := m.SessionKey()
		store.set(on("delete", func(k string) bool { return !isSession(k) }, func(ctx context.Context) error {
			time.Sleep(m.timeout - 1)
			rec, err := mem.Load(context.Background(), session)
			assert.NoError(t, err)
			assert.False(t, rec.Zero(), "the session went before the leases")
			assert.Less(t, time.Since(rec.Renewed), m.config.TTL, "others may take the leases while they are released")
			return nil
		}), nil)
		began := time.Now()
		require.ErrorContains(t, m.Close(t.Context()), "200 still held")
		require.Greater(t, time.Since(began), m.config.TTL)
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rest)
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
	for range 40 * soak(t) {
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
		for token := uint64(0); token < 50; {
			l, err := m.TryAcquire(t.Context(), "other", nil)
			require.NoError(t, err)
			token = l.Token()
			require.NoError(t, l.Release(t.Context()))
		}
		_ = m.Close(t.Context())
		wg.Wait()
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rest)
	}
}
