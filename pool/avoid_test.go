package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// avoiding has a free machine on h1 and room on h2.
func avoiding(t *testing.T, faults ...fake.Fault) *world {
	w := start(t, Config{
		Templates: []Template{{Name: "a", Ready: 1}}, Hosts: []Host{{Name: "h1", Slots: 1}, {Name: "h2", Slots: 1}}, Poll: time.Hour,
	}, hypervisor("h1"), hypervisor("h2", fake.Fault{Op: vm.OpList, Err: errTest}))
	time.Sleep(10 * time.Second)
	w.hyper[1].Heal()
	w.hyper[1].Inject(faults...)
	time.Sleep(5 * time.Minute)
	require.Equal(t, 1, w.Stats().Ready)
	require.Equal(t, "h1", w.Guests()[0].Host)
	return w
}

func avoidH1() Want { return Want{Avoid: []string{"h1"}} }

func TestAMachineIsMadeElsewhereRatherThanTakenWhereItIsToBeAvoided(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := avoiding(t)
		defer w.finish()
		ticket, err := w.Request(t.Context(), avoidH1())
		require.NoError(t, err)
		require.Contains(t, ticket.Progress().Reason, "made on h2")
		other := w.acquire(Want{})
		require.Equal(t, "h1", other.Host(), "others have what it avoids meanwhile")
		g, err := ticket.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, "h2", g.Host())
		w.release(g)
		w.release(other)
	})
}

func TestWhoDoesNotWaitTakesWhatIsToBeAvoided(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := avoiding(t)
		defer w.finish()
		g, err := w.TryAcquire(t.Context(), avoidH1())
		require.NoError(t, err)
		require.Equal(t, "h1", g.Host())
		w.release(g)
	})
}

func TestWhatIsToBeAvoidedIsTakenWhenNothingElseCanBeMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := avoiding(t, fake.Fault{Op: vm.OpCreate, Err: errTest})
		defer w.finish()
		began := time.Now()
		g := w.acquire(avoidH1())
		require.Equal(t, "h1", g.Host())
		require.Less(t, time.Since(began), time.Minute)
		w.release(g)
		time.Sleep(time.Second)
		g = w.acquire(avoidH1())
		require.Equal(t, "h1", g.Host(), "at once: h2 is left alone")
		w.release(g)
	})
}

func TestAWaitForAMachineElsewhereEndsLikeAnyOther(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *world, cancel func()) error{
		"cancelled": func(_ *testing.T, _ *world, cancel func()) error { cancel(); return context.Canceled },
		"timeout":   func(*testing.T, *world, func()) error { return ErrTimeout },
		"closed":    func(_ *testing.T, w *world, _ func()) error { w.shut(); return ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := avoiding(t)
				defer w.finish()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error, 2)
				go func() {
					want := avoidH1()
					want.Timeout = 500 * time.Millisecond
					_, err := w.Acquire(ctx, want)
					failed <- err
				}()
				synctest.Wait()
				want := end(t, w, cancel)
				require.ErrorIs(t, <-failed, want)
				if name == "closed" {
					return
				}
				time.Sleep(time.Minute)
				require.Equal(t, 2, w.Stats().Ready, "what was being made is for the next")
				require.NoError(t, w.consistent())
				gs, err := w.AcquireAll(t.Context(), 2, Want{})
				require.NoError(t, err)
				for _, g := range gs {
					w.release(g)
				}
			})
		})
	}
}

func TestNothingIsMadeWhileAMachineIsFreeThatIsNotAvoided(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a"}}, Hosts: []Host{{Name: "h1", Slots: 1}, {Name: "h2", Slots: 1}, {Name: "h3", Slots: 1}}},
			hypervisor("h1"), hypervisor("h2"), hypervisor("h3"))
		defer w.finish()
		both, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		for _, g := range both {
			w.release(g)
		}
		for i := range 8 { // whichever is looked at first
			time.Sleep(time.Minute)
			require.Len(t, w.Guests(), 2)
			avoided := w.Guests()[i%2].Host
			g := w.acquire(Want{Avoid: []string{avoided}})
			host := g.Host()
			time.Sleep(time.Minute)
			made := len(w.Guests())
			w.release(g)
			require.NotEqual(t, avoided, host)
			require.Equal(t, 2, made, "the free one will do")
		}
	})
}
