package local

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func create(t testing.TB, d *Driver) *machine {
	t.Helper()
	m, err := d.Create(testContext(t), testSpec(t))
	require.NoError(t, err)
	return m.(*machine)
}

// running makes a machine that has said that it is ready.
func running(t testing.TB, d *Driver) *machine {
	t.Helper()
	m := create(t, d)
	boot(t, m)
	return m
}

func boot(t testing.TB, m *machine) vm.Greeting {
	t.Helper()
	ctx := testContext(t)
	require.NoError(t, m.Start(ctx))
	c, err := m.Channel(ctx)
	require.NoError(t, err)
	hello, err := c.Ready(ctx)
	require.NoError(t, err)
	return hello
}

// sh runs a shell line in the machine and gives what it printed.
func sh(t testing.TB, m vm.Machine, line string) string {
	t.Helper()
	var out, errs bytes.Buffer
	exit, err := vm.Exec(testContext(t), m, vm.Command{Argv: []string{"/bin/sh", "-c", line}, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.True(t, exit.OK(), "%s: %v: %s", line, exit, errs.String())
	return strings.TrimSpace(out.String())
}

func state(t testing.TB, m vm.Machine) vm.State {
	t.Helper()
	info, err := m.Info(testContext(t))
	require.NoError(t, err)
	return info.State
}

// nobodyLeft proves that no process bears the machine's mark.
func nobodyLeft(t testing.TB, mark string) {
	t.Helper()
	found, err := newHerd(mark, runRecord{}).find()
	require.NoError(t, err)
	require.Empty(t, found)
}

func markOf(t testing.TB, m *machine) string {
	t.Helper()
	s, err := m.spec()
	require.NoError(t, err)
	return s.Mark
}

func TestAMachineGoesThroughItsStates(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	m := create(t, d)
	require.Equal(t, vm.StateDefined, state(t, m))
	end, err := m.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndUnknown, end.Kind)
	require.NoError(t, m.Stop(ctx))
	require.NoError(t, m.Kill(ctx))
	require.ErrorIs(t, m.Suspend(ctx), vm.ErrState)
	require.ErrorIs(t, m.Resume(ctx), vm.ErrState)
	_, err = m.Channel(ctx)
	require.ErrorIs(t, err, vm.ErrState)

	hello := boot(t, m)
	require.Empty(t, hello.Dirty)
	require.Equal(t, "bullpen-local", hello.Agent)
	require.Equal(t, vm.StateRunning, state(t, m))
	require.ErrorIs(t, m.Start(ctx), vm.ErrState)
	require.ErrorIs(t, m.Resume(ctx), vm.ErrState)
	require.NoError(t, vm.ProveClean(ctx, m))

	require.NoError(t, m.Suspend(ctx))
	require.Equal(t, vm.StatePaused, state(t, m))
	require.ErrorIs(t, m.Suspend(ctx), vm.ErrState)
	require.ErrorIs(t, m.Start(ctx), vm.ErrState)
	require.NoError(t, m.Resume(ctx))
	require.Equal(t, vm.StateRunning, state(t, m))
	require.Equal(t, "hello", sh(t, m, "echo hello"))
	require.ErrorIs(t, vm.ProveClean(ctx, m), vm.ErrDirty)

	require.NoError(t, m.Stop(ctx))
	end, err = m.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndPoweredOff, end.Kind, end.Detail)
	require.Equal(t, vm.StateStopped, state(t, m))

	hello = boot(t, m)
	require.NotEmpty(t, hello.Dirty, "a restart is no rollback")
	require.NoError(t, m.Kill(ctx))
	require.NoError(t, m.Kill(ctx))
	info, err := m.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.StateStopped, info.State)
	require.Equal(t, vm.EndKilled, info.End.Kind)
	require.Equal(t, "killed by Kill", info.End.Detail)

	require.NoError(t, m.Destroy(ctx))
	require.NoError(t, m.Destroy(ctx))
	_, err = m.Info(ctx)
	require.ErrorIs(t, err, vm.ErrNotFound)
	require.ErrorIs(t, m.Start(ctx), vm.ErrNotFound)
	_, err = m.JobDisk(ctx, 0)
	require.ErrorIs(t, err, vm.ErrNotFound)
	infos, err := d.List(ctx)
	require.NoError(t, err)
	require.Empty(t, infos)
}

