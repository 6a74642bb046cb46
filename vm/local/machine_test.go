package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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
	require.Len(t, entries, 1, "only .id: %v", entries)
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

func TestTheGuestSeesItsPropertiesAndNothingOfTheHarness(t *testing.T) {
	t.Setenv("BULLPEN_TEST_CREDENTIAL", "geheim")
	d := testDriver(t, Config{Env: []string{"EXTRA=one", "LANG=C"}})
	m := running(t, d)
	env := "\n" + sh(t, m, "env") + "\n"
	require.NotContains(t, env, "geheim")
	require.NotContains(t, env, roleVar, "a program that calls Main would become an agent")
	require.Contains(t, env, "\nEXTRA=one\n")
	require.Contains(t, env, "\nLANG=C\n")
	require.Contains(t, env, "\nBULLPEN_MACHINE="+m.incarnation+"\n")
	require.Contains(t, env, "\nHOME="+m.path(guestHome)+"\n")
	require.Equal(t, m.path(guestWork), sh(t, m, "pwd -P"))
	require.Empty(t, sh(t, m, `find "$HOME" "$TMPDIR" -mindepth 1`))
	require.NotContains(t, sh(t, m, "ls -l /proc/self/fd"), "socket:", "the channel is not the job's")
	require.Equal(t, "SigIgn:0000000000000000", sh(t, m, "grep SigIgn /proc/self/status | tr -d '[:space:]'"), "a job is interrupted when it is asked to be")
}

func TestTheSecretIsNowhereToBeSeen(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	s := testSpec(t)
	s.Secret = "rumpelstiltskin"
	m, err := d.Create(ctx, s)
	require.NoError(t, err)
	boot(t, m.(*machine))
	info, err := m.Info(ctx)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%+v", info), "rumpelstiltskin")
	for _, pid := range []string{info.Details["keeper"], info.Details["agent"]} {
		for _, f := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile("/proc/" + pid + "/" + f)
			require.NoError(t, err)
			require.NotContains(t, string(b), "rumpelstiltskin")
		}
	}
	err = filepath.WalkDir(d.Root(), func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == secretFile {
			return err
		}
		b, err := os.ReadFile(path)
		require.NotContains(t, string(b), "rumpelstiltskin", path)
		return err
	})
	require.NoError(t, err)
	fi, err := os.Stat(filepath.Join(d.Root(), s.Name, secretFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
}

// stray runs a line of daemons in a command that goes on, and gives the process
// whose id it printed.
func stray(t *testing.T, m *machine, line string) procID {
	t.Helper()
	out, in := io.Pipe()
	ctx := testContext(t)
	go func() { // it ends with its machine; what it says then is not asked here
		_, err := vm.Exec(ctx, m, vm.Command{Argv: []string{"sh", "-c", line + "; sleep 600 >/dev/null"}, Stdout: in})
		in.CloseWithError(err)
	}()
	b := make([]byte, 32)
	n, err := out.Read(b)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	require.NoError(t, err)
	return identify(t, pid)
}

func TestKillEndsDaemonsHoweverTheyGotAway(t *testing.T) {
	t.Parallel()
	for name, line := range daemons {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testDriver(t, Config{})
			m := running(t, d)
			mark := markOf(t, m)
			far := stray(t, m, line)
			require.NoError(t, m.Kill(testContext(t)))
			mustDie(t, far)
			nobodyLeft(t, mark)
		})
	}
}

// Whatever of a machine's processes is hit from outside, the machine ends,
// nobody is left, and the end is told as what it was.
func TestAMachineHitFromOutsideEndsWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		who  string
		sig  syscall.Signal
		kind vm.EndKind
	}{
		"agent killed":           {"agent", syscall.SIGKILL, vm.EndKilled},
		"agent crashed":          {"agent", syscall.SIGSEGV, vm.EndCrashed},
		"agent told to end":      {"agent", syscall.SIGTERM, vm.EndPoweredOff},
		"keeper killed":          {"keeper", syscall.SIGKILL, vm.EndKilled},
		"keeper told to end":     {"keeper", syscall.SIGTERM, vm.EndKilled},
		"keeper's power button":  {"keeper", syscall.SIGPWR, vm.EndPoweredOff},
		"keeper crashed":         {"keeper", syscall.SIGSEGV, vm.EndCrashed},
		"keeper deaf to the bus": {"keeper", syscall.SIGBUS, vm.EndCrashed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			m := running(t, testDriver(t, Config{}))
			mark := markOf(t, m)
			far := stray(t, m, daemons["empty environment"])
			info, err := m.Info(ctx)
			require.NoError(t, err)
			pid, err := strconv.Atoi(info.Details[c.who])
			require.NoError(t, err)
			require.NoError(t, identify(t, pid).signal(c.sig))
			end, err := m.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, c.kind, end.Kind, end.Detail)
			nobodyLeft(t, mark)
			mustDie(t, far)
			want := vm.StateStopped
			if c.kind == vm.EndCrashed {
				want = vm.StateCrashed
			}
			require.Equal(t, want, state(t, m))
			require.NoError(t, m.Start(ctx), "it can be started again")
		})
	}
}

