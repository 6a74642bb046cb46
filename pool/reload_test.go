package pool

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// FIELD (c) 17: a removed member never leaves; (c) 26: a reload drops waiters.
func TestReloadLeavesGuestsAloneAndNobodyGetsTheirMachinesAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		retired := ""
		trace := &Trace{Event: func(e Event) {
			if e.Kind == EventRetired {
				mu.Lock()
				retired = e.Host
				mu.Unlock()
			}
		}}
		w := start(t, Config{Trace: trace, Templates: []Template{{Name: "a", Ready: 2}, {Name: "b"}}, Hosts: []Host{{Slots: 1}, {Slots: 1}}}, hypervisor("h1"), hypervisor("h2"))
		defer w.finish()
		gs, err := w.AcquireAll(t.Context(), 2, Want{Template: "a"})
		require.NoError(t, err)
		var wg sync.WaitGroup
		var refused, served error
		wg.Go(func() { _, refused = w.Acquire(t.Context(), Want{Template: "b"}) })
		wg.Go(func() {
			var g *Guest
			if g, served = w.Acquire(t.Context(), Want{Template: "a"}); served == nil {
				served = g.Release(t.Context(), nil)
			}
		})
		synctest.Wait()
		c := Config{Templates: []Template{{Name: "a", Ready: 1, Spec: vm.Spec{CPUs: 2}}, {Name: "c", Labels: map[string]string{"new": "yes"}}}, Hosts: []Host{{Name: "h1", Driver: w.drivers[0], Slots: 1}}}
		require.NoError(t, w.Reload(c))
		_, err = w.Acquire(t.Context(), Want{Template: "b"})
		require.ErrorIs(t, err, ErrImpossible, "b is gone")
		_, err = w.AcquireAll(t.Context(), 2, Want{})
		require.ErrorIs(t, err, ErrImpossible, "there is one slot now")
		names := map[string]bool{}
		for _, g := range gs {
			names[g.Name()] = true
			require.NoError(t, g.Context().Err())
			_, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
			require.NoError(t, err, "guests keep what they have")
			w.release(g)
		}
		wg.Wait()
		require.ErrorIs(t, refused, ErrImpossible, "who waits for what is gone is told so")
		require.NoError(t, served, "who waits for what is still there is not dropped")
		g := w.acquire(Want{Template: "a"})
		require.False(t, names[g.Name()], "a machine of the old template")
		require.Equal(t, "h1", g.Host())
		w.release(g)
		w.release(w.acquire(Want{Labels: map[string]string{"new": "yes"}}))
		time.Sleep(time.Minute)
		mu.Lock()
		require.Equal(t, "h2", retired)
		mu.Unlock()
		require.Zero(t, w.hyper[1].Count())
		require.Equal(t, 1, w.Stats().Slots)
		require.Equal(t, 1, w.hyper[0].Peak(), "never over capacity")
	})
}

func TestReloadOfTheSameChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		template := Template{Name: "a", Ready: 2, Probe: func(context.Context, vm.Machine) error { return nil }}
		w := start(t, Config{Templates: []Template{template}}, hypervisor("h"))
		defer w.finish()
		time.Sleep(time.Minute)
		before := w.Guests()
		template.Ready, template.Idle = 1, IdleNever
		c := Config{Templates: []Template{template}, Hosts: []Host{{Driver: w.drivers[0], Slots: 2}}}
		require.NoError(t, w.Reload(c))
		time.Sleep(time.Hour)
		after := w.Guests()
		require.Equal(t, before[0].Name, after[0].Name)
		require.Equal(t, before[1].Name, after[1].Name)
		require.Equal(t, 2, w.hyper[0].Made())
		c.Templates = nil
		require.ErrorContains(t, w.Reload(c), "Config.Templates is empty")
		c.Name = "other"
		require.ErrorContains(t, w.Reload(c), "machines bear it")
		require.Equal(t, 2, w.Stats().Ready, "after an error nothing has changed")
	})
}

func TestAReloadedHostIsNeverOverCapacity(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
		defer w.finish()
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		// Its labels differ, so it is another host with the same slots.
		c := Config{Templates: []Template{{Name: "a", Ready: 2}}, Hosts: []Host{{Driver: w.drivers[0], Slots: 2, Labels: map[string]string{"x": "y"}}}}
		require.NoError(t, w.Reload(c))
		time.Sleep(time.Minute)
		require.Equal(t, 2, w.hyper[0].Peak())
		for _, g := range gs {
			w.release(g)
		}
		w.release(w.acquire(Want{Labels: map[string]string{"x": "y"}}))
		require.Equal(t, 2, w.hyper[0].Peak())
	})
}

func TestResizeGrowsAtOnceAndShrinksByLameDucks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 3, Idle: IdleNever}}, Hosts: []Host{{Slots: 3}}}, hypervisor("h"))
		defer w.finish()
		gs, err := w.AcquireAll(t.Context(), 2, Want{})
		require.NoError(t, err)
		var refused error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, refused = w.AcquireAll(t.Context(), 3, Want{})
		}()
		synctest.Wait()
		require.NoError(t, w.Resize("h", 1))
		<-ended
		require.ErrorIs(t, refused, ErrImpossible)
		time.Sleep(time.Minute)
		require.LessOrEqual(t, w.Stats().Machines, 3)
		for _, g := range gs {
			require.NoError(t, g.Context().Err())
			w.release(g)
		}
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.Stats().Machines)
		require.Equal(t, slotKey("h", 0), w.Guests()[0].Slot)
		require.NoError(t, w.Resize("h", 4))
		gs, err = w.AcquireAll(t.Context(), 4, Want{})
		require.NoError(t, err)
		for _, g := range gs {
			w.release(g)
		}
		require.ErrorIs(t, w.Resize("x", 1), errNoHost)
		require.ErrorContains(t, w.Resize("h", -1), "want 0 or more")
		require.Equal(t, 4, w.hyper[0].Peak())
	})
}
