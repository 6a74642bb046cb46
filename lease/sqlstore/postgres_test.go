package sqlstore

import (
	"context"
	"errors"
	"fmt"
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

// learnt answers as a server does that has rows of a, b and c for good.
func learnt() *script {
	return new(script).
		on("bullpen_claim(", vals{"a", int64(7)}).
		on(selectKept, vals{"a"}, vals{"b"}).
		on(makeKept, vals{"c"}).
		on("FOR UPDATE OF l SKIP LOCKED", vals{"b", int64(9)})
}

func openLearnt(t *testing.T, c Postgres, s *script) *Store {
	t.Helper()
	s.answers = append(s.answers, scriptPostgres().answers...)
	store, err := openScript(t, s, c)
	require.NoError(t, err)
	return store
}

const (
	asParameter = "ANY($3::text::text[])"
	asItsOwn    = `ANY('{"a","b","c"}'::text[])`
)

func TestClaimsGoTheShortWayWhenTheirKeysAreKept(t *testing.T) {
	s := learnt()
	store := openLearnt(t, Postgres{Connections: 1}, s)
	keys := []string{"a", "b", "c"}
	rec, err := store.Claim(t.Context(), keys, lease.Record{})
	require.NoError(t, err)
	assert.Equal(t, uint64(7), rec.Token)
	assert.Equal(t, []int{1, 1, 1}, []int{s.asked("bullpen_claim("), s.asked(selectKept), s.asked(makeKept)})
	for n := range 2 * usualAfter {
		rec, err = store.Claim(t.Context(), keys, lease.Record{})
		require.NoError(t, err)
		assert.Equal(t, lease.Record{Key: "b", Token: 9}, rec)
		assert.Equal(t, min(n+1, usualAfter), s.asked(asParameter))
		assert.Equal(t, max(n+1-usualAfter, 0), s.asked(asItsOwn))
	}
	for range usualAfter + 1 { // another order; its own statement takes the other's place
		_, err = store.Claim(t.Context(), []string{"b", "a"}, lease.Record{})
		require.NoError(t, err)
	}
	assert.Equal(t, usualAfter, s.asked("unnest($3::text::text[])"))
	assert.Equal(t, 1, s.asked(`unnest('{"b","a"}'::text[])`))
	assert.Equal(t, 1, s.asked("bullpen_claim("))
	conn := <-store.b.(*postgres).conns.free
	assert.Len(t, conn.stmts, 3, "two with parameters, one of a list's own")
	store.b.(*postgres).conns.free <- conn

	// What is not known goes the longer way and is asked for again.
	_, err = store.Claim(t.Context(), []string{"a", "d"}, lease.Record{})
	require.NoError(t, err)
	assert.Equal(t, 2, s.asked("bullpen_claim("))
	assert.Equal(t, 2, s.asked(selectKept))
}

func TestClaimsThatFindNothingTheShortWayGoTheOther(t *testing.T) {
	s := learnt().first("FOR UPDATE OF l SKIP LOCKED")
	store := openLearnt(t, Postgres{}, s)
	for range 3 {
		rec, err := store.Claim(t.Context(), []string{"a", "b", "c"}, lease.Record{})
		require.NoError(t, err)
		assert.Equal(t, "a", rec.Key)
	}
	assert.Equal(t, 2, s.asked("FOR UPDATE OF l SKIP LOCKED"))
	assert.Equal(t, 3, s.asked("bullpen_claim("))
	assert.Equal(t, 1, s.asked(selectKept))
}

func TestWithAChannelAllIsToldByTheFunctions(t *testing.T) {
	s := learnt()
	store := openLearnt(t, Postgres{Channel: "c"}, s)
	for range 3 {
		_, err := store.Claim(t.Context(), []string{"a", "b", "c"}, lease.Record{})
		require.NoError(t, err)
	}
	require.ErrorIs(t, store.Delete(t.Context(), lease.Record{Key: "a", Token: 7}), lease.ErrConflict)
	assert.Equal(t, []int{3, 0, 0, 1}, []int{s.asked("bullpen_claim("), s.asked("FOR UPDATE OF l"), s.asked(shortDelete), s.asked("bullpen_delete(")})
}

func TestDeletesOfKeptRowsAreShortAndConflictLikeOthers(t *testing.T) {
	s := learnt()
	store := openLearnt(t, Postgres{}, s)
	rec, err := store.Claim(t.Context(), []string{"a", "b", "c"}, lease.Record{})
	require.NoError(t, err)
	require.NoError(t, store.Delete(t.Context(), rec))
	assert.Equal(t, []int{1, 0}, []int{s.asked(shortDelete), s.asked("bullpen_delete(")})
	s.none = shortDelete // no row is as it was: the function says why
	require.ErrorIs(t, store.Delete(t.Context(), rec), lease.ErrConflict)
	assert.Equal(t, []int{2, 1}, []int{s.asked(shortDelete), s.asked("bullpen_delete(")})
}

func TestKeysAreForgottenBeforeThereAreTooMany(t *testing.T) {
	var k kept
	for n := range 3 * mostKept {
		k.add([]string{fmt.Sprint(n)})
		require.LessOrEqual(t, len(k.keys), mostKept)
	}
	assert.False(t, k.has("0"))
	assert.True(t, k.has(fmt.Sprint(3*mostKept-1)))
	assert.Nil(t, k.all([]string{"0"}))
}

func TestKeysAreQuotedInArrays(t *testing.T) {
	assert.Equal(t, `{}`, array(nil))
	assert.Equal(t, `{"a b","","NULL","\"\\x\\","{,}"}`, array([]string{"a b", "", "NULL", `"\x\`, "{,}"}))
	assert.Contains(t, newClaimList([]string{`it's`}).own, `ANY('{"it''s"}'::text[])`)
}
