package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	for range 30 * soak() {
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

func TestBadInputIsRefusedWithTheRule(t *testing.T) {
	m := newManager(t, NewMemStore())
	for _, c := range []struct {
		key  string
		o    *Options
		want string
	}{
		{"", nil, "key is empty"},
		{"session/x", nil, `does not start with "session/"`},
		{"k", &Options{Term: -1}, "Options.Term is -1ns, want 10ms or more"},
		{"k", &Options{Term: time.Hour, MostTerm: time.Minute}, "Options.MostTerm is 1m0s, want at least Term (1h0m0s)"},
	} {
		_, err := m.Acquire(t.Context(), c.key, c.o)
		require.ErrorContains(t, err, c.want)
		_, err = m.TryAny(t.Context(), []string{c.key, "other"}, c.o)
		require.ErrorContains(t, err, c.want)
	}
	_, err := m.Adopt(t.Context(), "", 1)
	require.Error(t, err)
	require.Error(t, m.Release(t.Context(), "", 1))
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{}, "Config.Store is nil, want a Store"},
		{Config{Store: NewMemStore(), TTL: -1}, "Config.TTL is -1ns, want 10ms to 1000h0m0s, or 0 for 1m0s"},
		{Config{Store: NewMemStore(), TTL: time.Millisecond}, "Config.TTL is 1ms"},
		{Config{Store: NewMemStore(), Margin: -1}, "Config.Margin is -1ns, want 0 to"},
		{Config{Store: NewMemStore(), Poll: 1}, "Config.Poll is 1ns, want 1ms or more"},
	} {
		_, err := New(c.config)
		require.ErrorContains(t, err, c.want)
		require.True(t, strings.HasPrefix(err.Error(), "lease: "))
	}
}
