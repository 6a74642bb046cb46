package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestAStepThatCannotBeStartedIsAFailedStepAndNoFault(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{
		Files: []diskio.File{{Path: "plain", Data: []byte("x")}},
		Steps: []diskio.Step{
			{Argv: []string{"no-such-program"}},
			{Argv: []string{"./plain"}, Always: true},
			{Argv: []string{"/"}, Always: true},
			{Argv: []string{"true"}, Dir: "nowhere", Always: true},
			{Argv: []string{"locked"}, Env: map[string]string{"PATH": "."}, Always: true},
		}}}, commands("b", "true"))
	require.True(t, res.Complete)
	for _, s := range res.Parts[0].Steps {
		require.True(t, s.Ended)
		require.False(t, s.OK())
		require.Equal(t, -1, s.Exit)
		require.Contains(t, s.Error, "cannot be started")
	}
	require.Contains(t, res.Parts[0].Steps[0].Error, "no-such-program")
	require.True(t, res.Parts[1].OK())
}

func TestAProgramIsFoundInThePathOfTheStep(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{
		Files: []diskio.File{{Path: "bin/tool", Mode: 0o755, Data: []byte("#!/bin/sh\necho tool\n")}, {Path: "no/tool", Data: []byte("x")}},
		Steps: []diskio.Step{{Argv: []string{"tool"}, Env: map[string]string{"PATH": "no:bin:/usr/bin:/bin"}}},
	}})
	require.Equal(t, "tool\n", string(res.Parts[0].Steps[0].Stdout), res.Parts[0].Steps[0])
}

func TestTimeoutsEndTheStepAndItsWholeGroup(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	pids, ready := filepath.Join(h.dir, "pids"), filepath.Join(h.dir, "ready")
	// A busy machine may not get a shell to its trap in time: then the test has
	// not begun, and is tried with more time.
	for timeout := 100 * time.Millisecond; ; timeout *= 2 {
		require.Less(t, timeout, patience)
		require.NoError(t, errors.Join(os.RemoveAll(pids), os.RemoveAll(ready)))
		res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{Steps: []diskio.Step{
			{Argv: []string{"sh", "-c", "sleep 1000"}, Timeout: time.Millisecond},
			{Argv: []string{"sh", "-c", `trap "" INT TERM; sleep 1000 & echo $$ $! >` + pids + `; while :; do sleep 1000; done`}, Timeout: timeout, Always: true},
			{Argv: []string{"sh", "-c", `trap "echo tidy; exit 9" INT; touch ` + ready + `; while :; do sleep 0.01; done`}, Timeout: timeout, Always: true},
		}}})
		require.True(t, res.Complete)
		a := res.Parts[0].Steps
		for _, s := range a {
			require.True(t, s.TimedOut)
			require.False(t, s.OK(), "a step over its time has failed, whatever it answers")
		}
		require.Contains(t, a[0].Signal, "SIG") // which one it dies of depends on how far it got
		require.Contains(t, a[0].Error, "1ms")
		if !exists(t, pids) || !exists(t, ready) {
			continue
		}
		require.Equal(t, "SIGKILL", a[1].Signal, "what ignores the rest is killed")
		for _, pid := range readPids(t, pids) {
			requireDead(t, pid)
		}
		require.Equal(t, 9, a[2].Exit)
		require.Equal(t, "tidy\n", string(a[2].Stdout))
		return
	}
}

func TestAStepHearsSignalsThatItsAgentIgnores(t *testing.T) {
	t.Parallel()
	signal.Ignore(syscall.SIGHUP) // as by nohup; no other test of this process minds
	HearSignals()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", `trap "echo heard; exit 0" HUP; kill -HUP $$; echo deaf`))
	require.Equal(t, "heard\n", string(res.Parts[0].Steps[0].Stdout))
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP), "the agent goes on ignoring it")
}

func TestTheTimeoutOfTheJobBoundsAllItsSteps(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, diskio.Part{ID: "b", Job: diskio.Job{Timeout: 50 * time.Millisecond, Steps: []diskio.Step{
		{Argv: []string{"sleep", "1000"}, Timeout: time.Hour},
		{Argv: []string{"echo", "x"}, Always: true},
	}}}, commands("c", "echo c"))
	b := res.Parts[0].Steps
	require.True(t, b[0].TimedOut)
	require.True(t, b[1].Skipped)
	require.Contains(t, b[1].Error, "50ms")
	require.True(t, res.Parts[1].OK(), "a part's time is its own")
}

