package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

func TestAJobRunsWithItsFilesEnvironmentAndArtifacts(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	ready := h.welcome(wire.Welcome{Properties: map[string]string{"template-name": "debian"}})
	require.Empty(t, ready.Dirty)
	require.Zero(t, ready.Jobs)
	require.False(t, exists(t, h.c.Mark))
	res := h.run(1, diskio.Part{ID: "pkg/a", Job: diskio.Job{
		Steps: append(diskio.Commands(
			`sh bin/x; echo "$BULLPEN_TEMPLATE_NAME $BULLPEN_TASK $K $FROM"`,
			`mkdir -p $BULLPEN_OUT/d && echo hi >$BULLPEN_OUT/d/f && echo kept >log; exit 3`,
			`echo never`), diskio.Step{Argv: []string{"cat", "x"}, Dir: "bin", Always: true}),
		Files:   []diskio.File{{Path: "bin/x", Mode: 0o755, Data: []byte("echo from x\n")}},
		Env:     map[string]string{"K": "v"},
		Before:  "FROM=before; export FROM",
		Collect: []string{"log", "absent"},
	}})
	require.NoError(t, res.Damage)
	require.True(t, res.Complete)
	p := res.Parts[0]
	require.Equal(t, "from x\ndebian pkg/a v before\n", string(p.Steps[0].Stdout))
	require.True(t, p.Steps[0].OK())
	require.Equal(t, 3, p.Steps[1].Exit)
	require.True(t, p.Steps[2].Skipped)
	require.Contains(t, p.Steps[2].Error, "a step before it failed")
	require.Equal(t, "echo from x\n", string(p.Steps[3].Stdout), p.Steps[3])
	require.False(t, p.OK())
	require.Len(t, p.Artifacts, 2)
	f, err := res.Open("pkg/a", "d/f")
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "hi\n", string(b))
	require.True(t, exists(t, h.c.Mark))
	require.Positive(t, h.disks[1].syncs)
	require.Equal(t, 1, h.disks[1].closed)
	left, err := os.ReadDir(h.c.WorkDir)
	require.NoError(t, err)
	require.Empty(t, left, "the work folder goes with the job")
}

func TestAFailedStepSkipsTheRestOfItsPartOnly(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", "touch here; exit 1", "true"), commands("b", "test ! -e here", "echo b"))
	require.True(t, res.Complete)
	require.False(t, res.Parts[0].OK())
	require.True(t, res.Parts[1].OK(), res.Parts[1].Steps)
}

