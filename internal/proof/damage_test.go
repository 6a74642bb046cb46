package proof

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

const heldKeys = 60

// image makes a store in which keys are held, and copies of its files: as a clean
// close leaves them, or as a crash does. The copies are made by another program:
// reading the file here would drop this process's locks on it.
func image(t *testing.T, crash bool) string {
	t.Helper()
	live, copied := filepath.Join(t.TempDir(), "leases.db"), t.TempDir()
	o, err := openFile(t.Context(), live, sqlstore.SQLite{})
	require.NoError(t, err)
	for n := range heldKeys + 20 {
		rec, err := o.Swap(t.Context(), lease.Record{}, heldRecord(n), true)
		require.NoError(t, err)
		if n >= heldKeys {
			require.NoError(t, o.Delete(t.Context(), rec))
		}
	}
	if !crash {
		require.NoError(t, o.close())
	}
	names := []string{live, live + "-gate"}
	if crash {
		names = append(names, live+"-wal")
	}
	out, err := exec.Command("cp", append(names, copied)...).CombinedOutput()
	require.NoError(t, err, string(out))
	if crash {
		require.NoError(t, o.close())
	}
	return copied
}

func heldRecord(n int) lease.Record {
	return lease.Record{Key: fmt.Sprintf("host/h1/slot/%d", n), Session: "session/1", Owner: "TestDamage", Note: strings.Repeat("n", n)}
}

// judge opens a damaged copy: it is refused, or grants nothing that is held.
func judge(t *testing.T, dir, what string) (refused bool) {
	t.Helper()
	o, err := openFile(t.Context(), filepath.Join(dir, "leases.db"), sqlstore.SQLite{})
	if err != nil {
		assert.ErrorContains(t, err, "leases.db", what)
		return true
	}
	defer func() { assert.NoError(t, o.close(), what) }()
	for n := range heldKeys {
		rec, err := o.Swap(t.Context(), lease.Record{}, heldRecord(n), true)
		if !assert.Error(t, err, "%s: %s was granted a second time: %+v", what, heldRecord(n).Key, rec) {
			return false
		}
		if errors.Is(err, lease.ErrConflict) {
			assert.Equal(t, "TestDamage", rec.Owner, what)
		}
	}
	return false
}

// damaged makes a copy of the image with a change.
func damaged(t *testing.T, from string, change func(dir string) error) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	require.NoError(t, change(dir))
	return dir
}

func TestSoakDamagedFilesNeverGrantWhatIsHeld(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		from := image(t, crash)
		files, err := os.ReadDir(from)
		require.NoError(t, err)
		require.False(t, judge(t, damaged(t, from, func(string) error { return nil }), "undamaged"))
		refused, opened := 0, 0
		for n := range soak(3000) {
			name := files[n%len(files)].Name()
			var what string
			dir := damaged(t, from, func(dir string) error {
				path := filepath.Join(dir, name)
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				at := rand.IntN(len(content))
				switch rand.IntN(4) {
				case 0:
					what = fmt.Sprintf("%s cut to %d of %d bytes", name, at, len(content))
					content = content[:at]
				case 1:
					end := min(at+1+rand.IntN(5000), len(content))
					what = fmt.Sprintf("%s zeroed from %d to %d", name, at, end)
					clear(content[at:end])
				default:
					bit := byte(1 << rand.IntN(8))
					what = fmt.Sprintf("%s with byte %d of %d flipped by %#x", name, at, len(content), bit)
					content[at] ^= bit
				}
				return os.WriteFile(path, content, 0o600)
			})
			if judge(t, dir, what) {
				refused++
			} else {
				opened++
			}
			require.NoError(t, os.RemoveAll(dir))
		}
		t.Logf("crash %v: %d refused, %d opened without harm", crash, refused, opened)
		assert.NotZero(t, refused)
	}
}

func TestFilesThatAreMissingAreNoticed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		crash         bool
		remove, empty string
		says          string
	}{
		{crash: true, remove: "leases.db-wal", says: "the gate file knows store"},
		{crash: true, empty: "leases.db-wal", says: "the gate file knows store"},
		{remove: "leases.db", says: "remove the gate file to accept it as it is"},
		{empty: "leases.db", says: "the file was truncated"},
	} {
		dir := damaged(t, image(t, row.crash), func(dir string) error {
			if row.empty != "" {
				return os.Truncate(filepath.Join(dir, row.empty), 0)
			}
			return os.Remove(filepath.Join(dir, row.remove))
		})
		_, err := openFile(t.Context(), filepath.Join(dir, "leases.db"), sqlstore.SQLite{})
		require.ErrorIs(t, err, sqlstore.ErrDamaged)
		require.ErrorContains(t, err, row.says)
	}
}

// One flipped bit makes a text a blob: all rows are there, and the key is not found.
func TestAKeyThatBecameABlobIsNotTakenForFree(t *testing.T) {
	t.Parallel()
	dir := damaged(t, image(t, false), func(string) error { return nil })
	path := filepath.Join(dir, "leases.db")
	db, err := openSQL("file:" + path)
	require.NoError(t, err)
	_, err = db.Exec("UPDATE bullpen_lease SET key = CAST(key AS BLOB) WHERE key = ?", heldRecord(30).Key)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = openFile(t.Context(), path, sqlstore.SQLite{})
	require.ErrorIs(t, err, sqlstore.ErrDamaged)
	require.ErrorContains(t, err, "59 rows with digest")
}

func TestAnOlderCopyIsRefusedUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	dir := damaged(t, image(t, false), func(string) error { return nil })
	path := filepath.Join(dir, "leases.db")
	old := damaged(t, dir, func(string) error { return nil })
	o, err := openFile(t.Context(), path, sqlstore.SQLite{})
	require.NoError(t, err)
	_, err = o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "later"}, true)
	require.NoError(t, err)
	require.NoError(t, o.close())
	require.NoError(t, os.Rename(filepath.Join(old, "leases.db"), path))
	_, err = openFile(t.Context(), path, sqlstore.SQLite{})
	require.ErrorIs(t, err, sqlstore.ErrDamaged)
	require.NoError(t, os.Remove(path+"-gate"))
	o, err = openFile(t.Context(), path, sqlstore.SQLite{})
	require.NoError(t, err)
	require.NoError(t, o.close())
}

func TestAFileThatIsReplacedWhileInUseGrantsNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"leases.db", "leases.db-gate"} {
		path := filepath.Join(t.TempDir(), "leases.db")
		o, err := openFile(t.Context(), path, sqlstore.SQLite{})
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(filepath.Dir(path), name)))
		_, err = o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
		require.ErrorIs(t, err, sqlstore.ErrDamaged)
		require.NoError(t, o.close())
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	s := thePostgres(t)
	address, err := newDatabase(t.Context(), s)
	require.NoError(t, err)
	o, err := openPostgres(t.Context(), address, sqlstore.Postgres{})
	require.NoError(t, err)
	require.NoError(t, o.close())
	db, err := openPgx(address)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("UPDATE bullpen_meta SET version = 99")
	require.NoError(t, err)
	_, err = openPostgres(t.Context(), address, sqlstore.Postgres{})
	require.ErrorIs(t, err, sqlstore.ErrNewer)
	require.ErrorContains(t, err, "version 99, this program knows up to 2")
}

func TestAChangedRowOrSequenceIsRefused(t *testing.T) {
	t.Parallel()
	s := thePostgres(t)
	for _, change := range []string{"UPDATE bullpen_lease SET data = data || ' '", "UPDATE bullpen_lease SET token = -token", "UPDATE bullpen_lease SET renewals = -1", "SELECT setval('bullpen_token', 1)"} {
		address, err := newDatabase(t.Context(), s)
		require.NoError(t, err)
		o, err := openPostgres(t.Context(), address, sqlstore.Postgres{})
		require.NoError(t, err)
		rec, err := o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
		require.NoError(t, err)
		rec, err = o.Swap(t.Context(), rec, rec, true)
		require.NoError(t, err)
		db, err := openPgx(address)
		require.NoError(t, err)
		defer db.Close()
		_, err = db.Exec(change)
		require.NoError(t, err)
		_, err = openPostgres(t.Context(), address, sqlstore.Postgres{})
		require.ErrorIs(t, err, sqlstore.ErrDamaged)
		if strings.HasPrefix(change, "UPDATE") {
			if !strings.Contains(change, "token") { // without one there is no record
				_, err = o.Load(t.Context(), "k")
				require.ErrorIs(t, err, sqlstore.ErrDamaged)
			}
			_, err = o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
			require.Error(t, err, "it is not granted")
			_, err = o.Store.(lease.Claimer).Claim(t.Context(), []string{"k"}, lease.Record{})
			require.ErrorIs(t, err, lease.ErrConflict)
		} else if next, err := o.Swap(t.Context(), rec, rec, true); err == nil {
			require.Greater(t, next.Token, rec.Token)
		}
		require.NoError(t, o.close())
	}
}

func TestAReadOnlyDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	dir := damaged(t, image(t, false), func(string) error { return nil })
	_, err := openFile(t.Context(), filepath.Join(dir, "leases.db")+"?mode=ro", sqlstore.SQLite{})
	require.ErrorContains(t, err, "SQLite.Path is")
	o, err := openSource(t.Context(), "file:"+filepath.Join(dir, "leases.db")+"?mode=ro", sqlstore.SQLite{})
	if err == nil {
		o.close()
	}
	require.ErrorContains(t, err, "readonly")
}

func TestAFullDiskLosesNothing(t *testing.T) {
	dir := t.TempDir()
	need.Thing(t, "root")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs a tmpfs: %v; provide it with: a machine on which root may mount", err)
	}
	defer func() { assert.NoError(t, syscall.Unmount(dir, 0)) }()
	path := filepath.Join(dir, "leases.db")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600))
	o, err := openFile(t.Context(), path, sqlstore.SQLite{})
	require.NoError(t, err)
	var stored []lease.Record
	for n := 0; ; n++ {
		rec := heldRecord(n)
		rec.Note = strings.Repeat("n", 1000)
		got, err := o.Swap(t.Context(), lease.Record{}, rec, true)
		if err != nil {
			require.ErrorContains(t, err, "full")
			break
		}
		stored = append(stored, got)
		require.Less(t, n, 10_000, "the disk does not get full")
	}
	require.NotEmpty(t, stored)
	check := func() {
		t.Helper()
		all, err := o.List(t.Context(), "")
		require.NoError(t, err)
		require.Len(t, all, len(stored))
		for _, want := range stored {
			got, err := o.Load(t.Context(), want.Key)
			require.NoError(t, err)
			require.Equal(t, want.Token, got.Token)
		}
	}
	check()
	require.NoError(t, os.Remove(filepath.Join(dir, "ballast")))
	got, err := o.Swap(t.Context(), lease.Record{}, heldRecord(9999), true)
	require.NoError(t, err, "there is room again")
	require.Greater(t, got.Token, stored[len(stored)-1].Token)
	stored = append(stored, got)
	check()
	require.NoError(t, o.close())
	o, err = openFile(t.Context(), path, sqlstore.SQLite{})
	require.NoError(t, err)
	check()
	require.NoError(t, o.close())
}
