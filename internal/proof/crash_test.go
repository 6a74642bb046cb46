package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// acknowledge swaps from several goroutines until crash is called, and gives what was
// acknowledged.
func acknowledge(s lease.Store, round int, crash func()) []lease.Record {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	var all []lease.Record
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				rec, err := s.Swap(ctx, lease.Record{}, lease.Record{Key: fmt.Sprintf("%d/%d/%d", round, g, n)}, true)
				if err != nil {
					return
				}
				mu.Lock()
				all = append(all, rec)
				if len(all) == 40 {
					crash()
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all
}

// missing gives those of the records that the store has not, after the crash.
func missing(t *testing.T, kind, address string, acknowledged []lease.Record) (keys []string) {
	t.Helper()
	s, err := openKind(t.Context(), kind, address)
	require.NoError(t, err)
	defer s.close()
	for _, want := range acknowledged {
		got, err := s.Load(t.Context(), want.Key)
		require.NoError(t, err)
		if got.Token != want.Token {
			keys = append(keys, want.Key)
		}
	}
	return keys
}

func TestSoakNoAcknowledgedLeaseIsLostWhenTheServerCrashes(t *testing.T) {
	for _, kind := range []string{"postgres", "etcd"} {
		t.Run(kind, func(t *testing.T) {
			address := arena(t, kind)
			s := map[string]*daemons{"postgres": &postgresServer, "etcd": &etcdServer}[kind].s
			total := 0
			for round := range soak(40) / 2 {
				o, err := openKind(t.Context(), kind, address)
				require.NoError(t, err)
				all := acknowledge(o, round, s.Crash)
				require.NoError(t, s.Up(t.Context()))
				_ = o.close() // connections to the server that is gone
				require.Empty(t, missing(t, kind, address, all))
				total += len(all)
			}
			t.Logf("%d acknowledged", total)
		})
	}
}

// The planted bug: the server acknowledges before the commit is on the disk.
func TestACommitThatIsNotSyncedIsSeenToBeLost(t *testing.T) {
	address := arena(t, "postgres")
	for round := range 20 { // each may be saved by the server's writer
		o, err := openKind(t.Context(), "postgres", address)
		require.NoError(t, err)
		if round == 0 {
			db, err := openPgx(address)
			require.NoError(t, err)
			_, err = db.Exec(`CREATE OR REPLACE FUNCTION bullpen_tell(p_key text) RETURNS void LANGUAGE plpgsql AS
				$f$ BEGIN PERFORM set_config('synchronous_commit', 'off', false); END $f$`)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		}
		all := acknowledge(o, round, postgresServer.s.Crash)
		require.NoError(t, postgresServer.s.Up(t.Context()))
		_ = o.close() // connections to the server that is gone
		lost := missing(t, "postgres", address, all)
		if len(lost) > 0 {
			t.Logf("%d of %d acknowledged leases were lost, and that was seen", len(lost), len(all))
			return
		}
	}
	t.Fatal("a server that does not sync its commits loses nothing in this test: it proves nothing")
}

// dirty tells how many pages of a file are not on the disk yet, by cachestat(2) of
// Linux 6.5.
func dirty(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var stat struct{ cached, dirty, writeback, evicted, recently uint64 }
	var whole struct{ offset, length uint64 }
	const cachestat = 451 // the same number on all architectures
	_, _, errno := syscall.Syscall6(cachestat, f.Fd(), uintptr(unsafe.Pointer(&whole)), uintptr(unsafe.Pointer(&stat)), 0, 0, 0)
	if errors.Is(errno, syscall.ENOSYS) || errors.Is(errno, syscall.EPERM) {
		t.Skipf("needs cachestat: %v; provide it with: Linux 6.5 or later", errno)
	}
	require.Zero(t, errno)
	return stat.dirty + stat.writeback
}

// What SQLite acknowledged must be on the disk before it is said. That a test would
// see it otherwise is shown by a connection which does not sync.
func TestWhatSQLiteAcknowledgesIsOnTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	o, err := openFile(t.Context(), path, sqlstore.SQLite{})
	require.NoError(t, err)
	defer o.close()

	db, err := openSQL("file:" + path + "?_pragma=synchronous(off)")
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("CREATE TABLE planted (n INTEGER)")
	require.NoError(t, err)
	seen := false
	for n := 0; n < 20 && !seen; n++ { // the kernel may write by itself
		_, err = db.Exec("INSERT INTO planted VALUES (?)", n)
		require.NoError(t, err)
		seen = dirty(t, path+"-wal") > 0
	}
	if !seen {
		t.Skip("needs a file system with dirty pages; provide it with: TMPDIR on a disk")
	}
	require.NoError(t, db.Close())

	for n := range 50 {
		rec, err := o.Swap(t.Context(), lease.Record{}, lease.Record{Key: fmt.Sprint(n)}, true)
		require.NoError(t, err)
		require.Zero(t, dirty(t, path+"-wal"), "pages of swap %d were acknowledged and not synced", n)
		_, err = o.Swap(t.Context(), rec, rec, false)
		require.NoError(t, err)
		require.Zero(t, dirty(t, path+"-wal"), "pages of renewal %d were acknowledged and not synced", n)
		require.NoError(t, o.Delete(t.Context(), lease.Record{Key: rec.Key, Token: rec.Token, Renewals: 1}))
		require.Zero(t, dirty(t, path+"-wal"), "pages of release %d were acknowledged and not synced", n)
	}
}
