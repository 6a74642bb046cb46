package pool

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAcquireGivesTheMachineToTheOldestWaiterOfTheHighestPriority(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		var order []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i, priority := range []int{0, 0, 1, 0, 1} {
			wg.Go(func() {
				g := w.acquire(Want{Priority: priority})
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				w.release(g)
			})
			synctest.Wait()
		}
		w.release(g)
		wg.Wait()
		require.Equal(t, []int{2, 4, 0, 1, 3}, order)
	})
}

// FIELD (c) 15: two waiters pick the same member.
func TestTwoWaitersNeverGetTheSameMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 3}}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		var mu sync.Mutex
		holders := map[string]int{}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 5 {
					g := w.acquire(Want{})
					mu.Lock()
					holders[g.Name()]++
					assert.Equal(t, 1, holders[g.Name()])
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					holders[g.Name()]--
					mu.Unlock()
					w.release(g)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, w.hyper[0].Peak(), 3)
		require.EqualValues(t, 100, w.Stats().Grants)
	})
}

func TestWantingSeveralGetsAllOrNothingAndStarvesNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		var busy atomic.Int64
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				n := 1 + i%3
				gs, err := w.AcquireAll(t.Context(), n, Want{Priority: i % 2})
				assert.NoError(t, err)
				assert.Len(t, gs, n)
				assert.LessOrEqual(t, busy.Add(int64(n)), int64(3))
				time.Sleep(time.Minute)
				busy.Add(int64(-n))
				for _, g := range gs {
					w.release(g)
				}
			})
		}
		wg.Wait()
		_, err := w.AcquireAll(t.Context(), 4, Want{})
		require.ErrorIs(t, err, ErrImpossible)
		require.ErrorContains(t, err, "4 machines are wanted and there can be at most 3")
		_, err = w.AcquireAll(t.Context(), 0, Want{})
		require.Error(t, err)
	})
}

// FIELD (c) 1 and 9: a wait that is cancelled while its machine is made or
// granted leaks nothing, and the next one has the machine.
func TestCancellingAWaitLeavesTheBootToTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := w.Acquire(ctx, Want{Job: "TestA"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "1 booting")
		began := time.Now()
		g := w.acquire(Want{})
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		w.release(g)
		synctest.Wait()
		require.Equal(t, 1, w.hyper[0].Peak())
	})
}

func TestTenThousandCancellationsAtTheInstantOfTheGrantLoseNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		rounds := 300
		if testing.Short() {
			rounds = 30
		}
		var got, cancelled int64
		for round := range rounds {
			a, b := w.acquire(Want{}), w.acquire(Want{})
			var wg sync.WaitGroup
			n := 33
			// The machines come back at exactly the instant of the deadlines:
			// both wait for the boot's second.
			// in odd rounds the boots' timers fire first, in even ones the
			// deadline does.
			if round%2 == 1 {
				w.release(a)
				w.release(b)
				synctest.Wait()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			for range n {
				wg.Go(func() {
					g, err := w.Acquire(ctx, Want{})
					if err != nil {
						atomic.AddInt64(&cancelled, 1)
						return
					}
					atomic.AddInt64(&got, 1)
					w.release(g)
				})
			}
			synctest.Wait()
			w.release(a)
			w.release(b)
			wg.Wait()
			cancel()
			time.Sleep(10 * time.Second)
			s := w.Stats()
			require.Equal(t, 2, s.Ready, "%+v\n%s", s, w)
			require.Zero(t, s.Waiting)
		}
		t.Logf("%d granted, %d cancelled", got, cancelled)
		require.LessOrEqual(t, w.hyper[0].Peak(), 2)
	})
}

