package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// holdLock plays a keeper that lives.
func holdLock(t *testing.T, m *machine) *flock.Lock {
	t.Helper()
	l, err := flock.Try(m.path(runLock), os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	require.NoError(t, err)
	return l
}

func TestWhatIsSaidOfAMachineFollowsFromItsRecords(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	hostRun, pids, err := where()
	require.NoError(t, err)
	stranger := procID{PID: os.Getpid(), Start: 1} // the id is used again
	for name, c := range map[string]struct {
		run    runRecord
		end    *endRecord
		alive  bool
		state  vm.State
		kind   vm.EndKind
		detail string
	}{
		"the computer was restarted":         {run: runRecord{Boot: "b", HostRun: "x", PIDs: pids, Keeper: stranger, Agent: stranger}, state: vm.StateCrashed, kind: vm.EndCrashed, detail: "the computer was restarted"},
		"killed with its harness":            {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids, Keeper: stranger, Agent: stranger}, state: vm.StateCrashed, kind: vm.EndCrashed, detail: "killed together with its harness"},
		"an end of another run":              {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids}, end: &endRecord{Boot: "a", Kind: vm.EndPoweredOff}, state: vm.StateCrashed, kind: vm.EndCrashed},
		"powered off":                        {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids}, end: &endRecord{Boot: "b", Kind: vm.EndPoweredOff}, state: vm.StateStopped, kind: vm.EndPoweredOff},
		"powered off before a restart":       {run: runRecord{Boot: "b", HostRun: "x", PIDs: pids}, end: &endRecord{Boot: "b", Kind: vm.EndPoweredOff}, state: vm.StateStopped, kind: vm.EndPoweredOff},
		"its keeper has not begun":           {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids, Keeper: stranger}, alive: true, state: vm.StateStarting},
		"its agent has just ended":           {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids, Keeper: stranger, Agent: procID{1 << 30, 1}}, alive: true, state: vm.StateRunning},
		"in another PID namespace":           {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: "pid:[1]", Keeper: stranger}, alive: true, state: vm.StateRunning},
		"dead in another PID namespace":      {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: "pid:[1]", Keeper: stranger}, state: vm.StateCrashed, kind: vm.EndCrashed},
		"an end is written, the keeper goes": {run: runRecord{Boot: "b", HostRun: hostRun, PIDs: pids, Keeper: stranger, Agent: stranger}, end: &endRecord{Boot: "b"}, alive: true, state: vm.StateRunning},
	} {
		t.Run(name, func(t *testing.T) {
			m := create(t, d)
			require.NoError(t, writeRecord(m.path(runFile), c.run, false))
			if c.end != nil {
				require.NoError(t, writeRecord(m.path(endFile), c.end, false))
			}
			var l *flock.Lock
			if c.alive {
				l = holdLock(t, m)
			}
			info, err := m.Info(ctx)
			require.NoError(t, err)
			require.Equal(t, c.state, info.State)
			if c.kind != vm.EndUnknown {
				require.NotNil(t, info.End)
				require.Equal(t, c.kind, info.End.Kind)
				require.Contains(t, info.End.Detail, c.detail)
			} else {
				require.Nil(t, info.End)
			}
			if c.run.PIDs != pids && c.alive {
				for _, err := range []error{m.Kill(ctx), m.Stop(ctx), m.Destroy(ctx), m.Suspend(ctx)} {
					require.ErrorContains(t, err, "runs in another PID namespace")
				}
			}
			if c.alive {
				require.NoError(t, l.Unlock())
			}
			require.NoError(t, m.Destroy(ctx), "and this process, whose id was used again, lives")
		})
	}
}

