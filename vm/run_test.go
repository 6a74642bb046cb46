package vm_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestRunTellsHowTheJobEnded(t *testing.T) {
	t.Parallel()
	boom := errors.New("harness is being stopped")
	for name, c := range map[string]struct {
		config  fake.Config
		job     func(ctx context.Context, j *fake.Job) error
		grace   time.Duration
		cancel  time.Duration // when the caller's context is cancelled; zero: never
		timeout time.Duration
		during  func(h *fake.Hypervisor) // lateAfter the start
		end     vm.EndKind
		detail  string
		err     error  // nil: none
		text    string // in the error
		took    time.Duration
		state   vm.State
		either  bool // with or without an error
	}{
		"done":                       {end: vm.EndDone, state: vm.StateRunning},
		"done, after a slow boot":    {config: fake.Config{Times: fake.Times{Boot: time.Hour, Start: time.Hour}}, end: vm.EndDone, took: 2 * time.Hour, state: vm.StateRunning},
		"done with garbage before":   {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Noise: 300_000}}}}, end: vm.EndDone, state: vm.StateRunning},
		"the guest cannot run it":    {job: func(context.Context, *fake.Job) error { return errors.New("disk 0 has no job") }, end: vm.EndDone, detail: "disk 0 has no job", text: "the guest could not run the job: disk 0 has no job", state: vm.StateRunning},
		"crashed in the job":         {job: func(_ context.Context, j *fake.Job) error { j.Crash("oops"); return nil }, end: vm.EndCrashed, detail: "oops", state: vm.StateCrashed},
		"powered off without a word": {job: func(_ context.Context, j *fake.Job) error { j.PowerOff(); return nil }, end: vm.EndPoweredOff, state: vm.StateStopped},
		"killed from outside":        {job: hang, during: func(h *fake.Hypervisor) { h.KillOutside("m1") }, end: vm.EndKilled, took: lateAfter, state: vm.StateStopped},
		"destroyed by somebody":      {job: hang, during: func(h *fake.Hypervisor) { h.Remove("m1") }, end: vm.EndKilled, took: lateAfter},
		"the host is lost":           {job: hang, during: func(h *fake.Hypervisor) { h.Lose(true) }, end: vm.EndHostLost, err: vm.ErrHostLost, took: lateAfter, state: vm.StateRunning},
		"the agent ended alone":      {job: func(_ context.Context, j *fake.Job) error { j.HangUp(); j.Hang(); return nil }, end: vm.EndHung, detail: "the guest's channel ended without the word done, and the machine still ran 5s later", took: 5 * time.Second, state: vm.StateRunning},
		"the agent started anew":     {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{SecondBoot: true}}}}, job: hang, end: vm.EndPoweredOff, either: true, state: vm.StateStopped},

		"cancelled, the guest obeys":      {job: obey, cancel: time.Minute, end: vm.EndDone, err: boom, text: "cancelled after 1m0s", took: time.Minute, state: vm.StateRunning},
		"past its deadline, it obeys":     {job: obey, timeout: time.Minute, end: vm.EndDone, err: context.DeadlineExceeded, took: time.Minute, state: vm.StateRunning},
		"cancelled, it obeys the kill":    {job: func(_ context.Context, j *fake.Job) error { <-j.Killed(); return nil }, cancel: time.Minute, end: vm.EndDone, err: boom, took: 6 * time.Minute, state: vm.StateRunning},
		"cancelled, it obeys nothing":     {job: hang, cancel: time.Minute, end: vm.EndHung, detail: "the guest did not end the job when it was asked to; the machine was killed", err: boom, took: 6*time.Minute + 10*time.Second, state: vm.StateStopped},
		"cancelled with little grace":     {job: hang, cancel: time.Minute, grace: 2 * time.Second, end: vm.EndHung, err: boom, took: time.Minute + 4*time.Second, state: vm.StateStopped},
		"cancelled with no grace":         {job: hang, cancel: time.Minute, grace: -1, end: vm.EndHung, err: boom, took: time.Minute, state: vm.StateStopped},
		"cancelled, then it crashes":      {job: hang, cancel: time.Second, during: func(h *fake.Hypervisor) { h.Crash("m1") }, end: vm.EndCrashed, err: boom, took: lateAfter, state: vm.StateCrashed},
		"cancelled, and cannot be killed": {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpKill, Err: vm.ErrHostLost}}}, job: hang, cancel: time.Second, grace: time.Second, end: vm.EndHung, err: vm.ErrHostLost, detail: "the guest did not end the job when it was asked to, and the machine could not be killed", took: 3 * time.Second, state: vm.StateRunning},

		"no such machine":             {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpInfo, Err: vm.ErrNotFound}}}, err: vm.ErrNotFound, state: vm.StateDefined},
		"the host is lost before":     {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpInfo, Err: vm.ErrHostLost}}}, end: vm.EndHostLost, err: vm.ErrHostLost, state: vm.StateDefined},
		"the host is busy":            {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Err: vm.ErrBusy}}}, err: vm.ErrBusy, state: vm.StateDefined},
		"the boot fails":              {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Fail: true}}}}, text: "last console lines:\n    booting m1, boot 1\n    Kernel panic", state: vm.StateCrashed},
		"the boot hangs":              {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Silent: true}}}}, timeout: time.Minute, end: vm.EndHung, detail: "the guest was never ready", err: context.DeadlineExceeded, text: "no hello from the guest", took: time.Minute, state: vm.StateRunning},
		"it crashes while booting":    {config: fake.Config{Times: fake.Times{Boot: time.Minute}, Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Crash: true, CrashAfter: time.Second}}}}, end: vm.EndCrashed, err: vm.ErrChannelEnded, took: time.Second, state: vm.StateCrashed},
		"it powers off while booting": {config: fake.Config{Times: fake.Times{Boot: time.Minute}, Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{PowerOff: time.Second}}}}, end: vm.EndPoweredOff, err: vm.ErrChannelEnded, took: time.Second, state: vm.StateStopped},
		"an impostor":                 {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{WrongHello: true}}}}, end: vm.EndPoweredOff, err: vm.ErrRefused, state: vm.StateStopped},
		"another incarnation":         {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{OtherHello: true}}}}, end: vm.EndPoweredOff, err: vm.ErrRefused, state: vm.StateStopped},
		"the guest is deaf":           {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Deaf: true}}}}, timeout: time.Minute, grace: time.Second, end: vm.EndHung, err: context.DeadlineExceeded, took: time.Minute + 2*time.Second, state: vm.StateStopped},
		"it lies that it runs":        {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpInfo, Lie: func(i *vm.Info) { i.State = vm.StateRunning }}}}, err: vm.ErrState, state: vm.StateDefined},

		"done, without Waiter":      {config: fake.Config{Without: vm.CanWait}, end: vm.EndDone, state: vm.StateRunning},
		"crashed, without Waiter":   {config: fake.Config{Without: vm.CanWait}, job: func(_ context.Context, j *fake.Job) error { j.Crash("oops"); return nil }, end: vm.EndCrashed, detail: "oops", took: time.Second, state: vm.StateCrashed},
		"gone, without Waiter":      {config: fake.Config{Without: vm.CanWait}, job: hang, during: func(h *fake.Hypervisor) { h.Remove("m1") }, end: vm.EndKilled, detail: "the machine is gone", took: time.Minute},
		"host lost, without Waiter": {config: fake.Config{Without: vm.CanWait}, job: hang, during: func(h *fake.Hypervisor) { h.Lose(true) }, end: vm.EndHostLost, err: vm.ErrHostLost, took: time.Minute, state: vm.StateRunning},
		"a Waiter that cannot wait": {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpWait, Err: errors.ErrUnsupported}}}, job: func(_ context.Context, j *fake.Job) error { j.PowerOff(); return nil }, end: vm.EndPoweredOff, took: time.Second, state: vm.StateStopped},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c.config.Job = c.job
				h := fake.NewHypervisor(c.config)
				d := h.Driver()
				defer func() {
					require.NoError(t, d.Close())
					require.NoError(t, h.Close())
				}()
				m, err := d.Create(t.Context(), spec("m1"))
				require.NoError(t, err)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if c.cancel > 0 {
					defer time.AfterFunc(c.cancel, func() { cancel(boom) }).Stop()
				}
				if c.timeout > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, c.timeout)
					defer stop()
				}
				if c.during != nil {
					defer time.AfterFunc(lateAfter, func() { c.during(h) }).Stop()
				}
				began := time.Now()
				end, err := vm.Run(ctx, m, vm.RunOptions{Grace: c.grace})
				require.Equal(t, c.took, time.Since(began))
				if c.err != nil {
					require.ErrorIs(t, err, c.err)
				}
				if c.err == boom {
					require.ErrorIs(t, err, context.Canceled, "the context's own error beside its cause")
				}
				if c.text != "" {
					require.ErrorContains(t, err, c.text)
				}
				if c.err == nil && c.text == "" && !c.either {
					require.NoError(t, err)
				}
				require.Equal(t, c.end, end.Kind, "%+v", end)
				if c.detail != "" {
					require.Equal(t, c.detail, end.Detail)
				}
				if end.Kind == vm.EndCrashed || end.Kind == vm.EndHung && c.state != vm.StateUnknown {
					require.Contains(t, string(end.Console), "booting m1")
				}
				h.Lose(false)
				h.Heal()
				if m, err := d.Open(t.Context(), "m1"); err == nil {
					i, err := m.Info(t.Context())
					require.NoError(t, err)
					require.Equal(t, c.state, i.State)
				}
			})
		})
	}
}

