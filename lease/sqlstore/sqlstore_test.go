package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/leasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type vals = []driver.Value

// scriptSQLite is an SQLite that has a store without records; the file is an empty
// one, for the driver is none.
func scriptSQLite(t *testing.T) (*script, string) {
	path := filepath.Join(t.TempDir(), "leases.db")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	m := meta{version: len(sqliteSchema()), id: "store-1", token: 7, commits: 3}
	return new(script).
		on("pragma_database_list", vals{path}).
		on("PRAGMA journal_mode=", vals{"wal"}).on("PRAGMA journal_mode", vals{"wal"}).
		on("PRAGMA synchronous=").on("PRAGMA synchronous", vals{int64(2)}).
		on("quick_check", vals{"ok"}).on("count(*)", vals{int64(2)}).
		on("FROM bullpen_meta", vals{int64(m.version), m.id, m.token, m.commits, m.rows, fmt.Sprintf("%016x", m.digest), m.checksum()}), path
}

// tableSQLite is an empty one that keeps what is written.
func tableSQLite(t *testing.T) *script {
	s, _ := scriptSQLite(t)
	s.tables, s.stored.rows = true, map[string][]driver.Value{}
	return s.first("count(*)", vals{int64(0)}).first("data_version", vals{int64(1)})
}

func TestTheSQLiteBackendKeepsTheContract(t *testing.T) {
	var s *script
	open := func(ctx context.Context) (lease.Store, func() error, error) {
		store, err := Open(ctx, s.db(t), Config{Dialect: SQLite{Look: time.Millisecond}})
		if err != nil {
			return nil, nil, err
		}
		s.mu.Lock()
		s.first("count(*)", vals{int64(2)})
		s.mu.Unlock()
		return store, store.Close, nil
	}
	leasetest.Run(t, leasetest.Harness{Records: 100, Reopen: open, Open: func(ctx context.Context) (lease.Store, func() error, error) {
		s = tableSQLite(t)
		return open(ctx)
	}})
}

func openScript(t *testing.T, s *script, d Dialect) (*Store, error) {
	store, err := Open(t.Context(), s.db(t), Config{Dialect: d})
	if err == nil {
		t.Cleanup(func() { assert.NoError(t, store.Close()) })
	}
	return store, err
}

func TestOpenRefusesAnSQLiteThatWouldLoseCommits(t *testing.T) {
	for _, row := range []struct{ text, value, says string }{
		{"PRAGMA journal_mode", "delete", `PRAGMA journal_mode is "delete", want "wal"`},
		{"PRAGMA synchronous", "1", `PRAGMA synchronous is "1", want "2": commits would not be durable`},
		{"quick_check", "row 3 missing from index", "damaged: quick_check: row 3 missing"},
	} {
		s, _ := scriptSQLite(t)
		s.answers = append([]reply{{text: row.text, rows: [][]driver.Value{{row.value}}}}, s.answers...)
		_, err := openScript(t, s, SQLite{})
		require.ErrorContains(t, err, row.says)
	}
}

func TestOpenSetsFullSyncBeforeItWrites(t *testing.T) {
	s, path := scriptSQLite(t)
	store, err := openScript(t, s, SQLite{Path: path})
	require.NoError(t, err)
	id, err := store.ID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "store-1", id)
	all := strings.Join(s.log, "\n")
	assert.Less(t, strings.Index(all, "PRAGMA synchronous=FULL"), strings.Index(all, "BEGIN IMMEDIATE"))
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	_, err := Open(t.Context(), nil, Config{})
	require.ErrorContains(t, err, "db is nil")
	_, err = openScript(t, new(script), nil)
	require.ErrorContains(t, err, "Config.Dialect is nil")
	for _, row := range []struct {
		d    Dialect
		says string
	}{
		{SQLite{GateWait: -1}, "SQLite.GateWait is -1ns, want 0 or more"},
		{SQLite{Readers: -1}, "SQLite.Readers is -1"},
		{Postgres{Connections: -2}, "Postgres.Connections is -2"},
		{Postgres{StatementTimeout: 1}, "Postgres.StatementTimeout is 1ns"},
		{Postgres{Listen: func(context.Context, string, func(string)) error { return nil }}, "Postgres.Channel is empty"},
		{&SQLite{}, "Config.Dialect is a *sqlstore.SQLite"},
	} {
		_, err := openScript(t, new(script), row.d)
		require.ErrorContains(t, err, row.says)
	}
	s, _ := scriptSQLite(t)
	db := s.db(t)
	db.SetMaxOpenConns(1)
	_, err = Open(t.Context(), db, Config{Dialect: SQLite{}})
	require.ErrorContains(t, err, "db allows 1 open connections, want 6 or more")
	_, err = openScript(t, new(script).on("pragma_database_list", vals{""}), SQLite{})
	require.ErrorContains(t, err, "the database is in memory")
	_, err = openScript(t, new(script).fail("pragma_database_list", errors.New("file is not a database"), 0), SQLite{})
	require.ErrorIs(t, err, ErrDamaged)
}

