package local

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

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
	const short = 100 * time.Millisecond
	for _, row := range []struct {
		program, want string
		timeout       time.Duration // zero: time enough for the program to end by itself
	}{
		{"/bin/true", "is local.Main the first line", 0},
		{"/nonexistent", "start /nonexistent as the keeper", 0},
		{scriptThatSleeps(t), "the agent did not start within 100ms", short},
	} {
		d := testDriver(t, Config{Executable: row.program, BootTimeout: row.timeout})
		m := create(t, d)
		mark := markOf(t, m)
		err := m.Start(ctx)
		require.ErrorContains(t, err, row.want)
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
	require.LessOrEqual(t, count(), before) // what earlier tests dropped may be closed meanwhile
}