func TestAStoppedAgentAndAStoppedKeeperAreKilled(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"agent", "keeper"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			m := running(t, testDriver(t, Config{}))
			mark := markOf(t, m)
			info, err := m.Info(ctx)
			require.NoError(t, err)
			pid, err := strconv.Atoi(info.Details[who])
			require.NoError(t, err)
			require.NoError(t, identify(t, pid).signal(syscall.SIGSTOP))
			require.NoError(t, m.Kill(ctx))
			nobodyLeft(t, mark)
			require.Equal(t, vm.StateStopped, state(t, m))
			require.NoError(t, m.Destroy(ctx))
		})
	}
}

func TestTheConsoleIsDrainedAndBoundedAndShownWhenAMachineEnds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{Console: minConsole})
	m := running(t, d)
	info, err := m.Info(ctx)
	require.NoError(t, err)
	// A job that floods the console: it must not be held up by it.
	sh(t, m, "seq 1 200000 >/proc/"+info.Details["agent"]+"/fd/2; echo the end >/proc/"+info.Details["agent"]+"/fd/2")
	require.NoError(t, m.Kill(ctx))
	fi, err := os.Stat(m.path(consoleFile))
	require.NoError(t, err)
	require.LessOrEqual(t, fi.Size(), int64(minConsole))
	end, err := m.Wait(ctx)
	require.NoError(t, err)
	require.Len(t, end.Console, vm.ConsoleTail)
	require.Contains(t, string(end.Console), "200000\nthe end\n")
	tail, err := m.Console(ctx, 8)
	require.NoError(t, err)
	require.Equal(t, "the end\n", string(tail))
}

func TestAConsoleFileOfTheCallersChoiceStays(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	s := testSpec(t)
	s.Console = filepath.Join(t.TempDir(), "console")
	m, err := d.Create(ctx, s)
	require.NoError(t, err)
	boot(t, m.(*machine))
	require.NoError(t, m.Destroy(ctx))
	require.FileExists(t, s.Console)
}

func TestAProgramThatIsNoAgentIsNamedAsTheReason(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	for program, want := range map[string]string{
		"/bin/true":         "is local.Main the first line",
		"/nonexistent":      "start /nonexistent as the keeper",
		scriptThatSleeps(t): "the agent did not start within 100ms",
	} {
		d := testDriver(t, Config{Executable: program, BootTimeout: 100 * time.Millisecond})
		m := create(t, d)
		mark := markOf(t, m)
		err := m.Start(ctx)
		require.ErrorContains(t, err, want)
		nobodyLeft(t, mark)
		require.Equal(t, vm.StateDefined, state(t, m))
		require.NoError(t, m.Destroy(ctx))
	}
}

func scriptThatSleeps(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho I sleep >&2\n(setsid sleep 600 &)\nexec sleep 600\n"), 0o700))
	return path
}

func TestAFailedBootShowsTheConsole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho no such luck >&2\nexit 1\n"), 0o700))
	err := create(t, testDriver(t, Config{Executable: path})).Start(testContext(t))
	require.ErrorContains(t, err, "last console lines:\n    no such luck")
}

