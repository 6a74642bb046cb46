package lease

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// privateDir is a folder that has never been made.
func privateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "bullpen") }

func TestTheFlockIsHeldFromTheFirstLeaseUntilClose(t *testing.T) {
	dir := privateDir(t)
	m, err := New(Config{Store: NewMemStore(), Dir: dir})
	require.NoError(t, err)
	_, err = os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist, "New makes no files")
	alive, known := OwnerAlive(m.LockPath())
	require.False(t, alive || known)
	l, err := m.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	for range 3 {
		alive, known = OwnerAlive(m.LockPath())
		require.True(t, alive && known)
		dead, err := m.SweepRuns()
		require.NoError(t, err)
		require.Empty(t, dead)
	}
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	text, err := os.ReadFile(m.LockPath())
	require.NoError(t, err)
	require.Contains(t, string(text), m.Owner())
	rec, err := m.store.Load(t.Context(), m.SessionKey())
	require.NoError(t, err)
	require.Equal(t, m.LockPath(), rec.Lock)
	dead, known := Dead(rec)
	require.True(t, !dead && known)
	other := rec
	other.Boot = strings.Replace(rec.Boot, "pid:", "pid:1", 1)
	_, known = Dead(other)
	require.False(t, known, "another pid namespace: unknown is not dead")
	require.NoError(t, l.Release(t.Context()))
	require.NoError(t, m.Close(t.Context()))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	_, known = OwnerAlive(m.LockPath())
	require.False(t, known)
}

func TestADirOfAnotherOrASymlinkIsRefused(t *testing.T) {
	base := t.TempDir()
	mkdir := func(name string, mode os.FileMode) string {
		p := filepath.Join(base, name)
		require.NoError(t, os.Mkdir(p, 0o700))
		require.NoError(t, os.Chmod(p, mode))
		return p
	}
	real := mkdir("real", 0o700)
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink(real, link))
	file := filepath.Join(base, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cases := map[string]string{
		link:                       "is a symbolic link",
		file:                       "is not a directory",
		mkdir("open", 0o777):       "others can write to (mode 0777)",
		filepath.Join(file, "sub"): "not a directory",
	}
	if os.Geteuid() == 0 {
		foreign := mkdir("foreign", 0o700)
		require.NoError(t, os.Chown(foreign, 12345, -1))
		cases[foreign] = "belongs to uid 12345"
	}
	for dir, want := range cases {
		m, err := New(Config{Store: NewMemStore(), Dir: dir})
		require.NoError(t, err)
		_, err = m.Acquire(t.Context(), "k", nil)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "Config.Dir")
		require.NoError(t, m.Close(t.Context()))
	}
	readable := mkdir("readable", 0o755)
	m, err := New(Config{Store: NewMemStore(), Dir: readable})
	require.NoError(t, err)
	_, err = m.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	require.Error(t, m.Close(t.Context()))
}

func TestSweepsBesideStartsRemoveNothingThatLives(t *testing.T) {
	dir := privateDir(t)
	require.NoError(t, secureDir(dir))
	var starters, sweepers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := SweepRuns(dir)
				assert.NoError(t, err)
			}
		})
	}
	for range 4 {
		starters.Go(func() {
			for range 40 {
				lock := filepath.Join(dir, runPrefix+uuid.NewString(), lockName)
				r, err := makeRunDir(lock, "owner", "boot")
				if !assert.NoError(t, err) {
					return
				}
				assert.True(t, sameFile(r.file, lock), "swept while it was made")
				alive, known := OwnerAlive(lock)
				assert.True(t, alive && known)
				assert.NoError(t, r.close(true))
			}
		})
	}
	starters.Wait()
	close(stop)
	sweepers.Wait()
	_, err := SweepRuns(dir)
	require.NoError(t, err)
	left, err := filepath.Glob(filepath.Join(dir, "*-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestASweptRunIsRememberedAsDeadForAWhile(t *testing.T) {
	dir := privateDir(t)
	lock := filepath.Join(dir, runPrefix+uuid.NewString(), lockName)
	r, err := makeRunDir(lock, "owner", "boot")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(lock), "other"), nil, 0o600))
	require.NoError(t, r.close(false)) // the process ends without cleaning up
	alive, known := OwnerAlive(lock)
	require.True(t, !alive && known)
	dead, err := SweepRuns(dir)
	require.NoError(t, err)
	require.Equal(t, []string{lock}, dead)
	_, err = os.Stat(filepath.Dir(lock))
	require.ErrorIs(t, err, os.ErrNotExist)
	alive, known = OwnerAlive(lock)
	require.True(t, !alive && known, "the proof outlives the directory")
	proof := filepath.Join(dir, deadName, strings.TrimPrefix(filepath.Base(filepath.Dir(lock)), runPrefix))
	old := time.Now().Add(-keepProof - time.Hour)
	require.NoError(t, os.Chtimes(proof, old, old))
	dead, err = SweepRuns(dir)
	require.NoError(t, err)
	require.Empty(t, dead)
	_, known = OwnerAlive(lock)
	require.False(t, known)
}

func TestWhatIsLeftOfAStartIsSweptAndWhatIsNotOursStays(t *testing.T) {
	dir := privateDir(t)
	require.NoError(t, secureDir(dir))
	for _, name := range []string{"new-empty", "run-empty", "other", "run-full"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run-full", "something"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "new-lock"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "new-lock", lockName), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run-fifo"), 0o700))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "run-fifo", lockName), 0o600))
	_, err := SweepRuns(dir)
	require.NoError(t, err)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{"dead", "other", "run-full"}, names)
	_, err = SweepRuns(filepath.Join(dir, "none"))
	require.NoError(t, err)
	_, err = SweepRuns(filepath.Join(dir, "run-full", "something"))
	require.Error(t, err)
}

func TestUnknownIsNotDead(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink(file, link))
	for _, path := range []string{"", "relative", "/nowhere/run-1/lock", dir, link} {
		alive, known := OwnerAlive(path)
		assert.False(t, alive, path)
		assert.False(t, known, path)
	}
	for _, r := range []Record{{}, {Lock: file}, {Lock: file, Boot: "another boot"}} {
		_, known := Dead(r)
		assert.False(t, known)
	}
	dead, known := Dead(Record{Lock: file, Boot: bootText()})
	assert.True(t, dead && known)
}

func TestACloseThatCannotCleanTheStoreLeavesTheFreeFlockAsProof(t *testing.T) {
	mem := NewMemStore()
	store := newFaulty(mem)
	dir := privateDir(t)
	a, err := New(Config{Store: store, Dir: dir})
	require.NoError(t, err)
	l, err := a.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	store.set(down, nil)
	require.ErrorIs(t, a.Close(t.Context()), errDown)
	require.Error(t, l.Check())
	b, err := New(Config{Store: mem, Dir: dir})
	require.NoError(t, err)
	n, err := b.TryAcquire(t.Context(), "k", nil)
	require.NoError(t, err, "the free flock proves it at once")
	require.Greater(t, n.Token(), l.Token())
	require.NoError(t, n.Release(t.Context()))
	require.NoError(t, b.Close(t.Context()))
}
