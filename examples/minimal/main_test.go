package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program: each test starts it anew, with a folder for
// temporary files of its own, in which everything that a run makes can be seen.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_MINIMAL") == "1" {
		main()
	}
	os.Exit(m.Run())
}

// limit bounds one run; a run takes one or two seconds.
const limit = 2 * time.Minute

func start(t *testing.T, tmp string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "BULLPEN_TEST_MINIMAL=1", "TMPDIR="+tmp)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	return cmd, &out
}

func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode()
}

// statuses reads the table: name to status and attempts.
func statuses(table string) map[string]string {
	got := map[string]string{}
	row := regexp.MustCompile(`(?m)^(passed|failed|timed out|errored|aborted|blocked|skipped) +\S+ +\S+ +(\d+) +(\S+)`)
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		got[m[3]] = m[1] + " " + m[2]
	}
	return got
}

func wantWhole() map[string]string {
	want := map[string]string{"unlucky": "passed 2"}
	for i := range 7 {
		want[fmt.Sprintf("sort-%d", i+1)] = "passed 1"
	}
	return want
}

func TestEveryJobPassesAlthoughOneLosesItsMachine(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	cmd, out := start(t, tmp)
	require.Equal(t, 0, wait(t, cmd), out.String())
	assert.Equal(t, wantWhole(), statuses(out.String()), out.String())
	assert.Contains(t, out.String(), "the machine was killed", "the table must say why there were two attempts")
	file := filepath.Join(tmp, fmt.Sprintf("bullpen-minimal-%d", os.Getuid()), "junit.xml")
	assert.Contains(t, out.String(), file)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
	}
	require.NoError(t, xml.Unmarshal(text, &suites))
	assert.Equal(t, 8, suites.Tests)
	assert.Zero(t, suites.Failures)
	nothingLeft(t, tmp)
}

func TestBreakTellsAFailureAHangAndDyingMachinesApart(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	cmd, out := start(t, tmp, "-break")
	require.Equal(t, 1, wait(t, cmd), out.String())
	want := wantWhole()
	want["fails"], want["hangs"], want["deadly"] = "failed 1", "timed out 1", "errored 3"
	assert.Equal(t, want, statuses(out.String()), out.String())
	nothingLeft(t, tmp)
}

func TestAnUnknownDriverIsNamed(t *testing.T) {
	t.Parallel()
	cmd, out := start(t, t.TempDir(), "-driver", "xen")
	assert.Equal(t, 2, wait(t, cmd))
	assert.Contains(t, out.String(), `-driver is "xen"`)
}

func TestAnInterruptedRunReportsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	cmd, out := start(t, tmp, "-break")
	// The run is in its middle when a job's folder is there.
	require.Eventually(t, func() bool {
		jobs, err := filepath.Glob(filepath.Join(tmp, "bullpen-local-*", "*", "root", "work", "job-*"))
		return err == nil && len(jobs) > 0
	}, limit/4, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	code := wait(t, cmd)
	assert.NotZero(t, code, out.String())
	assert.Len(t, statuses(out.String()), 11, "each task is in the report, also those that were aborted:\n%s", out)
	nothingLeft(t, tmp)
}

// The kill comes at a random moment of a run; the next run must be right, and
// nothing of the dead one may be left after it.
func TestSoakNothingIsLeftAfterAKillAtARandomMoment(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	begun := time.Now()
	cmd, out := start(t, tmp)
	require.Equal(t, 0, wait(t, cmd), out.String())
	whole := time.Since(begun)
	rounds := need.Soak(t, 3, 200)
	for i := range rounds {
		moment := rand.N(whole * 11 / 10)
		cmd, _ := start(t, tmp)
		timer := time.AfterFunc(moment, func() { _ = cmd.Process.Kill() }) // it may have ended
		_ = cmd.Wait()
		timer.Stop()
		cmd, out := start(t, tmp)
		require.Equal(t, 0, wait(t, cmd), "round %d, killed after %v:\n%s", i, moment, out)
		require.Equal(t, wantWhole(), statuses(out.String()), "round %d, killed after %v:\n%s", i, moment, out)
		require.True(t, nothingLeft(t, tmp), "round %d, killed after %v", i, moment)
	}
	t.Logf("%d kills within %v of the start", rounds, whole*11/10)
}

// machines lists the machines' folders of a run's driver.
func machines(t *testing.T, tmp string) []string {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(tmp, "bullpen-local-*", "*"))
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		switch filepath.Base(e) { // the driver's own
		case ".id", ".inputs":
		case ".addresses": // with a link for each machine
			links, err := filepath.Glob(filepath.Join(e, "*"))
			require.NoError(t, err)
			found = append(found, links...)
		default:
			found = append(found, e)
		}
	}
	return found
}

// nothingLeft looks for what a run may leave: processes, machines' folders,
// disks, run folders with their locks, temporary files.
func nothingLeft(t *testing.T, tmp string) bool {
	t.Helper()
	ok := assert.Empty(t, processes(t, tmp), "processes are left")
	ok = assert.Empty(t, machines(t, tmp), "machines' folders are left") && ok
	err := filepath.WalkDir(tmp, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case strings.HasPrefix(name, "run-"), strings.HasPrefix(name, "job-"), strings.HasPrefix(name, "owner.json"),
			strings.HasPrefix(name, ".bullpen-pack-"):
			ok = assert.Fail(t, "left", path) && ok
		}
		return nil
	})
	return assert.NoError(t, err) && ok
}

// processes finds those that work in the folder or were told of it. Zombies do
// neither.
func processes(t *testing.T, tmp string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	var found []string
	for _, dir := range dirs {
		if dir == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		cwd, _ := os.Readlink(dir + "/cwd") // it may be gone by now
		env, _ := os.ReadFile(dir + "/environ")
		if strings.HasPrefix(cwd, tmp) || bytes.Contains(env, []byte("="+tmp)) {
			line, _ := os.ReadFile(dir + "/cmdline")
			found = append(found, fmt.Sprintf("%s %q", dir, line))
		}
	}
	return found
}