func TestOpenRefusesMetaThatDoesNotFit(t *testing.T) {
	for _, row := range []struct {
		change func(*meta)
		sum    bool
		want   error
	}{
		{func(m *meta) { m.token = 3 }, false, ErrDamaged},
		{func(m *meta) { m.rows = 1 }, true, ErrDamaged},
		{func(m *meta) { m.digest = 1 }, true, ErrDamaged},
		{func(m *meta) { m.version = 99 }, true, ErrNewer},
		{func(m *meta) { m.version = -1 }, true, ErrDamaged},
	} {
		s, _ := scriptSQLite(t)
		m := meta{version: len(sqliteSchema()), id: "store-1", token: 7, commits: 3}
		sum := m.checksum()
		row.change(&m)
		if row.sum {
			sum = m.checksum()
		}
		s.answers = append([]reply{{text: "FROM bullpen_meta", rows: [][]driver.Value{{int64(m.version), m.id, m.token, m.commits, m.rows, fmt.Sprintf("%016x", m.digest), sum}}}}, s.answers...)
		_, err := openScript(t, s, SQLite{})
		require.ErrorIs(t, err, row.want)
	}
}

func TestACommitThatFailsFailsAllThatWereInItAndTheNextOneIsOnAFreshConnection(t *testing.T) {
	s := tableSQLite(t)
	store, err := openScript(t, s, SQLite{})
	require.NoError(t, err)
	s.mu.Lock()
	s.fail("COMMIT", errors.New("disk I/O error"), 1)
	opens := s.opens
	s.mu.Unlock()
	_, err = store.SwapAll(t.Context(), []lease.Swapping{{Next: lease.Record{Key: "a"}, NewToken: true}, {Next: lease.Record{Key: "b"}, NewToken: true}})
	require.ErrorContains(t, err, "disk I/O error")
	rec, err := store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "a"}, true)
	require.NoError(t, err)
	assert.Equal(t, uint64(1), rec.Token, "what was not committed used no token up")
	assert.Greater(t, s.opens, opens)
	assert.Equal(t, 2, s.asked("PRAGMA synchronous=FULL"))
}

func TestADamagedRowIsNeverReadAsFree(t *testing.T) {
	s, _ := scriptSQLite(t)
	store, err := openScript(t, s, SQLite{Look: -1})
	require.NoError(t, err)
	data, err := encode(&lease.Record{Key: "k"})
	require.NoError(t, err)
	for _, r := range []row{
		{"k", 5, 0, data, "0000000000000000"},
		{"k", 8, 0, data, checksum(8, 0, "k", data)}, // above the sequence
		{"k", 5, -1, data, checksum(5, -1, "k", data)},
		{"k", 5, 0, "{", checksum(5, 0, "k", "{")},
	} {
		s.mu.Lock()
		s.answers = append([]reply{{text: "WHERE key = ?", rows: [][]driver.Value{{r.key, r.token, r.renewals, r.data, r.sum}}}}, s.answers...)
		s.mu.Unlock()
		for _, do := range []func() error{
			func() error {
				_, err := store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
				return err
			},
			func() error { _, err := store.Claim(t.Context(), []string{"k"}, lease.Record{}); return err },
			func() error { return store.Delete(t.Context(), lease.Record{Key: "k", Token: 5}) },
		} {
			err := do()
			require.ErrorIs(t, err, ErrDamaged)
			require.NotErrorIs(t, err, lease.ErrConflict)
		}
	}
	assert.Zero(t, s.asked("INSERT INTO bullpen_lease")+s.asked("UPDATE bullpen_lease")+s.asked("DELETE"))
}

