package fake_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestTwoHarnessesShareOneHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{HostID: "h1", Capacity: 3})
		defer h.Close()
		a, b := h.Driver(), h.Driver()
		require.Equal(t, "h1", a.HostID())
		require.Equal(t, "h1", b.HostID())
		require.Same(t, h, a.Hypervisor())
		boot(t, a, "a1")
		s := spec("a2")
		s.OnExit = vm.Survive
		survivor, err := a.Create(t.Context(), s)
		require.NoError(t, err)
		require.NoError(t, survivor.Start(t.Context()))
		boot(t, b, "b1")
		_, err = b.Create(t.Context(), spec("b2"))
		require.ErrorIs(t, err, vm.ErrBusy)
		require.ErrorContains(t, err, "there are 3 machines of at most 3")
		require.Equal(t, 3, h.Peak())

		// A machine's line is one process's.
		require.NoError(t, vm.ProveClean(t.Context(), survivor))
		m, err := b.Open(t.Context(), "a2")
		require.NoError(t, err)
		require.ErrorIs(t, vm.ProveClean(t.Context(), m), vm.ErrBusy)
		// The first process ends: what was to die is ended, the other adopted.
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		l, err := b.List(t.Context())
		require.NoError(t, err)
		require.Len(t, l, 3)
		require.Equal(t, []vm.State{vm.StateStopped, vm.StateRunning, vm.StateRunning}, []vm.State{l[0].State, l[1].State, l[2].State})
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, b.Close())
	})
}

func TestLostHostAnswersNothingAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{})
		defer h.Close()
		d := h.Driver()
		m := boot(t, d, "a")
		require.NoError(t, vm.ProveClean(t.Context(), m))
		w, _ := vm.As[vm.Waiter](m)
		told := make(chan error, 1)
		go func() { _, err := w.Wait(t.Context()); told <- err }()
		synctest.Wait()
		h.Lose(true)
		h.Lose(true)
		require.ErrorIs(t, <-told, vm.ErrHostLost)
		l, err := d.List(t.Context())
		require.ErrorIs(t, err, vm.ErrHostLost)
		require.Nil(t, l, "an error is never \"none\"")
		for _, do := range []func() error{
			func() error { _, err := d.Create(t.Context(), spec("b")); return err },
			func() error { _, err := d.Open(t.Context(), "a"); return err },
			func() error { _, err := m.Info(t.Context()); return err },
			func() error { return m.Kill(t.Context()) },
			func() error { return m.Destroy(t.Context()) },
			func() error { f, _ := vm.As[vm.Forker](d); _, err := f.Parents(t.Context()); return err },
			func() error { f, _ := vm.As[vm.Forker](d); return f.DropParent(t.Context(), "p") },
			func() error { s, _ := vm.As[vm.Stocker](d); _, err := s.Stock(t.Context()); return err },
		} {
			require.ErrorIs(t, do(), vm.ErrHostLost)
		}
		h.Lose(false)
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, i.State, "machines live on")
		synctest.Wait() // until the old channel has seen its end
		require.NoError(t, vm.ProveClean(t.Context(), m), "the guest says hello anew")
	})
}

func TestAnInputThatTheHostHasIsPutInAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{Times: fake.Times{Insert: time.Minute}})
		defer h.Close()
		d := h.Driver()
		defer d.Close()
		takes := func(m vm.Machine, place int, text string) time.Duration {
			a, _ := vm.As[vm.Attacher](m)
			began := time.Now()
			require.NoError(t, a.Insert(t.Context(), place, picture(text)))
			return time.Since(began)
		}
		a, b := boot(t, d, "a"), boot(t, d, "b")
		require.Equal(t, time.Minute, takes(a, 0, "one"))
		require.Zero(t, takes(b, 0, "one"), "another machine of the host")
		h.Stock("sha256:two")
		require.Zero(t, takes(b, 1, "two"))
		s, ok := vm.As[vm.Stocker](d)
		require.True(t, ok)
		for i := range 100 {
			h.Stock(fmt.Sprint("sha256:", i), "sha256:0")
		}
		all, err := s.Stock(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 64)
		require.Equal(t, time.Minute, takes(b, 0, "one"), "the oldest was dropped")
	})
}

