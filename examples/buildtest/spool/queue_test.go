package spool

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = 30 * time.Second

// eventually waits for what is so in the end, on a machine however busy.
func eventually(t *testing.T, is func() bool, what string) {
	t.Helper()
	require.Eventually(t, is, patience, 5*time.Millisecond, what)
}

func newQueue(t *testing.T, slots int) *Queue {
	t.Helper()
	q, err := New(slots, 0, nil)
	require.NoError(t, err)
	t.Cleanup(q.Close)
	return q
}

func submit(t *testing.T, q *Queue, dir, script string) string {
	t.Helper()
	id, err := q.Submit(Request{Name: "test", Argv: []string{"/bin/sh", "-c", script}, Dir: dir, Stdout: filepath.Join(dir, "out")})
	require.NoError(t, err)
	return id
}

func (q *Queue) is(id, state string) func() bool {
	return func() bool {
		j, err := q.Poll(id)
		return err == nil && j.State == state
	}
}

func TestJobsRunInTheirOrderInAsManySlotsAsThereAre(t *testing.T) {
	t.Parallel()
	q, dir := newQueue(t, 2), t.TempDir()
	var ids []string
	for i := range 4 { // each waits for its word
		ids = append(ids, submit(t, q, dir, fmt.Sprintf("while ! test -e go%d; do sleep 0.01; done; exit %d", i, i)))
	}
	states := func() (s []string) {
		for _, j := range q.Jobs() {
			s = append(s, j.State)
		}
		return s
	}
	assert.Equal(t, []string{Running, Running, Pending, Pending}, states())
	for _, i := range []int{1, 0, 3, 2} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("go", i)), nil, 0o600))
		if i == 1 {
			eventually(t, q.is(ids[1], Complete), "the second ends")
			assert.Equal(t, []string{Running, Complete, Running, Pending}, states())
		}
	}
	for i, id := range ids {
		eventually(t, q.is(id, Complete), id)
		j, err := q.Poll(id)
		require.NoError(t, err)
		assert.Equal(t, i, j.Exit)
		assert.False(t, j.Started.Before(j.Submitted) || j.Done.Before(j.Started))
	}
}

// alive says whether a process runs or is stopped; one that is dead and not yet
// collected is not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
	return state != "Z" && state != "X"
}

func pids(t *testing.T, dir string, n int) (all []int) {
	t.Helper()
	eventually(t, func() bool {
		all = nil
		text, _ := os.ReadFile(filepath.Join(dir, "pids"))
		for _, w := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(w)
			all = append(all, pid)
		}
		return len(all) == n && strings.HasSuffix(string(text), "\n")
	}, "the script says its processes")
	return all
}

func TestASuspendedJobStandsStillAndKeepsItsSlot(t *testing.T) {
	t.Parallel()
	q, dir := newQueue(t, 1), t.TempDir()
	// The shell starts nothing: one that is stopped in vfork(2), before its child's
	// exec, stands still as D.
	word := filepath.Join(dir, "go")
	require.NoError(t, syscall.Mkfifo(word, 0o600))
	id := submit(t, q, dir, "echo $$ > pids; read word < go; test $word = go")
	next := submit(t, q, dir, "true")
	pid := pids(t, dir, 1)[0]
	require.NoError(t, q.Suspend(id))
	assert.ErrorContains(t, q.Suspend(id), "job 1 is suspended, want running")
	assert.ErrorContains(t, q.Suspend(next), "job 2 is pending, want running")
	fifo, err := os.OpenFile(word, os.O_RDWR, 0) // both ways, for an opening that never waits
	require.NoError(t, err)
	defer fifo.Close()
	_, err = fifo.WriteString("go\n")
	require.NoError(t, err)
	eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	}, "the process is stopped")
	assert.True(t, q.is(id, Suspended)() && q.is(next, Pending)())
	require.NoError(t, q.Resume(id))
	eventually(t, q.is(next, Complete), "it goes on, and then the next")
	j, err := q.Poll(id)
	require.NoError(t, err)
	assert.Equal(t, []any{Complete, 0}, []any{j.State, j.Exit})
}

func TestACancelledJobIsEndedWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"willing":   "sleep 1000 & echo $$ $! > pids; wait",
		"deaf":      "trap '' TERM; sleep 1000 & echo $$ $! > pids; while :; do sleep 1; done",
		"left over": "sleep 1000 & echo $$ $! > pids; exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := New(1, 50*time.Millisecond, nil)
			require.NoError(t, err)
			defer q.Close()
			dir := t.TempDir()
			id := submit(t, q, dir, script)
			both := pids(t, dir, 2)
			if name == "willing" { // also one that does not hear
				require.NoError(t, q.Suspend(id))
			}
			if name == "left over" {
				eventually(t, q.is(id, Complete), "it ends by itself")
			}
			require.NoError(t, q.Cancel(id))
			require.NoError(t, q.Cancel(id))
			if name != "left over" {
				eventually(t, q.is(id, Cancelled), "it ends")
			}
			for _, pid := range both {
				eventually(t, func() bool { return !alive(pid) }, "no process is left")
			}
		})
	}
	q, dir := newQueue(t, 1), t.TempDir()
	first := submit(t, q, dir, "sleep 1000")
	second := submit(t, q, dir, "touch ran")
	require.NoError(t, q.Cancel(second))
	assert.True(t, q.is(second, Cancelled)())
	require.NoError(t, q.Cancel(first))
	eventually(t, q.is(first, Cancelled), "it ends")
	assert.NoFileExists(t, filepath.Join(dir, "ran"))
	assert.ErrorIs(t, q.Cancel("77"), ErrUnknown)
}

func TestWhatCannotRunHasFailed(t *testing.T) {
	t.Parallel()
	q, dir := newQueue(t, 1), t.TempDir()
	none, err := q.Submit(Request{Argv: []string{"/no/such/program"}, Dir: dir})
	require.NoError(t, err)
	killed := submit(t, q, dir, "kill -9 $$")
	eventually(t, q.is(killed, Failed), "it ends")
	j, err := q.Poll(none)
	require.NoError(t, err)
	assert.True(t, j.Lost)
	assert.Contains(t, j.Reason, "cannot be started")
	j, err = q.Poll(killed)
	require.NoError(t, err)
	assert.False(t, j.Lost, "the script's own doing")
	assert.Equal(t, 128+int(syscall.SIGKILL), j.Exit)
	for _, r := range []Request{{Dir: dir}, {Argv: []string{"true"}, Dir: "here"}} {
		_, err := q.Submit(r)
		assert.ErrorContains(t, err, "want")
	}
	_, err = New(0, 0, nil)
	assert.ErrorContains(t, err, "slots is 0, want 1 or more")
	_, err = New(1, -1, nil)
	assert.ErrorContains(t, err, "grace")
}

func TestClientsAndTheEndOfTheQueue(t *testing.T) {
	t.Parallel()
	q, err := New(1, 0, nil)
	require.NoError(t, err)
	dir := t.TempDir()
	folder, err := os.MkdirTemp("", "spool") // short, for a socket's path is
	require.NoError(t, err)
	defer os.RemoveAll(folder)
	socket := filepath.Join(folder, "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- q.Serve(ctx, l) }()
	c := NewClient(socket)
	defer c.Close()
	id, err := c.Submit(ctx, Request{Name: "one", Account: "lab", Argv: []string{"/bin/sh", "-c", "echo $A > here; exec sleep 1000"}, Dir: dir, Env: []string{"A=b"}})
	require.NoError(t, err)
	eventually(t, func() bool { text, _ := os.ReadFile(filepath.Join(dir, "here")); return string(text) == "b\n" }, "it runs")
	j, err := c.Poll(ctx, id)
	require.NoError(t, err)
	assert.Equal(t, []string{"one", "lab", Running}, []string{j.Name, j.Account, j.State})
	require.NoError(t, c.Do(ctx, "suspend", id))
	require.NoError(t, c.Do(ctx, "resume", id))
	assert.ErrorContains(t, c.Do(ctx, "resume", id), "job 1 is running, want suspended")
	_, err = c.Poll(ctx, "9")
	assert.ErrorIs(t, err, ErrUnknown)
	_, err = c.Submit(ctx, Request{})
	assert.ErrorContains(t, err, "argv is empty")
	all, err := c.Jobs(ctx)
	require.NoError(t, err)
	assert.Len(t, all, 1)
	stop()
	require.NoError(t, <-served)
	assert.True(t, q.is(id, Cancelled)(), "the end of the queue is the end of its jobs")
	_, err = q.Submit(Request{Argv: []string{"true"}, Dir: dir})
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.Poll(t.Context(), id)
	assert.ErrorContains(t, err, "spool at "+socket)
}