func TestProgressIsToldWhileTheJobRuns(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	fifo := filepath.Join(h.dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	ticket := h.put(1, 0, commands("a", "printf 'news\\377'; cat "+fifo+"; exit 4"))
	h.send(7, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	var got []string
	for len(got) < 3 {
		p, err := diskio.DecodeProgress(h.next(7, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		got = append(got, fmt.Sprint(p.Part, p.Step, p.What, p.Output))
	}
	require.Equal(t, []string{"a-1started", "a0started", "a0outputnews?"}, got)
	require.NoError(t, os.WriteFile(fifo, []byte("x"), 0)) // the step ends only now
	for {
		p, err := diskio.DecodeProgress(h.next(7, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		if p.What == "ended" {
			require.Equal(t, 4, p.Exit)
			break
		}
	}
	h.next(7, wire.KindDone, nil)
}

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
		require.Equal(t, "SIGINT", a[0].Signal)
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

// requireDead waits until a process is gone or a zombie: a kill is delivered a
// moment after it was sent.
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

func TestAnythingBelowOutComesBackAndWhatCannotIsRefused(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{
		Steps: diskio.Commands(`cd $BULLPEN_OUT && ln -s /etc/passwd link && mkfifo pipe && mkdir -p deep/er && echo x >deep/er/f &&
			printf '%s' "$(seq 1 100000)" >big && echo twice >log && touch "$(printf 'bad\377')" && chmod 600 big && cd - && mkdir logs && echo 1 >logs/a && echo 2 >log && ln -s logs linked`),
		Collect: []string{"logs", "log", "linked"},
	}})
	require.True(t, res.Complete, res.Damage)
	p := res.Parts[0]
	require.True(t, p.OK(), p.Steps)
	var got, refused []string
	for _, a := range p.Artifacts {
		got = append(got, a.Path)
	}
	for _, r := range p.Refused {
		refused = append(refused, r.Path+": "+r.Reason)
	}
	require.Equal(t, []string{"big", "deep/er/f", "log", "logs/a"}, got)
	require.Len(t, refused, 5, refused)
	require.Contains(t, strings.Join(refused, "\n"), "link: is a symbolic link")
	require.Contains(t, strings.Join(refused, "\n"), "pipe: is a named pipe")
	require.Contains(t, strings.Join(refused, "\n"), "log: an artifact of this name is there already")
	require.Contains(t, strings.Join(refused, "\n"), "linked: is a symbolic link")
	dir := t.TempDir()
	require.NoError(t, res.ExtractArtifacts(t.Context(), "a", dir))
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	require.NoError(t, err)
	require.Equal(t, "twice\n", string(b))
	info, err := os.Stat(filepath.Join(dir, "big"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Equal(t, int64(588894), info.Size())
}

func TestAStepThatRemovesItsFoldersIsNoFault(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", `mkdir -p locked/x; chmod 0 locked; rm -rf "$BULLPEN_OUT"`, "rm -rf \"$BULLPEN_WORK\"/../in"))
	require.True(t, res.Complete)
	require.True(t, res.Parts[0].OK())
	require.Len(t, res.Parts[0].Refused, 1)
}

func TestResultsThatDoNotFitAreCountedAndExitCodesStillCome(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	parts := []diskio.Part{commands("a", "head -c 3000000 /dev/zero >$BULLPEN_OUT/big; echo hello"), commands("b", "exit 5")}
	run := func(size int64) *diskio.Results {
		ticket := h.put(1, size, parts...)
		h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
		var done wire.Done
		h.next(1, wire.KindDone, &done)
		require.True(t, done.Complete, done.Error)
		return h.results(1, ticket)
	}
	res := run(1 << 20)
	require.False(t, res.Complete)
	require.Greater(t, res.Needed, int64(3_000_000))
	require.ErrorContains(t, res.Damage, fmt.Sprint(res.Needed))
	require.True(t, res.Parts[0].Partial)
	require.False(t, res.Parts[0].OK())
	require.Equal(t, "hello\n", string(res.Parts[0].Steps[0].Stdout))
	require.False(t, res.Parts[1].Partial)
	require.Equal(t, 5, res.Parts[1].Steps[0].Exit)
	res = run(res.Needed)
	require.True(t, res.Complete, res.Damage)
	require.True(t, res.Parts[0].OK())
}

func TestACancelledJobIsRecordedToItsEnd(t *testing.T) {
	t.Parallel()
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprint("kill ", kill), func(t *testing.T) {
			t.Parallel()
			h := start(t, nil)
			h.welcome(wire.Welcome{})
			script := `trap "echo tidy; exit 0" INT; echo up; while :; do sleep 0.01; done`
			if kill {
				script = `trap "" INT TERM; echo up; while :; do sleep 0.01; done`
			}
			ticket := h.put(1, 0, commands("a", "true", script, "echo never"), commands("b", "echo never"))
			h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
			for {
				p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
				require.NoError(t, err)
				if p.What == "output" {
					break
				}
			}
			h.send(1, wire.KindCancel, wire.Cancel{})
			if kill {
				h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
			}
			var done wire.Done
			h.next(1, wire.KindDone, &done)
			require.True(t, done.Complete, done.Error)
			res := h.results(1, ticket)
			require.True(t, res.Complete, res.Damage)
			s := res.Parts[0].Steps
			require.True(t, s[0].OK())
			require.False(t, s[1].OK(), "interrupted is not passed, whatever it answers")
			require.Contains(t, s[1].Error, "cancelled")
			if kill {
				require.Equal(t, "SIGKILL", s[1].Signal)
			} else {
				require.Equal(t, "up\ntidy\n", string(s[1].Stdout))
			}
			require.True(t, s[2].Skipped)
			require.True(t, res.Parts[1].Steps[0].Skipped)
			require.False(t, res.Parts[1].OK())
		})
	}
}

func TestSeveralJobsRunAtOnceOnDisksOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	// Each waits for the other: one after the other would never end.
	a, b := filepath.Join(h.dir, "a"), filepath.Join(h.dir, "b")
	require.NoError(t, syscall.Mkfifo(a, 0o600))
	require.NoError(t, syscall.Mkfifo(b, 0o600))
	one := h.put(1, 0, commands("one", "echo 1 >"+a+"; cat "+b))
	two := h.put(2, 0, commands("two", "cat "+a+"; echo 2 >"+b))
	h.send(11, wire.KindGo, diskio.Go{Disk: 1, Nonce: one.Nonce}.Encode())
	h.send(12, wire.KindGo, diskio.Go{Disk: 2, Nonce: two.Nonce}.Encode())
	h.next(11, wire.KindDone, nil)
	h.next(12, wire.KindDone, nil)
	require.Equal(t, "2\n", string(h.results(1, one).Parts[0].Steps[0].Stdout))
	require.Equal(t, "1\n", string(h.results(2, two).Parts[0].Steps[0].Stdout))
}

func TestAGuestThatCannotRunAJobSaysSoAndWritesNoCompletion(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		spoil  func(h *host, g *diskio.Go)
		says   string
	}{
		"wrong nonce":    {nil, func(h *host, g *diskio.Go) { g.Nonce = strings.Repeat("0", 32) }, "nonce"},
		"no such disk":   {nil, func(h *host, g *diskio.Go) { g.Disk = 9 }, "no such disk"},
		"damaged disk":   {nil, func(h *host, g *diskio.Go) { h.disks[1].b[600] ^= 1 }, "damaged"},
		"damaged file":   {nil, func(h *host, g *diskio.Go) { h.disks[1].b[512] ^= 1 }, `file "f"`},
		"failing disk":   {nil, func(h *host, g *diskio.Go) { h.disks[1].fail = errors.New("bad sector") }, "bad sector"},
		"no work folder": {func(c *Config) { c.WorkDir = "/proc/nowhere" }, nil, "/proc/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, c.change)
			h.welcome(wire.Welcome{})
			part := commands("a", "echo x")
			part.Job.Files = []diskio.File{{Path: "f", Data: []byte("data")}}
			ticket := h.put(1, 0, part)
			g := diskio.Go{Disk: 1, Nonce: ticket.Nonce}
			if c.spoil != nil {
				c.spoil(h, &g)
			}
			h.send(1, wire.KindGo, g.Encode())
			var done wire.Done
			h.next(1, wire.KindDone, &done)
			require.False(t, done.Complete)
			require.Contains(t, done.Error, c.says)
			res, err := diskio.ReadResults(t.Context(), h.disks[1], h.disks[1].Size(), ticket, nil)
			if err == nil {
				require.False(t, res.Complete)
				require.Error(t, res.Damage)
			}
			if name == "no work folder" || name == "damaged file" {
				require.Contains(t, res.Fault, c.says, "the disk says it too")
			}
		})
	}
}