func TestAMachineOfAnotherProcessIsSeenAndEnded(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	mine, theirs := testDriver(t, Config{Root: root}), testDriver(t, Config{Root: root})
	m := running(t, mine)
	other, err := theirs.Open(ctx, m.ID())
	require.NoError(t, err)
	_, err = other.(vm.Messenger).Channel(ctx)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, fmt.Sprintf("process %d started it", os.Getpid()))
	waited := make(chan vm.End, 1)
	go func() {
		end, err := other.(vm.Waiter).Wait(ctx)
		assert.NoError(t, err)
		waited <- end
	}()
	require.NoError(t, other.(vm.Suspender).Suspend(ctx))
	require.Equal(t, vm.StatePaused, state(t, m))
	require.NoError(t, m.Resume(ctx))
	require.NoError(t, other.Stop(ctx))
	require.Equal(t, vm.EndPoweredOff, (<-waited).Kind)
	end, err := m.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, vm.EndPoweredOff, end.Kind)
	_, err = other.(vm.Messenger).Channel(ctx)
	require.ErrorIs(t, err, vm.ErrState)
	for _, id := range []vm.ID{"", "none", ".id", "..", "a/b", ".inputs"} {
		_, err = theirs.Open(ctx, id)
		require.ErrorIs(t, err, vm.ErrNotFound, id)
	}
}

func TestALockWhoseFileWasRemovedIsNoLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	old, err := flock.Try(path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	require.NoError(t, err)
	got := make(chan *flock.Lock)
	go func() {
		l, err := lockEntry(testContext(t), path, syscall.LOCK_EX)
		assert.NoError(t, err)
		got <- l
	}()
	require.NoError(t, os.Remove(path))
	require.NoError(t, old.Unlock())
	l := <-got
	have, err := l.File().Stat()
	require.NoError(t, err)
	now, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(have, now))
	require.NoError(t, l.Unlock())
}

func TestWhatAFolderCannotHoldIsLeftOutAndSaid(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	src := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o600))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(src, "out")))
	i, err := diskio.Pack(ctx, filepath.Join(t.TempDir(), "image"), diskio.Folder(src), nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	var console bytes.Buffer
	dir := t.TempDir()
	require.NoError(t, unpacker(&console)(ctx, i.Path(), i.Digest(), dir))
	require.FileExists(t, filepath.Join(dir, "file"))
	require.Contains(t, console.String(), `left out "out"`)
	_, err = os.Lstat(filepath.Join(dir, "out"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Error(t, unpacker(&console)(ctx, i.Path()+"x", i.Digest(), dir))
	junk := filepath.Join(t.TempDir(), "junk")
	require.NoError(t, os.WriteFile(junk, bytes.Repeat([]byte("junk"), 1<<16), 0o600))
	j, err := diskio.OpenImage(junk)
	require.NoError(t, err)
	defer func() { require.NoError(t, j.Close()) }()
	require.ErrorIs(t, unpacker(&console)(ctx, junk, j.Digest(), dir), diskio.ErrCorrupt)
}

// Root may do anything; most users are not root, and see less of /proc.
func TestItWorksWithoutPrivileges(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("these tests run without privileges already")
	}
	root, err := os.MkdirTemp("", "bullpen-local-test")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(root)) }()
	const nobody = 65534
	require.NoError(t, os.Chown(root, nobody, nobody))
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), testRole+"=unprivileged", "ROOT="+filepath.Join(root, "machines"), "HOME=/")
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	entries, err := os.ReadDir(filepath.Join(root, "machines"))
	require.NoError(t, err)
	require.Len(t, entries, 2, "only .id and an empty %s: %v", addressFolder, entries)
}

// runUnprivileged is the other side of TestItWorksWithoutPrivileges.
func runUnprivileged() int {
	if err := unprivileged(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func unprivileged() (err error) {
	ctx, cancel := timeout()
	defer cancel()
	d, err := Open(Config{Root: os.Getenv("ROOT")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	m, err := d.Create(ctx, vm.Spec{Name: "m", Owner: vm.Owner{Incarnation: "i"}})
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	line := `mkdir -p a/b; echo x >a/b/c; chmod 0 a/b a; (env -i /usr/bin/env setsid sleep 600 >/dev/null 2>&1 &)`
	exit, err := vm.Exec(ctx, m, vm.Command{Argv: []string{"sh", "-c", line}})
	if err != nil || !exit.OK() {
		return fmt.Errorf("%v: %w", exit, err)
	}
	spec, err := m.(*machine).spec()
	if err != nil {
		return err
	}
	if err := m.Destroy(ctx); err != nil {
		return err
	}
	found, err := newHerd(spec.Mark, runRecord{}).find()
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("left: %s", describe(found)))
	}
	return err
}
