package proof

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// The sessions of a Store rely on nothing that the server's administrator, or the
// program's connection string, has set otherwise. With jit on, a check at Open took
// longer than the statement's time.
func TestTheSessionsOfAStoreAreSetUpWhateverTheServerSays(t *testing.T) {
	address := arena(t, "postgres")
	db, err := openPgx(address)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var name string
	require.NoError(t, db.QueryRow("SELECT current_database()").Scan(&name))
	for set, odd := range map[string]string{
		"jit": "on", "synchronous_commit": "off", "default_transaction_isolation": "serializable", "plan_cache_mode": "force_custom_plan",
		"enable_seqscan": "on", "enable_bitmapscan": "on", "standard_conforming_strings": "off", "statement_timeout": "0", "lock_timeout": "0",
		"idle_in_transaction_session_timeout": "0",
	} {
		_, err := db.Exec("ALTER DATABASE \"" + name + "\" SET " + set + " = '" + odd + "'")
		require.NoError(t, err, set)
	}
	require.NoError(t, db.Close()) // what is set so is for new connections
	db, err = openPgx(address)
	require.NoError(t, err)
	var jit string
	require.NoError(t, db.QueryRow("SHOW jit").Scan(&jit))
	require.Equal(t, "on", jit, "or this test proves nothing")
	store, err := sqlstore.Open(t.Context(), db, sqlstore.Config{Dialect: sqlstore.Postgres{Connections: 1, StatementTimeout: 7 * time.Second}})
	require.NoError(t, err)
	// The Store's function tells what its session is like.
	for _, text := range []string{
		"CREATE TABLE seen (name text, setting text)",
		"CREATE OR REPLACE FUNCTION bullpen_tell(p_key text) RETURNS void LANGUAGE sql AS $f$ INSERT INTO seen SELECT name, setting FROM pg_settings $f$",
	} {
		_, err := db.Exec(text)
		require.NoError(t, err)
	}
	_, err = store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k", Session: "s", Owner: "o", TTL: time.Minute}, true)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	for set, want := range map[string]string{
		"jit": "off", "synchronous_commit": "on", "default_transaction_isolation": "read committed", "plan_cache_mode": "force_generic_plan",
		"enable_seqscan": "off", "enable_bitmapscan": "off", "standard_conforming_strings": "on", "statement_timeout": "7000", "lock_timeout": "7000",
		"idle_in_transaction_session_timeout": "7000",
	} {
		var got string
		require.NoError(t, db.QueryRow("SELECT setting FROM seen WHERE name = $1", set).Scan(&got))
		assert.Equal(t, want, got, set)
	}
}

// What a Store has set is nothing that others of the same sql.DB should get.
func TestTheSessionsOfAStoreEndWithIt(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		db, err := openPgx(arena(t, "postgres"))
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		store, err := sqlstore.Open(t.Context(), db, sqlstore.Config{Dialect: sqlstore.Postgres{Connections: 2}})
		require.NoError(t, err)
		_, err = store.List(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, store.Close())
		var seqscan string
		require.NoError(t, db.QueryRow("SHOW enable_seqscan").Scan(&seqscan))
		assert.Equal(t, "on", seqscan)
	})
	t.Run("sqlite", func(t *testing.T) {
		path := arena(t, "sqlite")
		db, err := openSQL("file:" + path)
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		store, err := sqlstore.Open(t.Context(), db, sqlstore.Config{Dialect: sqlstore.SQLite{Path: path}})
		require.NoError(t, err)
		_, err = store.List(t.Context(), "")
		require.NoError(t, err)
		require.NoError(t, store.Close())
		_, err = db.Exec("CREATE TABLE mine (n integer)")
		require.NoError(t, err, "a reader's connection takes no writes")
	})
}