// FIELD (c) 14: an impossible request waits.
func TestTheImpossibleIsRefusedAtOnceWithWhatThereIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{
			Templates: []Template{{Name: "deb12", Labels: map[string]string{"os": "deb12"}}, {Name: "deb13", Labels: map[string]string{"os": "deb13"}}},
			Hosts:     []Host{{Slots: 1, Labels: map[string]string{"arch": "arm64"}}},
		}, hypervisor("h"))
		defer w.finish()
		for text, want := range map[string]Want{
			`there is no template "deb14"; there is "deb12", "deb13"`: {Template: "deb14"},
			`label "os" is "deb11", there is "deb12", "deb13"`:        {Labels: map[string]string{"os": "deb11"}},
			`label "os" is "deb13", there is "deb12"`:                 {Template: "deb12", Labels: map[string]string{"os": "deb13"}},
			`no machine has label "color"; labels are "arch", "os"`:   {Labels: map[string]string{"color": "red"}},
		} {
			_, err := w.Acquire(t.Context(), want)
			require.ErrorIs(t, err, ErrImpossible)
			require.ErrorContains(t, err, text)
			_, err = w.TryAcquire(t.Context(), want)
			require.ErrorIs(t, err, ErrImpossible)
		}
		g := w.acquire(Want{Labels: map[string]string{"os": "deb13", "arch": "arm64"}})
		require.Equal(t, map[string]string{"os": "deb13", "arch": "arm64"}, g.Labels())
		w.release(g)
	})
}

// FIELD (c) 14: a waiter for one template starves while those of another take
// the slots in turn.
func TestNoTemplateStarvesAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2}, {Name: "b"}}, Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		// Idle machines make room for what is wanted.
		began := time.Now()
		g := w.acquire(Want{Template: "b"})
		require.LessOrEqual(t, time.Since(began), 5*time.Second)
		w.release(g)
		// And so do used ones, in the order of the waiters.
		a1, a2 := w.acquire(Want{Template: "a"}), w.acquire(Want{Template: "a"})
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i, template := range []string{"a", "b", "a", "a", "b"} {
			wg.Go(func() {
				g := w.acquire(Want{Template: template})
				mu.Lock()
				order = append(order, fmt.Sprint(template, i))
				mu.Unlock()
				time.Sleep(time.Minute)
				w.release(g)
			})
			synctest.Wait()
		}
		w.release(a1)
		time.Sleep(time.Minute)
		w.release(a2)
		wg.Wait()
		require.Equal(t, "a0", order[0])
		require.Contains(t, order[:3], "b1", "order %v", order)
		require.Less(t, slices.Index(order, "b1"), slices.Index(order, "b4"))
	})
}

func TestTheErrorOfAWaitSaysWhoHoldsTheMachines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		a := w.acquire(Want{Job: "TestUpgrade"})
		time.Sleep(11*time.Minute + 23*time.Second)
		b := w.acquire(Want{Job: "TestInstall"})
		time.Sleep(40 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Acquire(ctx, Want{Job: "TestBoot"})
		require.EqualError(t, err, "pool: waited 1m0s for one of 2 machines (held: TestUpgrade 13m4s, TestInstall 1m40s): context deadline exceeded")
		_, err = w.Acquire(t.Context(), Want{Timeout: 5 * time.Second})
		require.ErrorIs(t, err, ErrTimeout)
		_, err = w.TryAcquire(t.Context(), Want{})
		require.ErrorIs(t, err, ErrBusy)
		w.release(a)
		time.Sleep(time.Minute)
		a, err = w.TryAcquire(t.Context(), Want{})
		require.NoError(t, err)
		w.release(a)
		w.release(b)
		gone, stop := context.WithCancel(t.Context())
		stop()
		_, err = w.Acquire(gone, Want{})
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestAvoidedHostsAreTakenOnlyWhenNoOtherFits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Name: "h1", Slots: 1}, {Name: "h2", Slots: 1}}},
			hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		time.Sleep(time.Minute)
		for range 3 {
			g := w.acquire(Want{Avoid: []string{"h1"}})
			require.Equal(t, "h2", g.Host())
			other := w.acquire(Want{Avoid: []string{"h1"}})
			require.Equal(t, "h1", other.Host(), "better than nothing")
			w.release(g)
			w.release(other)
			time.Sleep(time.Minute)
		}
	})
}
