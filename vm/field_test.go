package vm_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// Failures that other systems shipped, as far as this package can have them.

func TestCloneThatBootsTheBaseIsNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// The clone's guest names another machine's incarnation, so it is not
		// what was asked for; the next rung is.
		d := fake.New(fake.Config{Times: ladderTimes, Faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{OtherHello: true}}}})
		defer d.Close()
		r, err := vm.Renew(t.Context(), used(t, d), vm.Policy{Driver: d, Spec: spec("new"), Parent: "parent"})
		require.NoError(t, err)
		require.Equal(t, vm.RungCold, r.Rung)
		require.ErrorIs(t, r.Skipped[0].Err, vm.ErrRefused)
		require.Equal(t, 1, d.Hypervisor().Count())
	})
}

func TestWaiterOfARevertThatLeavesTheMachineOffDoesNotHang(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Job: hang})
		defer d.Close()
		m, err := d.Create(t.Context(), spec("a"))
		require.NoError(t, err)
		s, _ := vm.As[vm.Snapshotter](m)
		require.NoError(t, s.Snapshot(t.Context(), "off"))
		require.NoError(t, m.Start(t.Context()))
		ended := make(chan vm.End, 1)
		go func() {
			end, _ := vm.Run(t.Context(), m, vm.RunOptions{})
			ended <- end
		}()
		synctest.Wait()
		require.NoError(t, s.Revert(t.Context(), "off"))
		require.Equal(t, vm.EndKilled, (<-ended).Kind)
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateStopped, i.State)
	})
}

func TestSecondExecutorOnOneMachineIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{})
		defer h.Close()
		a, b := h.Driver(), h.Driver()
		m := boot(t, a, "m1")
		_, err := vm.Run(t.Context(), m, vm.RunOptions{})
		require.NoError(t, err)
		other, err := b.Open(t.Context(), "m1")
		require.NoError(t, err)
		_, err = vm.Run(t.Context(), other, vm.RunOptions{})
		require.ErrorIs(t, err, vm.ErrBusy)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
}

func TestGuestThatFloodsItsChannelDoesNotStopTheJob(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{
			Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Noise: 1 << 20}}},
			Job: func(_ context.Context, j *fake.Job) error {
				for range 100_000 {
					j.Send(64, make([]byte, 100))
				}
				return nil
			},
		})
		defer d.Close()
		end, err := vm.Run(t.Context(), boot(t, d, "m1"), vm.RunOptions{})
		require.NoError(t, err)
		require.Equal(t, vm.EndDone, end.Kind)
	})
}

func TestNoMachineIsLeftByRenewalsThatFailAnywhere(t *testing.T) {
	t.Parallel()
	seeds := need.Soak(t, 300, 10_000)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			d := fake.New(fake.Config{Seed: uint64(seed), Times: ladderTimes, Capacity: 2})
			h := d.Hypervisor()
			m := used(t, d)
			chance := 0.02 + 0.3*float64(seed%10)/10
			// Not of Create and Fork: a driver whose answer is lost there cleans
			// up after itself.
			for _, op := range []string{vm.OpStart, vm.OpDestroy, vm.OpRevert, vm.OpInfo, vm.OpChannel, vm.OpReady, vm.OpParents, vm.OpEject} {
				h.Inject(fake.Fault{Op: op, Chance: chance, Err: errors.New("lost answer"), Late: true})
			}
			h.Inject(
				fake.Fault{Chance: chance, Err: errors.New("no")},
				fake.Fault{Chance: chance, Delay: 7 * time.Second},
				fake.Fault{Chance: chance / 4, Err: vm.ErrBusy},
				fake.Fault{Chance: chance / 4, Hang: true},
				fake.Fault{Chance: chance, Op: vm.OpStart, Guest: fake.Guest{Crash: true, CrashAfter: 2 * time.Second}},
				fake.Fault{Chance: chance, Op: vm.OpFork, Guest: fake.Guest{Dirty: "x"}},
				fake.Fault{Chance: chance, Op: vm.OpRevert, Guest: fake.Guest{Silent: true}},
			)
			for round := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				var r vm.Renewed
				r, err := vm.Renew(ctx, m, vm.Policy{Driver: d, Spec: spec(fmt.Sprintf("r%d", round)), Parent: "parent", Snapshot: "clean"})
				cancel()
				m = r.Machine
				if err == nil {
					h.Heal() // look at the truth, not at what is told
					require.NoError(t, vm.ProveClean(t.Context(), m), "seed %d round %d", seed, round)
					break
				}
				require.NotEmpty(t, r.Skipped, "seed %d round %d", seed, round)
			}
			h.Heal()
			if m != nil { // or gone already, when the answer to that was lost
				require.NoError(t, m.Destroy(t.Context()))
			}
			require.Zero(t, h.Count(), "seed %d: machines are left that Renew did not tell of", seed)
			require.LessOrEqual(t, h.Peak(), 1, "seed %d: two machines for one slot", seed)
			require.NoError(t, d.Close())
			require.NoError(t, h.Close())
		})
	}
}
