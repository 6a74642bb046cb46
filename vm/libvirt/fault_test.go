//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/vm"
)

// The faults of real machines, each with the word that it has to end in.

// launch runs one shell line as a job and gives how it ended.
func launch(t *testing.T, m vm.Machine, limit time.Duration, line string) (vm.End, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	a, _ := vm.As[vm.Attacher](m)
	disk, err := a.JobDisk(ctx, 0)
	require.NoError(t, err)
	defer disk.Close()
	ticket, err := diskio.WriteJob(ctx, disk, disk.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands("echo before", line)}}}, nil)
	require.NoError(t, err)
	end, err := vm.Run(ctx, m, vm.RunOptions{Go: diskio.Go{Nonce: ticket.Nonce}.Encode(), Grace: -1})
	// What was done before the fault is on the disk, labelled partial.
	results, rerr := diskio.ReadResults(t.Context(), disk, disk.Size(), ticket, nil)
	require.NoError(t, rerr)
	if end.Kind != vm.EndDone && len(results.Parts) > 0 && len(results.Parts[0].Steps) > 0 {
		assert.False(t, results.Complete)
		assert.Equal(t, "before\n", string(results.Parts[0].Steps[0].Stdout))
	}
	return end, err
}

const jobTime = time.Minute

func TestAGuestThatPanicsIsCrashed(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	end, err := launch(t, m, jobTime, `eval "$BULLPEN_CRASH"; sleep 60`)
	require.NoError(t, err)
	assert.Equal(t, vm.EndCrashed, end.Kind, "%+v", end)
	assert.Contains(t, string(end.Console), "Kernel panic")
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateCrashed, info.State)
	require.NoError(t, m.Start(t.Context()), "a crashed machine can be started again")
}

func TestAGuestThatPowersOffIsPoweredOff(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	end, err := launch(t, m, jobTime, `poweroff -f; sleep 60`)
	require.NoError(t, err)
	assert.Equal(t, vm.EndPoweredOff, end.Kind, "%+v", end)
}

func TestQEMUThatIsKilledIsCrashedAndQEMUThatIsToldToEndIsKilled(t *testing.T) {
	for signal, want := range map[syscall.Signal]vm.EndKind{syscall.SIGKILL: vm.EndCrashed, syscall.SIGTERM: vm.EndKilled} {
		t.Run(signal.String(), func(t *testing.T) {
			d, g := openEmbed(t)
			s := guestSpec(g)
			m := boot(t, d, s)
			pids := processesWith(t, s.Name)
			require.Len(t, pids, 1)
			fired := time.AfterFunc(time.Second, func() { _ = syscall.Kill(pids[0], signal) })
			defer fired.Stop()
			end, err := launch(t, m, jobTime, "sleep 60")
			require.NoError(t, err)
			assert.Equal(t, want, end.Kind, "%+v", end)
		})
	}
}

// libvirt may say for a while that it runs.
func TestAHaltedMachinesQEMUIsGoneBeforeLibvirtSaysSo(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	m := boot(t, d, s)
	h, ok := vm.As[vm.Halter](vm.GuardMachine(m, func() error { return nil }))
	require.True(t, ok)
	require.NoError(t, h.Halt(t.Context()))
	assert.Empty(t, processesWith(t, s.Name))
	end, err := m.(vm.Waiter).Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndKilled, end.Kind, "%+v", end)
	assert.Equal(t, "killed by Halt", end.Detail)
	require.ErrorIs(t, h.Halt(t.Context()), errors.ErrUnsupported, "there is nothing to be seen")
	require.NoError(t, m.Destroy(t.Context()))
	require.ErrorIs(t, h.Halt(t.Context()), vm.ErrNotFound)
}

// A stopped QEMU sends no event: only the deadline ends the wait.
func TestAGuestThatHangsIsHungAtTheDeadlineAndKilled(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	m := boot(t, d, s)
	pids := processesWith(t, s.Name)
	require.Len(t, pids, 1)
	fired := time.AfterFunc(time.Second, func() { _ = syscall.Kill(pids[0], syscall.SIGSTOP) })
	defer fired.Stop()
	end, err := launch(t, m, 3*time.Second, "sleep 60")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, vm.EndHung, end.Kind, "%+v", end)
	require.NoError(t, m.Destroy(t.Context()))
	assert.Empty(t, processesWith(t, s.Name))
}

