package lease

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func isSession(key string) bool { return strings.HasPrefix(key, sessionPrefix) }
func anyKey(string) bool        { return true }

var errDown = errors.New("the store is down")

func down(context.Context, string, string) error { return errDown }

// takes waits until m has key and tells when that was.
func takes(t *testing.T, m *Manager, key string) (<-chan *Lease, *atomic.Int64) {
	t.Helper()
	got := make(chan *Lease, 1)
	var at atomic.Int64
	go func() {
		l, err := m.Acquire(context.Background(), key, nil)
		assert.NoError(t, err)
		at.Store(time.Now().UnixNano())
		got <- l
	}()
	return got, &at
}

func TestALeaseIsLostExactlyTTLAfterTheStartOfTheLastAcknowledgedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		l, err := a.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		var start time.Time // of the last renewal that was acknowledged
		store.set(on("swap", isSession, func(context.Context) error { start = time.Now(); time.Sleep(time.Second); return nil }), nil)
		time.Sleep(10 * time.Minute)
		store.set(down, nil)
		synctest.Wait()
		// A renewal may be under way; it is acknowledged.
		time.Sleep(2 * time.Second)
		got, at := takes(t, b, "k")
		deadline := start.Add(a.config.TTL)

		time.Sleep(time.Until(deadline) - 1)
		require.NoError(t, l.Check())
		select {
		case <-l.Done():
			t.Fatal("lost too early")
		default:
		}
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, l.Check(), ErrLost)
		synctest.Wait()
		select {
		case <-l.Done():
		default:
			t.Fatal("nobody was told of the loss")
		}
		n := <-got
		assert.Greater(t, n.Token(), l.Token())
		assert.GreaterOrEqual(t, at.Load(), deadline.Add(b.config.Margin).UnixNano(), "others waited for the margin")
	})
}

func TestNobodyTakesWhatIsRenewedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		var leases []*Lease
		for i := range 100 {
			l, err := a.Acquire(t.Context(), fmt.Sprintf("slot/%d", i), nil)
			require.NoError(t, err)
			leases = append(leases, l)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		before := store.count("swap")
		_, err := b.Acquire(ctx, "slot/7", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, l := range leases {
			require.NoError(t, l.Check())
		}
		// One write a period for all of them, give or take the jitter.
		periods := int(24 * time.Hour / (a.config.TTL / 3))
		assert.InDelta(t, periods, store.count("swap")-before, float64(periods)/20)
	})
}

func TestOneUnexpectedErrorDoesNotEndRenewalForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(NewMemStore())
		m := newManager(t, store)
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		for range 50 {
			store.set(down, nil) // for half of the TTL
			time.Sleep(m.config.TTL / 2)
			store.set(nil, nil)
			time.Sleep(m.config.TTL / 2)
			require.NoError(t, l.Check())
		}
		store.set(nil, down) // each is done, no answer arrives
		time.Sleep(m.config.TTL / 2)
		store.set(nil, nil)
		time.Sleep(m.config.TTL)
		require.NoError(t, l.Check())
	})
}

func TestAnExpiredRenewalThatIsAcknowledgedLateDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		first := m.SessionKey()
		// The store does it at once, and answers without regard for contexts.
		store.set(nil, on("swap", isSession, func(context.Context) error { time.Sleep(m.config.TTL + time.Second); return nil }))
		time.Sleep(m.config.TTL + time.Second)
		require.ErrorIs(t, l.Check(), ErrLost)
		store.set(nil, nil)
		time.Sleep(m.config.TTL)
		require.ErrorIs(t, l.Check(), ErrLost, "a late answer revived it")
		rec, err := mem.Load(t.Context(), first)
		require.NoError(t, err)
		require.True(t, rec.Zero(), "the record of the lost session is left behind")
		n, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err, "the Manager goes on with a new session")
		require.NotEqual(t, first, m.SessionKey())
		require.Greater(t, n.Token(), l.Token())
	})
}