func TestCreateRefusesWhatItCannotGiveAndLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	for want, change := range map[string]func(*vm.Spec){
		"Kernel is set":      func(s *vm.Spec) { s.Kernel = "/boot/vmlinuz" },
		"Disks is set":       func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "raw", Size: 4096}} },
		"Network is set":     func(s *vm.Spec) { s.Network = "default" },
		"OnExit is survive":  func(s *vm.Spec) { s.OnExit = vm.Survive },
		"Name is \"../x\"":   func(s *vm.Spec) { s.Name = "../x" },
		"Owner.Incarnation":  func(s *vm.Spec) { s.Owner.Incarnation = "a\x00b" },
		"JobDisks[0] is 922": func(s *vm.Spec) { s.JobDisks = []int64{9223372036854771712} },
		"no such file":       func(s *vm.Spec) { s.Name = strings.Repeat("x", 100); s.Console = "/nonexistent/console" },
	} {
		s := testSpec(t)
		change(&s)
		m, err := d.Create(ctx, s)
		if err == nil { // what only the start can tell
			err = m.Start(ctx)
			require.NoError(t, m.Destroy(ctx))
		}
		require.ErrorContains(t, err, want)
		var op *vm.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, d.HostID(), op.Driver)
	}
	s := testSpec(t)
	s.JobDisks = []int64{9223372036854771712}
	_, err := d.Create(ctx, s)
	require.ErrorIs(t, err, vm.ErrTooLarge)
	s.JobDisks, s.Network = nil, "x"
	_, err = d.Create(ctx, s)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	entries, err := os.ReadDir(d.Root())
	require.NoError(t, err)
	require.Len(t, entries, 2, "only .id and an empty %s: %v", addressFolder, entries)
}

func TestOfManyWhoCreateOneNameOneSucceeds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	s := testSpec(t)
	errs := make(chan error)
	for range 8 {
		d := testDriver(t, Config{Root: root})
		go func() {
			_, err := d.Create(ctx, s)
			errs <- err
		}()
	}
	made := 0
	for range 8 {
		if err := <-errs; err == nil {
			made++
		} else {
			assert.ErrorIs(t, err, vm.ErrExists)
		}
	}
	assert.Equal(t, 1, made)
}

func TestAHandleNeverReachesAnotherIncarnation(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	s := testSpec(t)
	old, err := d.Create(ctx, s)
	require.NoError(t, err)
	require.NoError(t, old.Destroy(ctx))
	s.Owner.Incarnation = "another"
	m, err := d.Create(ctx, s)
	require.NoError(t, err)
	require.NoError(t, m.Start(ctx))
	for what, err := range map[string]error{"start": old.Start(ctx), "stop": old.Stop(ctx), "kill": old.Kill(ctx), "owner": old.(vm.Owned).SetOwner(ctx, vm.Owner{})} {
		require.ErrorIs(t, err, vm.ErrNotFound, what)
	}
	require.NoError(t, old.Destroy(ctx), "it is gone: done")
	require.Equal(t, vm.StateRunning, state(t, m))
}

func TestOwnershipIsRewrittenWholeAndSeenByAll(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	m := create(t, testDriver(t, Config{Root: root}))
	want := vm.Owner{Store: "s", Pool: "p", Slot: "host/x/slot/1", Incarnation: "i", Lock: "/lock", Token: 1 << 60}
	require.NoError(t, m.SetOwner(ctx, want))
	infos, err := testDriver(t, Config{Root: root}).List(ctx)
	require.NoError(t, err)
	require.Len(t, infos, 1)
	require.Equal(t, want, infos[0].Owner)
	require.Equal(t, "plain", infos[0].Template)
}
