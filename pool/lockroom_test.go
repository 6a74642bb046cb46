package pool

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two of five templates may have a machine at once. Machines that nobody uses stay
// up for ever, and hold the lock.
func TestAnIdleMachineMakesWayForWhoWaitsForItsLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		c := Config{Hosts: []Host{{Slots: 10}}, Locks: map[string]int{"laptop": 2, "roomy": 100}}
		for i := range 5 {
			c.Templates = append(c.Templates, Template{Name: fmt.Sprintf("t%d", i), Locks: []string{"roomy", "laptop"}, Idle: IdleNever})
		}
		c.Templates = append(c.Templates, Template{Name: "bystander", Locks: []string{"roomy"}, Idle: IdleNever})
		w := start(t, c, h)
		defer w.finish()
		w.release(w.acquire(Want{Template: "bystander"}))
		begun := time.Now()
		for round := range 3 {
			for i := range 5 {
				g := w.acquire(Want{Template: fmt.Sprintf("t%d", i)})
				require.LessOrEqual(t, h.Count(), 3, "round %d", round)
				time.Sleep(time.Second)
				w.release(g)
			}
		}
		require.Less(t, time.Since(begun), 15*5*time.Second)
		require.Equal(t, 3, h.Count(), "two with the lock, and one whose going would have helped nobody")
	})
}

func TestAMachineInUseKeepsItsLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{
			Hosts: []Host{{Slots: 4}}, Locks: map[string]int{"one": 1},
			Templates: []Template{{Name: "a", Locks: []string{"one"}, Idle: IdleNever}, {Name: "b", Locks: []string{"one"}, Idle: IdleNever}},
		}, h)
		defer w.finish()
		a := w.acquire(Want{Template: "a"})
		got := make(chan *Guest, 1)
		go func() { got <- w.acquire(Want{Template: "b"}) }()
		time.Sleep(time.Hour)
		require.Empty(t, got)
		require.NoError(t, a.Context().Err())
		w.release(a)
		begun := time.Now()
		w.release(<-got)
		require.Less(t, time.Since(begun), 10*time.Second, "it is tried as soon as the lock is free")
		require.Equal(t, 2, h.Made(), "the machine that was given back was not made anew only to make way")
	})
}