// The watchdog may be late, as after a SIGSTOP: then the answer finds the deadline
// passed and nobody told. What a Check refused, or would have, stays refused.
func TestARenewalThatIsAcknowledgedBeforeTheWatchdogWakesRevivesNothing(t *testing.T) {
	for _, checked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newManager(t, NewMemStore())
			s := &session{m: m, key: "session/stopped", kick: make(chan struct{}, 1)}
			s.deadline.Store(m.clock.now() + int64(m.config.TTL))
			time.Sleep(m.config.TTL - time.Second)
			start := m.clock.now()
			require.True(t, s.acked(start), "in time")
			time.Sleep(m.config.TTL - time.Nanosecond)
			start = m.clock.now()
			require.True(t, s.check(start), "a nanosecond before the deadline")
			time.Sleep(time.Nanosecond)
			if checked {
				require.False(t, s.check(m.clock.now()))
			}
			require.False(t, s.acked(start))
			require.False(t, s.check(m.clock.now()))
			require.Len(t, s.kick, 1, "the watchdog is told")
		})
	}
}

func TestAnAnswerThatWasBegunInTimeAndComesLateInTimeCountsFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty(NewMemStore())
		m := newManager(t, store)
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		var start time.Time
		store.set(nil, on("swap", isSession, func(context.Context) error {
			start = time.Now()
			time.Sleep(m.config.TTL / 2)
			store.set(down, nil)
			return nil
		}))
		time.Sleep(m.config.TTL)
		require.NoError(t, l.Check())
		time.Sleep(time.Until(start.Add(m.config.TTL)))
		require.ErrorIs(t, l.Check(), ErrLost)
	})
}

func TestAConflictOnTheSessionLosesAllLeasesAtOnceEachToldOnce(t *testing.T) {
	for _, how := range []string{"deleted", "taken"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := NewMemStore()
				m := newManager(t, mem)
				var leases []*Lease
				var told [20]atomic.Int32
				for i := range told {
					l, err := m.Acquire(t.Context(), fmt.Sprint("k", i), nil)
					require.NoError(t, err)
					leases = append(leases, l)
					ctx, cancel := l.Context(context.Background())
					defer cancel()
					context.AfterFunc(ctx, func() {
						assert.ErrorIs(t, context.Cause(ctx), ErrLost)
						told[i].Add(1)
					})
				}
				rec, err := mem.Load(t.Context(), m.SessionKey())
				require.NoError(t, err)
				if how == "deleted" {
					require.NoError(t, mem.Delete(t.Context(), rec))
				} else {
					_, err := mem.Swap(t.Context(), rec, Record{Key: rec.Key, Owner: "another"}, true)
					require.NoError(t, err)
				}
				require.NoError(t, leases[0].Check(), "the Manager cannot know yet")
				time.Sleep(m.config.TTL / 2)
				for i, l := range leases {
					require.ErrorIs(t, l.Check(), ErrLost)
					require.NotContains(t, l.Check().Error(), "no renewal", "the reason is another")
					<-l.Done()
					require.EqualValues(t, 1, told[i].Load())
					require.NoError(t, l.Release(t.Context()))
				}
				time.Sleep(10 * m.config.TTL)
				for i := range told {
					require.EqualValues(t, 1, told[i].Load())
				}
			})
		})
	}
}

func TestASuspendOfTheMachineCountsForTheHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		m := newManager(t, NewMemStore())
		m.clock.startWith(func() (time.Duration, bool) { return 7*time.Hour + time.Duration(slept.Load()), true })
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		time.Sleep(2 * time.Millisecond)
		slept.Store(int64(m.config.TTL - time.Second))
		require.NoError(t, l.Check())
		slept.Store(int64(m.config.TTL))
		time.Sleep(2 * time.Millisecond)
		require.ErrorIs(t, l.Check(), ErrLost, "the monotonic clock stood still, the others' did not")
		synctest.Wait()
		<-l.Done()
	})
}