func TestAStoreThatIsClosedSaysSo(t *testing.T) {
	s, _ := scriptSQLite(t)
	store, err := openScript(t, s, SQLite{})
	require.NoError(t, err)
	ch, err := store.Watch(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, store.Close())
	require.NoError(t, store.Close())
	for range ch { // a change may have been told; then it is closed
	}
	_, err = store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
	require.ErrorIs(t, err, ErrClosed)
	_, err = store.Watch(t.Context(), "")
	require.ErrorIs(t, err, ErrClosed)
}

func TestTextsThatWouldComeBackAsOthersAreRefused(t *testing.T) {
	for _, r := range []lease.Record{{Key: "a\x00"}, {Key: "k", Lock: "\xff"}, {Key: "k", Session: "\xff"}, {Key: "k", Boot: "\x00"}} {
		require.ErrorContains(t, checkRecord(&r), "want UTF-8 without NUL")
	}
	r := lease.Record{Key: "k", Owner: "a\xffb"}
	require.NoError(t, checkRecord(&r))
	assert.Equal(t, "a\uFFFDb", r.Owner)
}

func TestRowsComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Filter(storable)
		want := lease.Record{
			Key: text.Draw(t, "key"), Session: text.Draw(t, "session"), Owner: text.Draw(t, "owner"), Lock: text.Draw(t, "lock"), Note: text.Draw(t, "note"),
			Token: uint64(rapid.Int64Min(1).Draw(t, "token")), Renewals: uint64(rapid.Int64Min(0).Draw(t, "renewals")),
			TTL: time.Duration(rapid.Int64().Draw(t, "ttl")), Since: time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "since"), 5).UTC(), Renewed: time.Unix(0, 0).UTC(),
		}
		data, err := encode(&want)
		if err != nil {
			t.Fatal(err)
		}
		r := row{want.Key, pick(want.Token), pick(want.Renewals), data, checksum(pick(want.Token), pick(want.Renewals), want.Key, data)}
		got, err := r.record()
		if err != nil || got != want {
			t.Fatalf("%+v, %v, want %+v", got, err, want)
		}
		bad := r
		bad.token ^= 1
		if _, err := bad.record(); !errors.Is(err, ErrDamaged) {
			t.Fatal("another token fits the checksum")
		}
	})
}

func TestTheSuccessorIsAboveAllWithThePrefixAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.RuneFrom([]rune{'a', 'b', '\x01', 0x7f, 0xD7FF, 0xE000, 0x10FFFF, 0x10FFFE}))
		prefix, key := text.Draw(t, "prefix"), text.Draw(t, "key")
		end, ok := successor(prefix)
		if within := key >= prefix && (!ok || key < end); within != strings.HasPrefix(key, prefix) {
			t.Fatalf("%q within [%q, %q): %v", key, prefix, end, within)
		}
	})
}

func TestAMigrationRunsWhatIsMissingOnly(t *testing.T) {
	s := schema{{"one"}, {"two", "three"}, {"four"}}
	for have, want := range []string{"one two three four", "two three four", "four", ""} {
		got, err := s.plan(have)
		require.NoError(t, err)
		assert.Equal(t, want, strings.Join(got, " "))
	}
	_, err := s.plan(4)
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, "version 4, this program knows up to 3: update the program")
}

func TestWhoGivesUpInTheQueueChangesNothing(t *testing.T) {
	store, err := openScript(t, tableSQLite(t), SQLite{})
	require.NoError(t, err)
	b := store.b.(*sqlite)
	entered, leave := make(chan struct{}), make(chan struct{})
	go func() {
		_ = b.do(context.Background(), func(*batch) error { close(entered); <-leave; return nil })
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	swapped := make(chan error, 1)
	go func() {
		_, err := store.Swap(ctx, lease.Record{}, lease.Record{Key: "late"}, true)
		swapped <- err
	}()
	for len(b.queue) == 0 {
		runtime.Gosched()
	}
	cancel()
	require.ErrorIs(t, <-swapped, context.Canceled)
	close(leave)
	_, err = store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "next"}, true) // it is behind it
	require.NoError(t, err)
	rec, err := store.Load(t.Context(), "late")
	require.NoError(t, err)
	assert.Zero(t, rec)
}
