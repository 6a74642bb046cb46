package local

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// strays are what startMarked started.
type strays struct {
	mark string
	cmd  *exec.Cmd
	pid  int // as printed
}

// startMarked runs a shell line in a process with the mark in its limits and,
// unless bare, in its environment. The line prints a process id when it is
// ready, and must not keep standard output open in daemons.
func startMarked(t *testing.T, line string, bare bool) strays {
	t.Helper()
	mark := rand.Text()
	c := exec.Command("/proc/self/exe")
	c.Env = []string{"PATH=" + os.Getenv("PATH"), testRole + "=marked", "MARK=" + mark, "LINE=" + line}
	if !bare {
		c.Env = append(c.Env, markVar+"="+mark)
	}
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		assert.NoError(t, newHerd(mark, runRecord{}).end(testContext(t)))
	})
	word, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(word))
	require.NoError(t, err)
	return strays{mark, c, pid}
}

// runMarked is the other side of startMarked.
func runMarked() {
	if err := setLimitMark(os.Getenv("MARK")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	env := []string{"PATH=" + os.Getenv("PATH")}
	if v, ok := os.LookupEnv(markVar); ok {
		env = append(env, markVar+"="+v)
	}
	err := syscall.Exec("/bin/sh", []string{"sh", "-c", os.Getenv("LINE")}, env)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// mustDie waits until a process is gone; it is an error of the test's own
// deadline when it is not.
func mustDie(t *testing.T, id procID) {
	t.Helper()
	ctx := testContext(t)
	for {
		alive, err := id.alive()
		require.NoError(t, err)
		if !alive {
			return
		}
		require.NoError(t, sleep(ctx, time.Millisecond), "process %d lives", id.PID)
	}
}

func identify(t *testing.T, pid int) procID {
	t.Helper()
	p, err := lookup(pid)
	require.NoError(t, err)
	return p.procID
}

// daemons are ways to get away from whoever started a process.
var daemons = map[string]string{
	"a child":              `sleep 600 >/dev/null & echo $!; wait`,
	"orphan":               `(sleep 600 >/dev/null 2>&1 & echo $!)`,
	"nohup":                `(nohup sleep 600 >/dev/null 2>&1 & echo $!)`,
	"setsid":               `(setsid sh -c 'echo $$; exec sleep 600 >/dev/null 2>&1' &)`,
	"setsid twice":         `(setsid sh -c '(setsid sh -c "echo \$\$; exec sleep 600 >/dev/null 2>&1" &)' &)`,
	"empty environment":    `(env -i /usr/bin/env setsid sh -c 'echo $$; exec sleep 600 >/dev/null 2>&1' &)`,
	"environment, changed": `(BULLPEN_MARK=other setsid sh -c 'echo $$; exec sleep 600 >/dev/null 2>&1' &)`,
	"another folder":       `(cd / && env -i /usr/bin/env setsid sh -c 'echo $$; exec sleep 600 >/dev/null 2>&1' &)`,
	"stopped":              `(setsid sh -c 'echo $$; kill -STOP $$' >&1 &) ; sleep 600 >/dev/null`,
	"deaf to signals":      `(setsid sh -c 'trap "" TERM INT HUP QUIT; echo $$; while :; do sleep 600 >/dev/null 2>&1; done' &)`,
}

func TestEveryMarkedProcessIsFoundAndEnded(t *testing.T) {
	t.Parallel()
	for name, line := range daemons {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMarked(t, line, false)
			far := identify(t, m.pid)
			bystander := exec.Command("sleep", "600")
			require.NoError(t, bystander.Start())
			defer func() {
				require.NoError(t, bystander.Process.Kill(), "a process that is not of the herd was ended")
				_ = bystander.Wait()
			}()
			h := newHerd(m.mark, runRecord{})
			require.NoError(t, h.end(testContext(t)))
			mustDie(t, far)
			found, err := h.find()
			require.NoError(t, err)
			assert.Empty(t, found)
		})
	}
}

func TestTheMarkInTheLimitsAloneIsEnough(t *testing.T) {
	t.Parallel()
	m := startMarked(t, daemons["empty environment"], true)
	far := identify(t, m.pid)
	require.NoError(t, newHerd(m.mark, runRecord{}).end(testContext(t)))
	mustDie(t, far)
}