// lateAfter is when something happens to the machine: between two looks of a run
// that has to look for itself.
const lateAfter = time.Minute - 500*time.Millisecond

func hang(_ context.Context, j *fake.Job) error { j.Hang(); return nil }

func obey(ctx context.Context, _ *fake.Job) error { <-ctx.Done(); return nil }

func TestRunWakesWhatSleeps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "m1")
		s, _ := vm.As[vm.Suspender](m)
		require.NoError(t, s.Suspend(t.Context()))
		end, err := vm.Run(t.Context(), m, vm.RunOptions{})
		require.NoError(t, err)
		require.Equal(t, vm.EndDone, end.Kind)
		for _, down := range []func() error{
			func() error { return m.Kill(t.Context()) },
			func() error { return d.Hypervisor().Crash("m1") },
		} {
			require.NoError(t, down())
			end, err = vm.Run(t.Context(), m, vm.RunOptions{})
			require.NoError(t, err)
			require.Equal(t, vm.EndDone, end.Kind)
		}
		d2 := fake.New(fake.Config{Without: vm.CanSuspend, Faults: []fake.Fault{{Op: vm.OpInfo, Lie: func(i *vm.Info) { i.State = vm.StatePaused }}}})
		defer d2.Close()
		_, err = vm.Run(t.Context(), boot(t, d2, "m2"), vm.RunOptions{})
		require.ErrorIs(t, err, vm.ErrState)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

