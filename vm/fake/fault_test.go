package fake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

var errNo = errors.New("no")

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func TestFaultsHitTheCallsThatTheScriptNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Faults: []fake.Fault{
			{Op: vm.OpCreate, From: 2, Times: 2, Err: vm.ErrBusy},
			{Op: vm.OpStart, Machine: "b*", Err: errNo},
		}})
		defer d.Close()
		var got []error
		for _, name := range []string{"a1", "a2", "a3", "b1"} {
			_, err := d.Create(t.Context(), spec(name))
			got = append(got, err)
		}
		require.NoError(t, got[0])
		require.ErrorIs(t, got[1], vm.ErrBusy)
		require.EqualError(t, got[2], "vm: create a3 (fake): busy: not now, try elsewhere or later")
		require.NoError(t, got[3])
		for id, want := range map[vm.ID]error{"a1": nil, "b1": errNo} {
			m, err := d.Open(t.Context(), id)
			require.NoError(t, err)
			require.ErrorIs(t, m.Start(t.Context()), want)
		}
		require.Equal(t, 4, d.Hypervisor().Calls(vm.OpCreate))
		d.Hypervisor().Heal()
		m, _ := d.Open(t.Context(), "b1")
		require.NoError(t, m.Start(t.Context()))
	})
}

func TestLateFaultIsAnAnswerThatWasLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Err: errNo, Late: true}}})
		defer d.Close()
		m, err := d.Create(t.Context(), spec("a"))
		require.NoError(t, err)
		require.ErrorIs(t, m.Start(t.Context()), errNo)
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, i.State)
	})
}

func TestHangingCallEndsWithItsContextOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Faults: []fake.Fault{{Op: vm.OpDestroy, Hang: true}, {Op: vm.OpReadDisk, Hang: true}, {Op: vm.OpInfo, Delay: time.Hour}}})
		defer d.Close()
		m := boot(t, d, "a")
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, m.Destroy(ctx), context.DeadlineExceeded)
		require.Equal(t, 24*time.Hour, time.Since(began))
		_, err := m.Info(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "the delay is cut by the context")
		began = time.Now()
		_, err = m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, time.Hour, time.Since(began))
		a, _ := vm.As[vm.Attacher](m)
		disk, err := a.JobDisk(t.Context(), 0)
		require.NoError(t, err)
		_, err = disk.ReadAt(make([]byte, 1), 0)
		require.ErrorContains(t, err, "the call hung")
	})
}

func TestListingsLieWhenTheScriptSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		boot(t, d, "a")
		boot(t, d, "b")
		d.Hypervisor().Inject(fake.Fault{Op: vm.OpList, Times: 1, Lose: 1})
		d.Hypervisor().Inject(fake.Fault{Op: vm.OpList, Times: 2, Lie: func(i *vm.Info) { i.State = vm.StateUnknown }})
		d.Hypervisor().Inject(fake.Fault{Op: vm.OpList, From: 3, Err: vm.ErrHostLost})
		l, err := d.List(t.Context())
		require.NoError(t, err)
		require.Len(t, l, 1)
		l, err = d.List(t.Context())
		require.NoError(t, err)
		require.Len(t, l, 2)
		require.Equal(t, vm.StateUnknown, l[1].State)
		l, err = d.List(t.Context())
		require.ErrorIs(t, err, vm.ErrHostLost)
		require.Empty(t, l)
	})
}

// luck says which of many starts fail by a fault with a chance.
func luck(t *testing.T, seed uint64, shuffle bool) []string {
	d := fake.New(fake.Config{Seed: seed, Faults: []fake.Fault{{Op: vm.OpStart, Chance: 0.3, Err: errNo}}})
	defer d.Close()
	var mu sync.Mutex
	var failed []string
	var wg sync.WaitGroup
	for i := range 300 {
		name := fmt.Sprintf("m%03d", i)
		do := func() {
			m, err := d.Create(t.Context(), spec(name))
			if err != nil {
				panic(err)
			}
			for try := range 2 {
				if m.Start(t.Context()) != nil {
					mu.Lock()
					failed = append(failed, fmt.Sprint(name, " ", try))
					mu.Unlock()
				}
			}
		}
		if shuffle {
			wg.Go(do)
		} else {
			do()
		}
	}
	wg.Wait()
	slices.Sort(failed)
	return failed
}