// FIELD (c) 38: a console that nobody drains blocks the guest.
func TestAConsoleThatIsFloodedStaysBoundedAndTheJobGoesOn(t *testing.T) {
	d, g := openEmbed(t)
	d.conf.Console = minConsole
	m := boot(t, d, guestSpec(g))
	results := runJob(t, m, nil, `i=0; while [ $i -lt 300 ]; do dd if=/dev/zero bs=1024 count=1 2>/dev/null | tr '\0' x; echo; i=$((i+1)); done >/dev/console`, "echo still here")
	assert.Equal(t, "still here\n", string(results.Parts[0].Steps[1].Stdout))
	// The supervisor looks at it now and then.
	require.Eventually(t, func() bool {
		fi, err := os.Stat(m.(*machine).path(consoleFile))
		return err == nil && fi.Size() <= minConsole
	}, 30*time.Second, 100*time.Millisecond)
	assert.Contains(t, consoleOf(m), "xxxx")
}

func TestGarbageOnTheChannelIsSkipped(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	// Whatever a root process of the guest writes to the port goes between the
	// agent's frames.
	results := runJob(t, m, nil, `for p in /dev/vport*; do dd if=/dev/urandom of=$p bs=512 count=64 2>/dev/null || true; done; echo ok`)
	assert.Contains(t, string(results.Parts[0].Steps[0].Stdout), "ok")
	ch, err := m.(*machine).Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.Ping(t.Context())
	require.NoError(t, err)
}

func TestAKernelThatDoesNotBootIsToldWithItsConsole(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Initrd = "" // no root: it panics
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Destroy(context.Background())) })
	ctx, cancel := context.WithTimeout(t.Context(), jobTime)
	defer cancel()
	end, err := vm.Run(ctx, m, vm.RunOptions{})
	require.Error(t, err)
	assert.Equal(t, vm.EndCrashed, end.Kind, "%+v", end)
	assert.Contains(t, string(end.Console), "Unable to mount root fs")
}

func TestAKernelThatIsNoneIsAnErrorOfStart(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Kernel = filepath.Join(t.TempDir(), "none")
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Destroy(context.Background())) })
	err = m.Start(t.Context())
	require.Error(t, err)
	var oe *vm.OpError
	require.True(t, errors.As(err, &oe))
	assert.Equal(t, vm.OpStart, oe.Op)
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateDefined, info.State)
}

func TestAnImageThatWasRemovedIsAnErrorAndTheMachineCanBeDestroyed(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	require.NoError(t, os.Remove(m.(*machine).path(jobDiskFile(1))))
	require.Error(t, m.Start(t.Context()))
	_, err = m.(*machine).JobDisk(t.Context(), 1)
	require.ErrorIs(t, err, vm.ErrNotFound)
	require.NoError(t, os.RemoveAll(d.dir(m.ID())))
	require.NoError(t, m.Destroy(t.Context()), "also when its folder is gone")
	_, err = d.Open(t.Context(), m.ID())
	require.ErrorIs(t, err, vm.ErrNotFound)
}

// QEMU takes one client at a time: what comes besides ours must not reach the
// guest, nor be taken for it.
func TestAnImpostorOnTheSocketIsNotHeard(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	m := boot(t, d, s)
	c, err := net.Dial("unix", d.socketPath(s.Name))
	if err == nil {
		defer c.Close()
		_, err = c.Write(bytes.Repeat([]byte("noise"), 1000))
		_ = err
	}
	results := runJob(t, m, nil, "echo fine")
	assert.Equal(t, "fine\n", string(results.Parts[0].Steps[0].Stdout))
}

func TestALateDriverIsToldThatTheChannelIsTaken(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	other, err := Open(t.Context(), testConfig(t, embedURI()))
	require.NoError(t, err)
	defer other.Close()
	same, err := other.Open(t.Context(), m.ID())
	require.NoError(t, err)
	_, err = same.(*machine).Channel(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	assert.True(t, strings.Contains(err.Error(), "channel"))
}