func TestAGoThatIsNotUnderstoodIsAFault(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	for i, k := range []wire.Kind{wire.KindGo, wire.KindExec, wire.KindPut, wire.KindGet} {
		h.send(uint32(10+i), k, []byte("{"))
		require.Equal(t, wire.KindFault, h.any(uint32(10+i)).Kind)
	}
	h.send(20, wire.KindExec, wire.Exec{})
	require.Equal(t, wire.KindFault, h.any(20).Kind)
	h.send(21, wire.KindGet, wire.Copy{})
	require.Equal(t, wire.KindFault, h.any(21).Kind)
	h.send(22, wire.KindMessage, []byte("what?")) // to nobody: ignored
	require.Equal(t, "x", string(h.run(1, commands("a", "printf x")).Parts[0].Steps[0].Stdout))
}

func TestOneDiskServesOneJobAtATime(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	ticket := h.put(1, 0, commands("a", "echo up; sleep 1000"))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	h.next(1, wire.KindMessage, nil)
	h.send(2, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	var done wire.Done
	h.next(2, wire.KindDone, &done)
	require.Contains(t, done.Error, "in use")
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	h.next(1, wire.KindDone, &done)
	require.True(t, done.Complete, done.Error)
}

func TestAStreamsNumberIsFreeWithItsLastWord(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	for range 50 { // each may come the instant that the one before has ended
		h.send(5, wire.KindExec, wire.Exec{Argv: []string{"true"}})
		h.next(5, wire.KindExit, nil)
	}
}

func TestAGuestKilledHalfWayThroughItsOutputIsPartial(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	ticket := h.put(1, 0, commands("a", "echo finished"), commands("b", "echo half; sleep 1000"))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	for {
		p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		if p.Part == "b" && p.What == "output" {
			break
		}
	}
	// This is what the disk has at this moment: the guest is no more.
	d := h.disks[1]
	d.mu.Lock()
	crashed := &disk{b: bytes.Clone(d.b)}
	d.mu.Unlock()
	res, err := diskio.ReadResults(t.Context(), crashed, crashed.Size(), ticket, nil)
	require.NoError(t, err)
	require.False(t, res.Complete)
	require.True(t, res.Parts[0].Ended)
	require.True(t, res.Parts[0].Partial)
	require.False(t, res.Parts[0].OK())
	require.Equal(t, "finished\n", string(res.Parts[0].Steps[0].Stdout))
	require.True(t, res.Parts[1].Started)
	require.False(t, res.Parts[1].Ended)
	require.Equal(t, "half\n", string(res.Parts[1].Steps[0].Stdout))
}

func TestInputsAreFoundByDigestAndReleasedAfterTheLastProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, []byte("an image"), 0o644))
	image, err := diskio.OpenImage(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, image.Close()) })
	tree := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(tree, "file"), []byte("from the input\n"), 0o644))
	opened, released := 0, 0
	inDir := filepath.Join(t.TempDir(), "in")
	for _, c := range []func(*Config){nil, func(c *Config) { c.InDir = inDir }} {
		opened, released = 0, 0
		h := start(t, func(cfg *Config) {
			cfg.Inputs = func(_ context.Context, in diskio.GoInput) (string, func() error, error) {
				if in.Place != 3 {
					return "", nil, fmt.Errorf("place %d is empty", in.Place)
				}
				opened++
				return tree, func() error { released++; return nil }, nil
			}
			if c != nil {
				c(cfg)
			}
		})
		h.welcome(wire.Welcome{})
		part := func(id, name string) diskio.Part {
			return diskio.Part{ID: id, Job: diskio.Job{Steps: diskio.Commands("cat $BULLPEN_IN/" + name + "/file"), Inputs: []diskio.Input{{Name: name, Image: image}}}}
		}
		parts := []diskio.Part{part("a", "src"), part("b", "other"), part("c", "src")}
		ticket := h.put(1, 0, parts...)
		goes := diskio.Go{Disk: 1, Nonce: ticket.Nonce, Inputs: []diskio.GoInput{{Name: "any", Place: 3, Digest: image.Digest()}}}
		h.send(1, wire.KindGo, goes.Encode())
		var done wire.Done
		h.next(1, wire.KindDone, &done)
		require.True(t, done.Complete, done.Error)
		for _, p := range h.results(1, ticket).Parts {
			require.Equal(t, "from the input\n", string(p.Steps[0].Stdout), p.Steps[0])
		}
		require.Equal(t, 1, opened, "one place is opened once")
		require.Equal(t, 1, released)

		// Not inserted, or not readable: a fault, and what was opened is released.
		for says, inputs := range map[string][]diskio.GoInput{
			"is in no place": {{Name: "src", Place: 3, Digest: "sha256:00"}},
			"place 4":        {{Name: "src", Place: 4, Digest: image.Digest()}},
		} {
			goes.Inputs = inputs
			h.send(2, wire.KindGo, goes.Encode())
			h.next(2, wire.KindDone, &done)
			require.Contains(t, done.Error, says)
		}
		require.Equal(t, opened, released)
	}
}