func TestChanceIsDecidedByTheSeedWhateverTheGoroutinesDo(t *testing.T) {
	t.Parallel()
	a, b, c := luck(t, 1, false), luck(t, 1, true), luck(t, 2, false)
	// A start that succeeded is followed by one that is ErrState, so the
	// failures are those of the fault and those; what counts is the sameness.
	require.Equal(t, a, b)
	require.NotEqual(t, a, c)
	first := 0
	for _, f := range a {
		if f[len(f)-1] == '0' {
			first++
		}
	}
	require.InDelta(t, 90, first, 35, "about three in ten")
}

func TestWrapAddsFaultsToAnyDriver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		raw := fake.New(fake.Config{})
		f := fake.Wrap(raw, fake.Fault{Op: vm.OpJobDisk, Err: errNo, Times: 1}, fake.Fault{Op: vm.OpWriteDisk, Err: errNo}, fake.Fault{Op: vm.OpSend, Err: errNo, From: 2})
		defer f.Close()
		require.Equal(t, vm.Capabilities(raw), vm.Capabilities(f))
		m := boot(t, f, "a")
		require.Equal(t, vm.AllOfMachines, vm.Capabilities(m))
		a, _ := vm.As[vm.Attacher](m)
		_, err := a.JobDisk(t.Context(), 0)
		require.ErrorIs(t, err, errNo)
		disk, err := a.JobDisk(t.Context(), 0)
		require.NoError(t, err)
		_, err = disk.WriteAt([]byte("x"), 0)
		require.ErrorIs(t, err, errNo)
		end, err := vm.Run(t.Context(), m, vm.RunOptions{})
		require.NoError(t, err)
		require.Equal(t, vm.EndDone, end.Kind)
		_, err = vm.Run(t.Context(), m, vm.RunOptions{})
		require.ErrorIs(t, err, errNo)
		require.Equal(t, 2, f.Calls(vm.OpSend))
		// As does not look behind it.
		_, ok := vm.As[*fake.Driver](f)
		require.False(t, ok)
		d, ok := vm.As[vm.Driver](f)
		require.True(t, ok)
		require.Same(t, f, d)
		fork, ok := vm.As[vm.Forker](f)
		require.True(t, ok)
		f.Inject(fake.Fault{Op: vm.OpParents, Err: errNo})
		_, err = fork.Parents(t.Context())
		require.ErrorIs(t, err, errNo)
		f.Heal()
		_, err = fork.Parents(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.RungFork, fork.Rung())
		stock, ok := vm.As[vm.Stocker](f)
		require.True(t, ok)
		f.Inject(fake.Fault{Op: vm.OpStock, Err: errNo})
		_, err = stock.Stock(t.Context())
		require.ErrorIs(t, err, errNo)
		_, ok = vm.As[vm.Stocker](fake.Wrap(fake.New(fake.Config{Without: vm.CanStock})))
		require.False(t, ok)
		_, ok = vm.As[vm.Forker](fake.Wrap(fake.New(fake.Config{Without: vm.CanFork})))
		require.False(t, ok)
	})
}

func TestGuestsFailAsTheirBootsAreScripted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		guest fake.Guest
		see   func(t *testing.T, h *fake.Hypervisor, m vm.Machine)
	}{
		"slow": {fake.Guest{Slow: time.Hour}, func(t *testing.T, _ *fake.Hypervisor, m vm.Machine) {
			began := time.Now()
			require.NoError(t, vm.ProveClean(t.Context(), m))
			require.Equal(t, time.Hour, time.Since(began))
		}},
		"crash later": {fake.Guest{Crash: true, CrashAfter: time.Hour}, func(t *testing.T, _ *fake.Hypervisor, m vm.Machine) {
			w, _ := vm.As[vm.Waiter](m)
			began := time.Now()
			end, err := w.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, vm.EndCrashed, end.Kind)
			require.Contains(t, string(end.Console), "crashed: kernel panic")
			require.Equal(t, time.Hour, time.Since(began))
			i, err := m.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, vm.StateCrashed, i.State)
			require.NoError(t, m.Start(t.Context()), "crashed machines can be started")
		}},
		"no address ever": {fake.Guest{Silent: true}, func(t *testing.T, _ *fake.Hypervisor, m vm.Machine) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
			defer cancel()
			a, _ := vm.As[vm.Addresser](m)
			_, err := a.Addresses(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}},
		"stop ignored": {fake.Guest{Deaf: true}, func(t *testing.T, _ *fake.Hypervisor, m vm.Machine) {
			require.NoError(t, m.Stop(t.Context()))
			time.Sleep(time.Hour)
			i, err := m.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, vm.StateRunning, i.State)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := fake.New(fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Times: 1, Guest: c.guest}}})
				defer d.Close()
				c.see(t, d.Hypervisor(), boot(t, d, "a"))
			})
		})
	}
}