func readPids(t *testing.T, path string) []int {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var pids []int
	for _, s := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(s)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

func requireDead(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		return strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
	}, patience, time.Millisecond, "process %d lives", pid)
}

func TestWhatAStepLeavesInTheBackgroundIsKilledAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	pids := filepath.Join(h.dir, "pids")
	// The second of them leaves the group and holds the pipes open.
	res := h.run(1, commands("a",
		"sleep 1000 & echo $! >"+pids+"; echo done",
		"setsid sh -c 'echo $$ >>"+pids+"; exec sleep 1000' & while [ $(wc -l <"+pids+") -lt 2 ]; do sleep 0.01; done; echo done",
		"echo done"))
	require.True(t, res.Complete)
	for _, s := range res.Parts[0].Steps {
		require.True(t, s.OK(), s)
		require.Equal(t, "done\n", string(s.Stdout))
	}
	got := readPids(t, pids)
	require.Len(t, got, 2)
	for _, pid := range got {
		requireDead(t, pid)
	}
}

func TestTheBackgroundOfAStepIsDeadInTheNextStep(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", "sleep 1000 & echo $! >pid",
		// Gone or a zombie, a moment after the kill was sent.
		`for i in $(seq 1000); do grep -q 'State:.[RSD]' /proc/$(cat pid)/status || exit 0; sleep 0.02; done; exit 1`))
	require.True(t, res.Parts[0].OK(), res.Parts[0].Steps)
}

func TestBeforeScriptsAreSourcedAndTheirFailureIsTheSteps(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	step := func(before string, argv ...string) diskio.Step {
		return diskio.Step{Argv: argv, Before: before, Always: true}
	}
	res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{Before: "A=1; export A; f() { echo f; }", Steps: []diskio.Step{
		step("B=$A$A; export B", "sh", "-c", `echo "$B $0 $1"`, "zero", "one two"),
		step("", "sh", "-c", "echo $A"),
		step("false", "echo", "never"),
		step("exit 7", "echo", "never"),
		step("exit 0", "echo", "never"),
		step("syntax ( error", "echo", "never"),
		step("", "no-such-program"),
	}}})
	require.True(t, res.Complete)
	s := res.Parts[0].Steps
	require.Equal(t, "11 zero one two\n", string(s[0].Stdout), s[0])
	require.Equal(t, "1\n", string(s[1].Stdout))
	require.Equal(t, 1, s[2].Exit)
	require.Equal(t, 7, s[3].Exit)
	require.Equal(t, 125, s[4].Exit, "a script that ends the shell never passes for the step")
	require.Contains(t, string(s[4].Stderr), "before script")
	for _, s := range s[2:] {
		require.False(t, s.OK())
		require.Empty(t, s.Stdout)
	}
	require.Equal(t, 127, s[6].Exit)
}

func TestOutputKeepsHeadAndTailAndSaysTheCut(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	const total = 3_000_000
	res := h.run(1, commands("a",
		"echo begin; head -c 3000000 /dev/zero | tr '\\0' x; echo end; echo err >&2",
		"printf small"))
	require.True(t, res.Complete, res.Damage)
	s := res.Parts[0].Steps[0]
	require.True(t, s.OK(), s)
	require.Len(t, s.Stdout, diskio.DefaultOutputHead+diskio.DefaultOutputTail)
	require.Equal(t, int64(total+10-len(s.Stdout)), s.StdoutCut)
	require.Equal(t, diskio.DefaultOutputHead, s.StdoutHead)
	require.True(t, bytes.HasPrefix(s.Stdout, []byte("begin\nxxx")))
	require.True(t, bytes.HasSuffix(s.Stdout, []byte("xxxend\n")))
	require.Equal(t, "err\n", string(s.Stderr))
	require.Zero(t, s.StderrCut)
	require.Equal(t, "small", string(res.Parts[0].Steps[1].Stdout))
}