func TestSeveralRunsOnOneMachineDoNotDisturbEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Job: func(ctx context.Context, j *fake.Job) error {
			for i := range 20 {
				j.Send(64, []byte{j.Go[0], byte(i)})
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
			return nil
		}})
		defer d.Close()
		m := boot(t, d, "m1")
		ends := make(chan error, 8)
		for k := range 8 {
			go func() {
				next := byte(0)
				end, err := vm.Run(t.Context(), m, vm.RunOptions{Go: []byte{byte(k)}, Stream: uint32(k + 1), Message: func(kind uint8, body []byte) {
					if kind != 64 || body[0] != byte(k) || body[1] != next {
						err := errors.New("a message of another, or out of order")
						panic(err)
					}
					next++
				}})
				if err == nil && (end.Kind != vm.EndDone || next != 20) {
					err = errors.New("not done, or messages lost")
				}
				ends <- err
			}()
		}
		for range 8 {
			require.NoError(t, <-ends)
		}
		_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
	})
}

func TestRunOnAStreamInUseIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Job: obey})
		defer d.Close()
		m := boot(t, d, "m1")
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := vm.Run(ctx, m, vm.RunOptions{Stream: 7})
			first <- err
		}()
		synctest.Wait()
		end, err := vm.Run(t.Context(), m, vm.RunOptions{Stream: 7})
		require.ErrorIs(t, err, vm.ErrState)
		require.Equal(t, vm.EndUnknown, end.Kind)
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
	})
}

func TestRunWithoutAChannelWaitsForTheMachine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		guest fake.Guest
		stop  time.Duration
		body  []byte
		end   vm.EndKind
		err   error
		took  time.Duration
	}{
		"it powers off":             {guest: fake.Guest{PowerOff: time.Hour}, end: vm.EndPoweredOff, took: time.Hour},
		"it crashes":                {guest: fake.Guest{Crash: true, CrashAfter: time.Hour}, end: vm.EndCrashed, took: time.Hour},
		"it powers off when asked":  {stop: 10 * time.Second, end: vm.EndPoweredOff, err: context.DeadlineExceeded, took: 2*time.Hour + 10*time.Second},
		"it does not":               {guest: fake.Guest{Deaf: true}, end: vm.EndHung, err: context.DeadlineExceeded, took: 2*time.Hour + time.Minute},
		"there is something to say": {body: []byte("go"), err: errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := fake.New(fake.Config{
					Without: vm.CanMessage, Times: fake.Times{Stop: c.stop}, Faults: []fake.Fault{{Op: vm.OpStart, Guest: c.guest}},
				})
				defer d.Close()
				m, err := d.Create(t.Context(), spec("m1"))
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
				defer cancel()
				began := time.Now()
				end, err := vm.Run(ctx, m, vm.RunOptions{Go: c.body, Grace: time.Minute})
				require.ErrorIs(t, err, c.err)
				require.Equal(t, c.end, end.Kind)
				require.Equal(t, c.took, time.Since(began))
			})
		})
	}
}

func TestFenceThatIsLostDuringARunEndsItAndTouchesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var w watcher
		raw := fake.New(fake.Config{Job: func(ctx context.Context, j *fake.Job) error {
			j.Send(64, nil)
			<-ctx.Done()
			return nil
		}})
		defer raw.Close()
		m := vm.GuardMachine(boot(t, w.watch(raw), "m1"), w.fence)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		end, err := vm.Run(ctx, m, vm.RunOptions{Message: func(uint8, []byte) {
			w.lose()
			cancel()
		}})
		require.ErrorIs(t, err, errLost)
		require.NotEqual(t, vm.EndDone, end.Kind)
		require.NotContains(t, w.got(), vm.OpKill)
		require.NotContains(t, w.got(), vm.OpSend)
		i, err := raw.Hypervisor().Driver().List(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.StateRunning, i[0].State)
	})
}
