package local

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

func TestABadConfigurationIsRefusedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Config{
		`Config.Env has "NAME", want KEY=value`:                    {Env: []string{"NAME"}},
		`Config.Env has "=x", want KEY=value`:                      {Env: []string{"=x"}},
		`Config.Env has "A=\x00", want KEY=value without zero`:     {Env: []string{"A=\x00"}},
		`Config.BootTimeout is -1ns, want 0 (default 30s) or more`: {BootTimeout: -1},
		`Config.KillTimeout is -1ns, want 0 (default 10s) or more`: {KillTimeout: -1},
		`Config.Console is 5 bytes, want 0 (default 1048576) or`:   {Console: 5},
		`Config.InputCache is -1 bytes, want 0 (default`:           {InputCache: -1},
	} {
		c.Root = t.TempDir()
		_, err := Open(c)
		assert.ErrorContains(t, err, want)
	}
}

func TestARootThatIsNotOursIsRefused(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	_, err := Open(Config{Root: link})
	require.ErrorContains(t, err, "symbolic links are refused")
	file := filepath.Join(base, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(Config{Root: file})
	require.ErrorContains(t, err, "want a folder")
	_, err = Open(Config{Root: filepath.Join(file, "below")})
	require.Error(t, err)
	foreign := filepath.Join(base, "foreign")
	require.NoError(t, os.Mkdir(foreign, 0o777))
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(foreign, 4711, 4711))
		_, err = Open(Config{Root: foreign})
		require.ErrorContains(t, err, "belongs to user 4711, want 0")
	}
}

func TestTheRootIsMadeForItsUserAlone(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "a", "b")
	d := testDriver(t, Config{Root: root})
	fi, err := os.Stat(root)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	assert.Equal(t, root, d.Root())
	open := t.TempDir()
	require.NoError(t, os.Chmod(open, 0o777))
	testDriver(t, Config{Root: open})
	fi, err = os.Stat(open)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
}

func TestTheDefaultRootBelongsToTheUser(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d, err := Open(Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	assert.Contains(t, d.Root(), os.Getenv("TMPDIR"))
	assert.Contains(t, filepath.Base(d.Root()), "bullpen-local-")
}

func TestTheHostIsTheRootOnThisComputer(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	first, second, other := testDriver(t, Config{Root: a}), testDriver(t, Config{Root: a}), testDriver(t, Config{Root: b})
	assert.Equal(t, first.HostID(), second.HostID())
	assert.NotEqual(t, first.HostID(), other.HostID())
	// A copy of a root with all that is in it is another host.
	require.NoError(t, os.Remove(filepath.Join(b, ".id")))
	id, err := os.ReadFile(filepath.Join(a, ".id"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b, ".id"), id, 0o600))
	assert.NotEqual(t, first.HostID(), testDriver(t, Config{Root: b}).HostID())
}

func TestManyWhoOpenANewRootAgreeOnTheHost(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	ids := make(chan string)
	for range 16 {
		go func() {
			id, err := hostID(root)
			if err != nil {
				id = err.Error()
			}
			ids <- id
		}()
	}
	first := <-ids
	for range 15 {
		assert.Equal(t, first, <-ids)
	}
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

func TestLeftoversAreRemovedAndWorkInProgressIsNot(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	d := testDriver(t, Config{Root: root})
	for _, name := range []string{".new-A", ".dead-B"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, name, "deep", "deeper"), 0o700))
		require.NoError(t, os.Chmod(filepath.Join(root, name, "deep"), 0))
	}
	busy, lock, err := hostdir.New(ctx, root, 0o700)
	require.NoError(t, err)
	infos, err := d.List(ctx)
	require.NoError(t, err)
	assert.Empty(t, infos)
	assert.NoDirExists(t, filepath.Join(root, ".new-A"))
	assert.NoDirExists(t, filepath.Join(root, ".dead-B"))
	assert.DirExists(t, busy)
	require.NoError(t, lock.Unlock())
	testDriver(t, Config{Root: root})
	assert.NoDirExists(t, busy)
}

func TestAFolderThatCannotBeReadIsAnErrorAndNeverNone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	for name, spoil := range map[string]func(dir string) error{
		"no spec": func(dir string) error { return os.Remove(filepath.Join(dir, specFile)) },
		"damaged spec": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, specFile), []byte(`{"version":`), 0o600)
		},
		"empty spec": func(dir string) error { return os.Truncate(filepath.Join(dir, specFile), 0) },
		"foreign spec": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, specFile), []byte(`{"version":1,"name":"x"}`), 0o600)
		},
		"later version": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, specFile), []byte(`{"version":2}`), 0o600)
		},
		"no owner":       func(dir string) error { return os.Remove(filepath.Join(dir, ownerFile)) },
		"damaged owner":  func(dir string) error { return os.WriteFile(filepath.Join(dir, ownerFile), []byte("x"), 0o600) },
		"damaged run":    func(dir string) error { return os.WriteFile(filepath.Join(dir, runFile), []byte("x"), 0o600) },
		"a file instead": func(dir string) error { return os.WriteFile(dir+"2", nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testDriver(t, Config{})
			m, err := d.Create(ctx, testSpec(t))
			require.NoError(t, err)
			require.NoError(t, spoil(filepath.Join(d.Root(), string(m.ID()))))
			_, err = d.List(ctx)
			require.Error(t, err)
			require.NotErrorIs(t, err, vm.ErrNotFound)
			assert.Contains(t, err.Error(), filepath.Join(d.Root(), string(m.ID())), "the error names the place")
		})
	}
}

func TestALockIsFreeOnceUnlockedAlsoWhileAChildHasTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := flock.Try(path, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	require.NoError(t, err)
	require.NoError(t, l.Note("start"))
	assert.Contains(t, flock.ReadNote(path), "start by process ")
	_, err = flock.Try(path, os.O_RDWR, syscall.LOCK_SH)
	require.ErrorIs(t, err, flock.ErrLocked)
	child, err := syscall.Dup(int(l.File().Fd())) // as between fork and exec
	require.NoError(t, err)
	defer func() { _ = syscall.Close(child) }()
	require.NoError(t, l.Unlock())
	l, err = flock.Wait(testContext(t), path, os.O_RDWR, syscall.LOCK_EX)
	require.NoError(t, err)
	require.NoError(t, l.Unlock())
	assert.Equal(t, "an operation", flock.ReadNote(path+"x"))
}

func TestTheConsoleNeverGrowsBeyondItsBound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console")
	c, err := openConsole(path, 1000)
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	drained := make(chan struct{})
	go func() {
		c.drain(r)
		close(drained)
	}()
	want := make([]byte, 0, 1<<20)
	for i := range 1 << 16 {
		line := []byte{byte('a' + i%26), byte('a' + i/26%26), '\n'}
		want = append(want, line...)
		_, err := w.Write(line)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	<-drained
	fi, err := os.Stat(path)
	require.NoError(t, err)
	assert.LessOrEqual(t, fi.Size(), int64(1000))
	tail, err := consoleTail(path, 300)
	require.NoError(t, err)
	assert.Equal(t, string(want[len(want)-300:]), string(tail))
	all, err := consoleTail(path, 1<<20)
	require.NoError(t, err)
	assert.Len(t, all, int(fi.Size()))
	none, err := consoleTail(path+"x", 10)
	require.NoError(t, err)
	assert.Empty(t, none)
}
