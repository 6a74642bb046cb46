package sqlstore

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

// stateError is a driver's error with an SQLSTATE.
type stateError string

func (e stateError) Error() string    { return "ERROR: " + string(e) }
func (e stateError) SQLState() string { return string(e) }

func scriptPostgres() *script {
	return new(script).
		on("set_config", vals{"on"}).on("server_version_num", vals{int64(150000), "UTF8", "on", "false"}).
		on("FROM bullpen_meta", vals{int64(len(postgresSchema())), "store-2"}).
		on("count(*) FILTER", vals{int64(0), int64(0), int64(0)}).
		on("bullpen_swap(", vals{true, int64(3), int64(0), "", ""}).
		on("bullpen_claim(", vals{nil, nil}).
		on("bullpen_delete(", vals{false})
}

func TestOpenRefusesAServerThatWouldLoseCommits(t *testing.T) {
	for _, row := range []struct {
		answer vals
		says   string
	}{
		{vals{int64(90600), "UTF8", "on", "false"}, "the server has version 90600, want 110000 or later"},
		{vals{int64(150000), "LATIN1", "on", "false"}, "encoding LATIN1, want UTF8"},
		{vals{int64(150000), "UTF8", "off", "false"}, "fsync=off"},
		{vals{int64(150000), "UTF8", "on", "true"}, "is a standby"},
	} {
		s := new(script).on("server_version_num", row.answer)
		s.answers = append(s.answers, scriptPostgres().answers...)
		_, err := openScript(t, s, Postgres{})
		require.ErrorContains(t, err, row.says)
	}
	s := new(script).on("count(*) FILTER", vals{int64(2), int64(0), int64(0)})
	s.answers = append(s.answers, scriptPostgres().answers...)
	_, err := openScript(t, s, Postgres{})
	require.ErrorIs(t, err, ErrDamaged)
	s = new(script).on("FROM bullpen_meta", vals{int64(9), "store-2"})
	s.answers = append(s.answers, scriptPostgres().answers...)
	_, err = openScript(t, s, Postgres{})
	require.ErrorIs(t, err, ErrNewer)
}

func TestWhatTheServerRolledBackIsTriedAgain(t *testing.T) {
	for _, state := range []stateError{"40001", "40P01"} {
		s := scriptPostgres().fail("bullpen_swap(", state, 3)
		store, err := openScript(t, s, Postgres{})
		require.NoError(t, err)
		rec, err := store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
		require.NoError(t, err)
		assert.Equal(t, uint64(3), rec.Token)
		assert.Equal(t, 4, s.asked("bullpen_swap("))
	}
	s := scriptPostgres().fail("bullpen_swap(", stateError("57014"), 0)
	store, err := openScript(t, s, Postgres{})
	require.NoError(t, err)
	_, err = store.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
	require.Error(t, err)
	assert.Equal(t, 1, s.asked("bullpen_swap("))
}

func TestConflictsOfTheServerAreConflicts(t *testing.T) {
	store, err := openScript(t, scriptPostgres(), Postgres{})
	require.NoError(t, err)
	_, err = store.Claim(t.Context(), []string{"a", "b"}, lease.Record{})
	require.ErrorIs(t, err, lease.ErrConflict)
	require.ErrorIs(t, store.Delete(t.Context(), lease.Record{Key: "a", Token: 1}), lease.ErrConflict)
}

func TestWatchersAreWokenByListenAndByItsEnd(t *testing.T) {
	calls := make(chan func(string), 2)
	store, err := openScript(t, scriptPostgres(), Postgres{Channel: "c", Listen: func(ctx context.Context, channel string, told func(string)) error {
		assert.Equal(t, "c", channel)
		select {
		case calls <- told:
		default:
		}
		<-ctx.Done()
		return errors.New("over")
	}})
	require.NoError(t, err)
	a, err := store.Watch(t.Context(), "a/")
	require.NoError(t, err)
	b, err := store.Watch(t.Context(), "b/")
	require.NoError(t, err)
	told := <-calls
	told("a/1")
	<-a
	assert.Empty(t, b)
	told("")
	<-a
	<-b
}