func TestASuspendOfTheObserverDoesNotShortenItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		var slept atomic.Int64
		a, b := newManager(t, mem), newManager(t, mem)
		b.clock.startWith(func() (time.Duration, bool) { return time.Duration(slept.Load()), true })
		l, err := a.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for ctx.Err() == nil {
			_, err = b.TryAcquire(ctx, "k", nil)
			require.Error(t, err)
			slept.Add(int64(time.Minute))
			time.Sleep(time.Second)
		}
		require.NoError(t, l.Check())
	})
}

func TestWallTimesInRecordsDecideNothing(t *testing.T) {
	for _, when := range []time.Time{{}, time.Unix(0, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Now().Add(-100 * time.Hour), time.Now().Add(100 * time.Hour)} {
		synctest.Test(t, func(t *testing.T) {
			mem := NewMemStore()
			m := newManager(t, mem)
			ctx := t.Context()
			ttl := 5 * time.Minute
			srec, err := mem.Swap(ctx, Record{}, Record{Key: "session/x", TTL: ttl, Since: when, Renewed: when}, true)
			require.NoError(t, err)
			_, err = mem.Swap(ctx, Record{}, Record{Key: "k", Session: "session/x", TTL: ttl, Since: when, Renewed: when}, true)
			require.NoError(t, err)
			began := time.Now()
			got, _ := takes(t, m, "k")
			for range 20 { // it renews, with absurd times
				time.Sleep(ttl / 2)
				srec.Renewed = when
				srec, err = mem.Swap(ctx, srec, srec, false)
				require.NoError(t, err)
			}
			last := time.Now()
			l := <-got
			require.NoError(t, l.Check())
			waited := time.Since(last)
			assert.GreaterOrEqual(t, waited, ttl+m.config.Margin)
			assert.LessOrEqual(t, waited, ttl+m.config.Margin+time.Second)
			assert.Greater(t, time.Since(began), 20*ttl/2)
		})
	}
}

func TestAllLeasesOfAThousandDeadHoldersAreGrantableWithinASecondOfTheirEnd(t *testing.T) {
	n := 1000 * soak(t)
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		ctx := t.Context()
		m := newManager(t, mem)
		for i := range n {
			session := fmt.Sprint("session/dead-", i)
			common := Record{Owner: "dead", TTL: time.Minute, Margin: 10 * time.Second}
			s, k := common, common
			s.Key, k.Key, k.Session = session, fmt.Sprint("k", i), session
			_, err := mem.Swap(ctx, Record{}, s, true)
			require.NoError(t, err)
			_, err = mem.Swap(ctx, Record{}, k, true)
			require.NoError(t, err)
		}
		began := time.Now()
		done := make(chan error, n)
		for i := range n {
			go func() {
				_, err := m.Acquire(ctx, fmt.Sprint("k", i), nil)
				done <- err
			}()
		}
		for range n {
			require.NoError(t, <-done)
		}
		assert.LessOrEqual(t, time.Since(began), 71*time.Second)
		assert.GreaterOrEqual(t, time.Since(began), 70*time.Second)
	})
}

func TestASessionThatCannotBeWrittenIsAnErrorAndIsTriedAgainByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		store.set(down, nil)
		_, err := m.Acquire(t.Context(), "k", nil)
		require.ErrorIs(t, err, errDown)
		store.set(nil, on("swap", isSession, func(context.Context) error { return errDown }))
		_, err = m.TryAcquire(t.Context(), "k", nil)
		require.ErrorIs(t, err, errDown)
		rest, err := mem.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, rest, "a session record that nobody renews is left")
		store.set(nil, nil)
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		require.NoError(t, l.Check())
		store.set(on("swap", isSession, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }), nil)
		time.Sleep(3 * m.config.TTL) // hangs: lost all the same
		require.ErrorIs(t, l.Check(), ErrLost)
	})
}