// picture is an image of which only the digest counts.
type picture string

func (p picture) Digest() string                        { return "sha256:" + string(p) }
func (picture) Size() int64                             { return 0 }
func (picture) ReadAt(b []byte, off int64) (int, error) { return 0, io.EOF }

func TestHypervisorDoesToMachinesWhatOutsidersDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{})
		defer h.Close()
		d := h.Driver()
		for name, c := range map[string]struct {
			do   func(vm.ID) error
			kind vm.EndKind
		}{
			"crash": {h.Crash, vm.EndCrashed}, "off": {h.PowerOff, vm.EndPoweredOff}, "kill": {h.KillOutside, vm.EndKilled},
		} {
			m := boot(t, d, name)
			require.NoError(t, c.do(m.ID()))
			require.ErrorIs(t, c.do(m.ID()), vm.ErrState)
			require.ErrorIs(t, c.do("nobody"), vm.ErrNotFound)
			i, err := m.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.kind, i.End.Kind)
		}
		m := boot(t, d, "gone")
		require.NoError(t, h.Forget("gone"))
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.True(t, i.Owner.Zero())
		require.NoError(t, h.Remove("gone"))
		require.ErrorIs(t, h.Remove("gone"), vm.ErrNotFound)
		require.ErrorIs(t, h.Forget("gone"), vm.ErrNotFound)
		_, err = m.Info(t.Context())
		require.ErrorIs(t, err, vm.ErrNotFound)
		require.Equal(t, 3, h.Count())
		require.Equal(t, 4, h.Made())
	})
}

func TestGuestPowersOffWhenItHearsNothingForItsKeepalive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{Keepalive: time.Minute})
		defer h.Close()
		a, b := h.Driver(), h.Driver()
		s := spec("a")
		s.OnExit = vm.Survive
		m, err := a.Create(t.Context(), s)
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context()))
		require.NoError(t, vm.ProveClean(t.Context(), m))
		time.Sleep(24 * time.Hour)
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, i.State, "the channel's pings keep it alive")
		require.NoError(t, a.Close()) // the harness is gone
		time.Sleep(39 * time.Second)  // and at most 20 since its last ping
		l, err := b.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, l[0].State)
		time.Sleep(22 * time.Second)
		l, err = b.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateStopped, l[0].State)
		require.Equal(t, "heard nothing from the host for 1m0s", l[0].End.Detail)
		require.NoError(t, b.Close())
	})
}

func TestKillAndDestroyCutInOnWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: fake.Times{Start: time.Hour, Snapshot: time.Hour}})
		defer d.Close()
		for _, cut := range []func(m vm.Machine) error{
			func(m vm.Machine) error { return m.Kill(t.Context()) },
			func(m vm.Machine) error { return m.Destroy(t.Context()) },
		} {
			m, err := d.Create(t.Context(), spec("a"))
			require.NoError(t, err)
			started := make(chan error, 1)
			go func() { started <- m.Start(t.Context()) }()
			synctest.Wait()
			i, err := m.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, vm.StateStarting, i.State)
			s, _ := vm.As[vm.Snapshotter](m)
			require.ErrorIs(t, s.Snapshot(t.Context(), "x"), vm.ErrState)
			require.NoError(t, cut(m))
			require.Error(t, <-started)
			if i, err = m.Info(t.Context()); err == nil {
				require.Equal(t, vm.StateDefined, i.State)
			} else {
				require.ErrorIs(t, err, vm.ErrNotFound)
			}
			require.NoError(t, m.Destroy(t.Context()))
		}
		// A context that ends leaves the machine as it was.
		m, err := d.Create(t.Context(), spec("b"))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, m.Start(ctx), context.DeadlineExceeded)
		i, err := m.Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateDefined, i.State)
	})
}