func TestOverlappingOperationsAreRefusedAndKillWaits(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	d, other := testDriver(t, Config{Root: root}), testDriver(t, Config{Root: root})
	m := running(t, d)
	_, unlock, err := m.operate(ctx, "start", false)
	require.NoError(t, err)
	err = m.Start(ctx)
	require.ErrorIs(t, err, vm.ErrState)
	require.ErrorContains(t, err, "start by process "+strconv.Itoa(os.Getpid())+" is in progress")
	theirs, err := other.Open(ctx, m.ID())
	require.NoError(t, err)
	require.ErrorIs(t, theirs.(vm.Suspender).Suspend(ctx), vm.ErrState)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, theirs.Kill(short), "waited for start by process")
	killed := make(chan error)
	go func() { killed <- theirs.Kill(ctx) }()
	require.NoError(t, unlock())
	require.NoError(t, <-killed)
	end, err := m.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndKilled, end.Kind)
	require.ErrorContains(t, fmt.Errorf("%s", end.Detail), "killed by Kill, from process")
}

func TestEverythingAtOnceLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	a, b := testDriver(t, Config{Root: root}), testDriver(t, Config{Root: root})
	var marks []string
	for range 4 {
		m := create(t, a)
		marks = append(marks, markOf(t, m))
		theirs, err := b.Open(ctx, m.ID())
		require.NoError(t, err)
		var all sync.WaitGroup
		for _, do := range []func(context.Context) error{m.Start, theirs.Start, m.Stop, theirs.Kill, m.Suspend, theirs.(vm.Suspender).Resume, m.Destroy, theirs.Destroy, m.Start} {
			all.Go(func() {
				if err := do(ctx); err != nil && !errors.Is(err, vm.ErrState) && !errors.Is(err, vm.ErrNotFound) {
					t.Errorf("%v", err)
				}
			})
		}
		all.Go(func() {
			if _, err := b.List(ctx); err != nil {
				t.Errorf("%v", err)
			}
		})
		all.Wait()
		require.NoError(t, m.Destroy(ctx))
	}
	infos, err := a.List(ctx)
	require.NoError(t, err)
	require.Empty(t, infos)
	for _, mark := range marks {
		nobodyLeft(t, mark)
	}
}

func TestCloseEndsTheMachinesAndEveryCall(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	d, err := Open(Config{Root: root})
	require.NoError(t, err)
	m, paused := running(t, d), running(t, d)
	require.NoError(t, paused.Suspend(ctx))
	marks := []string{markOf(t, m), markOf(t, paused)}
	waited := make(chan error, 1)
	go func() {
		_, err := m.Wait(ctx)
		waited <- err
	}()
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	if err := <-waited; err != nil {
		require.ErrorIs(t, err, vm.ErrClosed)
	}
	for _, mark := range marks {
		nobodyLeft(t, mark)
	}
	_, err = d.List(ctx)
	require.ErrorIs(t, err, vm.ErrClosed)
	_, err = d.Create(ctx, testSpec(t))
	require.ErrorIs(t, err, vm.ErrClosed)
	require.ErrorIs(t, m.Destroy(ctx), vm.ErrClosed)
	next := testDriver(t, Config{Root: root})
	infos, err := next.List(ctx)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	for _, info := range infos {
		require.Equal(t, vm.StateStopped, info.State)
		require.Equal(t, "the driver was closed", info.End.Detail)
		require.Equal(t, "test", info.Owner.Pool)
	}
}

func TestCloseDuringStartsLeavesNobody(t *testing.T) {
	t.Parallel()
	for range 5 {
		d, err := Open(Config{Root: t.TempDir()})
		require.NoError(t, err)
		var all sync.WaitGroup
		var marks []string
		for range 4 {
			m := create(t, d)
			marks = append(marks, markOf(t, m))
			all.Go(func() {
				if err := m.Start(testContext(t)); err != nil && !errors.Is(err, vm.ErrClosed) {
					t.Errorf("%v", err)
				}
			})
		}
		require.NoError(t, d.Close())
		all.Wait()
		for _, mark := range marks {
			nobodyLeft(t, mark)
		}
	}
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

// cycles are fewer where each start of this program takes long.
func cycles() int {
	if testing.Short() {
		return 10
	}
	info, ok := debug.ReadBuildInfo()
	if ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 10
	}
	return 100
}

func TestStartAndKillLeakNothing(t *testing.T) {
	ctx := t.Context()
	d := testDriver(t, Config{})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	m := running(t, d)
	require.NoError(t, m.Kill(ctx))
	before := count()
	for range cycles() {
		require.NoError(t, m.Start(ctx))
		require.NoError(t, m.Kill(ctx))
	}
	require.Equal(t, before, count())
}