func TestDescendantsAreFoundWithoutAnyMark(t *testing.T) {
	t.Parallel()
	c := exec.Command("sh", "-c", `env -i sh -c 'sleep 600 >/dev/null & echo $!; wait'`)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	defer func() { _ = c.Wait() }()
	word, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(word))
	require.NoError(t, err)
	far := identify(t, pid)
	h := newHerd(rand.Text(), runRecord{Keeper: identify(t, c.Process.Pid)})
	require.NoError(t, h.end(testContext(t)))
	mustDie(t, far)
}

func TestAProcessIdThatWasUsedAgainIsNotHit(t *testing.T) {
	t.Parallel()
	c := exec.Command("sleep", "600")
	require.NoError(t, c.Start())
	defer func() { _ = c.Wait() }()
	real := identify(t, c.Process.Pid)
	old := procID{real.PID, real.Start - 1}
	require.NoError(t, old.signal(syscall.SIGKILL))
	require.NoError(t, newHerd(rand.Text(), runRecord{Keeper: old, Agent: old}).end(testContext(t)))
	alive, err := real.alive()
	require.NoError(t, err)
	require.True(t, alive)
	alive, err = old.alive()
	require.NoError(t, err)
	require.False(t, alive)
	require.NoError(t, real.signal(syscall.SIGKILL))
	mustDie(t, real)
	require.NoError(t, real.signal(syscall.SIGKILL), "a process that is gone is no error")
}

func TestTheSparedOneIsNotTouched(t *testing.T) {
	t.Parallel()
	m := startMarked(t, daemons["a child"], false)
	h := newHerd(m.mark, runRecord{})
	h.spare = identify(t, m.cmd.Process.Pid)
	far := identify(t, m.pid)
	ctx := testContext(t)
	require.NoError(t, h.freeze(ctx))
	p, err := lookup(far.PID)
	require.NoError(t, err)
	assert.True(t, p.stopped())
	p, err = lookup(h.spare.PID)
	require.NoError(t, err)
	assert.False(t, p.stopped())
	require.NoError(t, h.thaw(ctx))
	p, err = lookup(far.PID)
	require.NoError(t, err)
	assert.False(t, p.stopped())
}

func TestWhoWaitsInVforkForAStoppedChildIsStopped(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	m := startMarked(t, testRole+`="in vfork" exec `+exe, false)
	h := newHerd(m.mark, runRecord{})
	ctx := testContext(t)
	for {
		found, err := h.find()
		require.NoError(t, err)
		if len(found) == 2 {
			break
		}
		require.NoError(t, sleep(ctx, time.Millisecond))
	}
	for range 3 {
		require.NoError(t, h.freeze(ctx))
		p, err := lookup(m.pid)
		require.NoError(t, err)
		assert.Equal(t, "D", string(p.state))
		assert.True(t, p.halted())
		require.NoError(t, h.thaw(ctx))
		assert.False(t, p.halted())
	}
}

// Who becomes "in vfork" stays there, in its first thread: init runs in that one.
func init() {
	if os.Getenv(testRole) != "in vfork" {
		return
	}
	fmt.Println(os.Getpid())
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, syscall.CLONE_VFORK|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	for pid == 0 && errno == 0 {
		syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	os.Exit(1)
}

// Some of the processes that are there at the end of a look were not at its
// beginning.
func TestThoseWhoForkAwayAreCaught(t *testing.T) {
	t.Parallel()
	m := startMarked(t, `echo $$; i=0; while [ $i -lt 20 ]; do i=$((i+1)); (sh -c 'while :; do (sleep 0.001 &) ; done' >/dev/null 2>&1 &); done`, false)
	h := newHerd(m.mark, runRecord{})
	require.NoError(t, h.end(testContext(t)))
	found, err := h.find()
	require.NoError(t, err)
	assert.Empty(t, found)
}

func TestWhoCannotBeEndedInTimeIsNamed(t *testing.T) {
	t.Parallel()
	m := startMarked(t, daemons["a child"], false)
	h := newHerd(m.mark, runRecord{})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	// Stopping takes until the next look, which the context does not allow.
	err := h.freeze(ctx)
	require.ErrorIs(t, err, io.ErrNoProgress)
	assert.Contains(t, err.Error(), "processes do not stop")
	assert.Contains(t, err.Error(), strconv.Itoa(m.pid)+" in state")
	require.NoError(t, h.end(testContext(t)))
}