func TestTenThousandIdleMachinesCostNoGoroutine(t *testing.T) {
	h := fake.NewHypervisor(fake.Config{})
	d := h.Driver()
	before := runtime.NumGoroutine()
	const n = 10_000
	for i := range n {
		m, err := d.Create(t.Context(), spec(fmt.Sprintf("m%05d", i)))
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context()))
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
	l, err := d.List(t.Context())
	require.NoError(t, err)
	require.Len(t, l, n)
	m, err := d.Open(t.Context(), "m07777")
	require.NoError(t, err)
	require.NoError(t, vm.ProveClean(t.Context(), m))
	require.NoError(t, d.Close())
	require.NoError(t, h.Close())
}

func TestJobSeesItsMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var boots []int
		d := fake.New(fake.Config{Job: func(ctx context.Context, j *fake.Job) error {
			boots = append(boots, j.Boot)
			require.Equal(t, vm.ID("a"), j.Machine)
			require.Equal(t, uint32(9), j.Stream)
			require.Nil(t, j.Disk(-1))
			require.Nil(t, j.Disk(1))
			require.EqualValues(t, 1<<20, j.Disk(0).Size())
			require.Nil(t, j.Input(0))
			j.Print("from the job\n")
			_, err := j.Disk(0).WriteAt([]byte("x"), 1<<20)
			require.ErrorIs(t, err, vm.ErrTooLarge)
			_, err = j.Disk(0).ReadAt(make([]byte, 1), 1<<20)
			require.ErrorIs(t, err, io.EOF)
			_, err = j.Disk(0).ReadAt(make([]byte, 1), -1)
			require.Error(t, err)
			j.Send(64, make([]byte, 1<<20)) // longer than a frame: told as a fault
			return nil
		}})
		defer d.Close()
		m := boot(t, d, "a")
		for range 2 {
			_, err := vm.Run(t.Context(), m, vm.RunOptions{Stream: 9})
			require.ErrorIs(t, err, vm.ErrFault)
			require.NoError(t, m.Kill(t.Context()))
			require.NoError(t, m.Start(t.Context()))
		}
		require.Equal(t, []int{1, 2}, boots)
		c, _ := vm.As[vm.Consoler](m)
		b, err := c.Console(t.Context(), 1<<20)
		require.NoError(t, err)
		require.Contains(t, string(b), "from the job\n")
	})
}

func TestClosedDiskHandleCannotBeUsed(t *testing.T) {
	t.Parallel()
	d := fake.New(fake.Config{})
	m := boot(t, d, "a")
	a, _ := vm.As[vm.Attacher](m)
	disk, err := a.JobDisk(t.Context(), 0)
	require.NoError(t, err)
	require.NoError(t, disk.Close())
	_, err = disk.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, vm.ErrClosed)
	_, err = disk.WriteAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, vm.ErrClosed)
	require.ErrorIs(t, disk.Sync(t.Context()), vm.ErrClosed)
	require.NoError(t, d.Close())
}

func TestForkedMachineIsRevertedAndBootedAsItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Rung: vm.RungRestore})
		defer d.Close()
		sv, _ := vm.As[vm.Saver](boot(t, d, "p"))
		require.NoError(t, sv.Save(t.Context(), "parent"))
		require.ErrorIs(t, sv.Save(t.Context(), "other"), vm.ErrState)
		f, _ := vm.As[vm.Forker](d)
		require.Equal(t, vm.RungRestore, f.Rung())
		m, err := f.Fork(t.Context(), "parent", spec("a"))
		require.NoError(t, err)
		s, _ := vm.As[vm.Snapshotter](m)
		require.NoError(t, s.Snapshot(t.Context(), "clean"))
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, s.Revert(t.Context(), "clean"))
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, m.Kill(t.Context()))
		require.NoError(t, m.Start(t.Context()))
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, s.DeleteSnapshot(t.Context(), "clean"))
		require.ErrorIs(t, s.Revert(t.Context(), "clean"), vm.ErrNotFound)
	})
}
