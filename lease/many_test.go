package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTwoWaitersNeverPickTheSameMember(t *testing.T) {
	for _, kind := range []string{"memory", "plain", "batching"} {
		t.Run(kind, func(t *testing.T) {
			mem := NewMemStore()
			var store Store = mem
			switch kind {
			case "plain":
				store = newFaulty(mem)
			case "batching":
				store = batching{newFaulty(mem)}
			}
			ms := []*Manager{newManager(t, store), newManager(t, store)}
			var keys []string
			for i := range 8 {
				keys = append(keys, fmt.Sprint("slot/", i))
			}
			var owner [8]atomic.Int32
			var wg sync.WaitGroup
			for w := range 16 {
				wg.Go(func() {
					for range 100 {
						var ls []*Lease
						var err error
						switch m := ms[w%2]; w % 4 {
						case 0, 1:
							var l *Lease
							if l, err = m.TryAny(t.Context(), keys, nil); err == nil {
								ls = []*Lease{l}
							}
						case 2:
							ls, err = m.AcquireAll(t.Context(), []string{keys[w%8], keys[(w*3+1)%8]}, nil)
						case 3:
							var l *Lease
							if l, err = m.Acquire(t.Context(), keys[w%8], nil); err == nil {
								ls = []*Lease{l}
							}
						}
						if errors.Is(err, ErrHeld) {
							continue
						}
						if !assert.NoError(t, err) {
							return
						}
						for _, l := range ls {
							i := slices.Index(keys, l.Key())
							assert.True(t, owner[i].CompareAndSwap(0, 1), "%s has two holders", l.Key())
							assert.NoError(t, l.Check())
							assert.True(t, owner[i].CompareAndSwap(1, 0))
							assert.NoError(t, l.Release(t.Context()))
						}
					}
				})
			}
			wg.Wait()
			rest, err := mem.List(t.Context(), "slot/")
			require.NoError(t, err)
			require.Empty(t, rest, "a lock is left half taken")
		})
	}
}

func TestTryAnyTakesTheFirstFreeOrWhatADeadHolderLeft(t *testing.T) {
	for _, kind := range []string{"plain", "batching"} {
		synctest.Test(t, func(t *testing.T) {
			mem := NewMemStore()
			var store Store = newFaulty(mem)
			if kind == "batching" {
				store = batching{newFaulty(mem)}
			}
			a, b := newManager(t, mem), newManager(t, store)
			ctx := t.Context()
			keys := []string{"x", "y", "z"}
			_, err := a.Acquire(ctx, "x", nil)
			require.NoError(t, err)
			l, err := b.TryAny(ctx, keys, &Options{Note: "n"})
			require.NoError(t, err)
			assert.Equal(t, "y", l.Key())
			assert.Equal(t, "n", l.Note())
			l, err = b.TryAny(ctx, keys, nil)
			require.NoError(t, err)
			assert.Equal(t, "z", l.Key())
			_, err = b.TryAny(ctx, keys, nil)
			require.ErrorIs(t, err, ErrHeld)
			srec, err := mem.Load(ctx, a.SessionKey())
			require.NoError(t, err)
			require.NoError(t, mem.Delete(ctx, srec)) // as one does who proved it dead
			time.Sleep(time.Second)                   // sightings are kept for part of a poll
			l, err = b.TryAny(ctx, keys, nil)
			require.NoError(t, err)
			assert.Equal(t, "x", l.Key())
			_, err = b.TryAny(ctx, nil, nil)
			require.Error(t, err)
		})
	}
}

func TestAcquireAllInOppositeOrdersNeitherDeadlocksNorStarves(t *testing.T) {
	for _, kind := range []string{"memory", "batching"} {
		synctest.Test(t, func(t *testing.T) {
			mem := NewMemStore()
			var store Store = mem
			if kind == "batching" {
				store = batching{newFaulty(mem)}
			}
			m, other := newManager(t, store), newManager(t, store)
			keys := []string{"a", "b", "c", "d"}
			back := slices.Clone(keys)
			slices.Reverse(back)
			var wg sync.WaitGroup
			var inside atomic.Int32
			for w := range 12 {
				wg.Go(func() {
					m := []*Manager{m, other}[w%2]
					for range 20 {
						want := [][]string{keys, back, {"d", "a"}}[w%3]
						ls, err := m.AcquireAll(t.Context(), want, nil)
						if !assert.NoError(t, err) {
							return
						}
						assert.EqualValues(t, 1, inside.Add(1), "all of them need a")
						time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
						for i, l := range ls {
							assert.Equal(t, want[i], l.Key())
							assert.NoError(t, l.Check())
						}
						inside.Add(-1)
						for _, l := range ls {
							assert.NoError(t, l.Release(t.Context()))
						}
					}
				})
			}
			wg.Add(1)
			go func() { // singles in between do not starve it
				defer wg.Done()
				for range 200 {
					l, err := m.Acquire(t.Context(), "c", nil)
					assert.NoError(t, err)
					time.Sleep(10 * time.Millisecond)
					assert.NoError(t, l.Release(t.Context()))
				}
			}()
			wg.Wait()
		})
	}
}

func TestALockThatIsHalfTakenIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := batching{newFaulty(mem)}
		a, b := newManager(t, mem), newManager(t, store)
		l, err := a.Acquire(t.Context(), "b", nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { // while it waits it holds a, and not what comes later
			time.Sleep(time.Second)
			_, err := a.TryAcquire(t.Context(), "a", nil)
			assert.ErrorIs(t, err, ErrHeld)
			c, err := a.TryAcquire(t.Context(), "c", nil)
			assert.NoError(t, err)
			assert.NoError(t, c.Release(t.Context()))
		}()
		_, err = b.AcquireAll(ctx, []string{"c", "b", "a"}, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "held by")
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		rest = slices.DeleteFunc(rest, func(r Record) bool { return isSession(r.Key) })
		require.Len(t, rest, 1)
		require.Equal(t, l.Token(), rest[0].Token)
		_, err = b.AcquireAll(ctx, []string{"c", "b", "c"}, nil)
		require.ErrorContains(t, err, `"c" twice`)
	})
}
