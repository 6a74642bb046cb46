package proof

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// asBefore is a Store that does all by the functions of the schema, as those of
// version 1 did; it also tells a channel.
var asBefore = sqlstore.Postgres{Channel: "as_before"}

// versionOne turns the schema into what version 1 made.
func versionOne(t *testing.T, address string) {
	t.Helper()
	db, err := openPgx(address)
	require.NoError(t, err)
	defer db.Close()
	for _, text := range []string{
		"ALTER TABLE bullpen_lease ADD CHECK (token >= 0), ADD CHECK (renewals >= 0)",
		"UPDATE bullpen_meta SET version = 1",
	} {
		_, err = db.Exec(text)
		require.NoError(t, err)
	}
}

func TestASchemaOfVersionOneIsMigratedUnderThoseWhoUseIt(t *testing.T) {
	t.Parallel()
	address, err := newDatabase(t.Context(), thePostgres(t))
	require.NoError(t, err)
	old, err := openPostgres(t.Context(), address, asBefore)
	require.NoError(t, err)
	defer old.close()
	versionOne(t, address)
	db, err := openPgx(address)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("UPDATE bullpen_lease SET renewals = -1")
	require.NoError(t, err, "there is no row yet")
	held, err := old.Swap(t.Context(), lease.Record{}, lease.Record{Key: "a", Owner: "old"}, true)
	require.NoError(t, err)
	_, err = db.Exec("UPDATE bullpen_lease SET renewals = -1")
	require.ErrorContains(t, err, "bullpen_lease_renewals_check", "it is version 1")

	o, err := openPostgres(t.Context(), address, sqlstore.Postgres{})
	require.NoError(t, err)
	defer o.close()
	var version, checks int
	require.NoError(t, db.QueryRow("SELECT version, (SELECT count(*) FROM pg_constraint WHERE conrelid = 'bullpen_lease'::regclass AND contype = 'c') FROM bullpen_meta").Scan(&version, &checks))
	require.Equal(t, 2, version)
	require.Zero(t, checks)

	// Both see, and respect, what the other one writes.
	got, err := o.Load(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, held, got)
	keys := []string{"a", "b", "c"}
	last := held.Token
	for range 20 {
		first, err := o.Store.(lease.Claimer).Claim(t.Context(), keys, lease.Record{Owner: "new"})
		require.NoError(t, err)
		second, err := old.Store.(lease.Claimer).Claim(t.Context(), keys, lease.Record{Owner: "old"})
		require.NoError(t, err)
		require.Equal(t, []string{"b", "c"}, []string{first.Key, second.Key})
		require.Greater(t, first.Token, last)
		require.Greater(t, second.Token, first.Token)
		last = second.Token
		for _, rec := range []lease.Record{first, second} {
			for _, s := range []opened{old, o} {
				got, err := s.Load(t.Context(), rec.Key)
				require.NoError(t, err)
				require.Equal(t, rec.Token, got.Token)
				_, err = s.Store.(lease.Claimer).Claim(t.Context(), keys, lease.Record{})
				require.ErrorIs(t, err, lease.ErrConflict)
			}
		}
		first, err = old.Swap(t.Context(), first, first, false)
		require.NoError(t, err)
		require.NoError(t, o.Delete(t.Context(), first))
		require.NoError(t, old.Delete(t.Context(), second))
	}
	require.NoError(t, old.Delete(t.Context(), held))
	// What the new one wrote stands the verification of all rows.
	again, err := openPostgres(t.Context(), address, sqlstore.Postgres{})
	require.NoError(t, err)
	require.NoError(t, again.close())
}

// A row that people took away is not one that is held, nor are others.
func TestARowThatWasRemovedByHandIsFoundAgain(t *testing.T) {
	t.Parallel()
	address, err := newDatabase(t.Context(), thePostgres(t))
	require.NoError(t, err)
	o, err := openPostgres(t.Context(), address, sqlstore.Postgres{})
	require.NoError(t, err)
	defer o.close()
	keys := []string{"a", "b"}
	c := o.Store.(lease.Claimer)
	for range 20 { // it knows the keys
		rec, err := c.Claim(t.Context(), keys, lease.Record{})
		require.NoError(t, err)
		require.NoError(t, o.Delete(t.Context(), rec))
	}
	db, err := openPgx(address)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("DELETE FROM bullpen_lease WHERE key = 'a'")
	require.NoError(t, err)
	got := map[string]bool{}
	for range keys {
		rec, err := c.Claim(t.Context(), keys, lease.Record{})
		require.NoError(t, err)
		got[rec.Key] = true
	}
	require.Equal(t, map[string]bool{"a": true, "b": true}, got)
	_, err = c.Claim(t.Context(), keys, lease.Record{})
	require.ErrorIs(t, err, lease.ErrConflict)
}

// Claims the short and the long way, by lists in and out of order, beside swaps,
// raises and releases: never two holders, tokens rise and are never used twice, and
// in the end nothing is held that was given back.
func TestSoakClaimsOfStoresOldAndNewNeverCollide(t *testing.T) {
	address, err := newDatabase(t.Context(), thePostgres(t))
	require.NoError(t, err)
	var stores []opened
	for n := range 4 {
		c := sqlstore.Postgres{Connections: 8}
		if n == 3 {
			c = asBefore
		}
		o, err := openPostgres(t.Context(), address, c)
		require.NoError(t, err)
		defer o.close()
		stores = append(stores, o)
	}
	var keys []string
	for n := range 6 {
		keys = append(keys, fmt.Sprintf("host/%d", n))
	}
	var mu sync.Mutex
	holder, high, given := map[string]int{}, map[string]uint64{}, map[uint64]string{}
	claims := 0
	enter := func(who int, rec lease.Record) {
		mu.Lock()
		defer mu.Unlock()
		assert.Zero(t, holder[rec.Key], "%s is another's", rec.Key)
		assert.Greater(t, rec.Token, high[rec.Key], "a token of %s that does not rise", rec.Key)
		assert.Empty(t, given[rec.Token], "a token is used twice")
		holder[rec.Key], high[rec.Key], given[rec.Token] = who, rec.Token, rec.Key
		claims++
	}
	leave := func(rec lease.Record) { // before it is given back
		mu.Lock()
		defer mu.Unlock()
		delete(holder, rec.Key)
	}
	ctx := context.Background()
	rounds := soak(4000) / 10
	var wg sync.WaitGroup
	for client := range 16 {
		wg.Go(func() {
			s := stores[client%len(stores)]
			for n := 0; n < rounds && !t.Failed(); n++ {
				list := slices.Clone(keys)
				switch rand.IntN(3) {
				case 0:
					slices.Reverse(list)
				case 1:
					list = list[rand.IntN(3):]
				}
				var rec lease.Record
				var err error
				if rand.IntN(4) == 0 {
					rec, err = s.Swap(ctx, lease.Record{}, lease.Record{Key: list[0]}, true)
				} else {
					rec, err = s.Store.(lease.Claimer).Claim(ctx, list, lease.Record{Owner: fmt.Sprint(client)})
				}
				if errors.Is(err, lease.ErrConflict) {
					continue
				}
				if !assert.NoError(t, err) {
					return
				}
				enter(client+1, rec)
				got, err := s.Load(ctx, rec.Key)
				assert.NoError(t, err)
				assert.Equal(t, rec.Token, got.Token)
				if rand.IntN(3) == 0 {
					rec, err = s.Swap(ctx, rec, rec, false)
					assert.NoError(t, err)
				}
				leave(rec)
				assert.NoError(t, s.Delete(ctx, rec))
				assert.NoError(t, s.Delete(ctx, lease.Record{Key: "nothing/" + rec.Key, Token: rec.Token}))
			}
		})
	}
	wg.Wait()
	left, err := stores[0].List(ctx, "")
	require.NoError(t, err)
	require.Empty(t, left)
	t.Logf("%d grants", claims)
	require.Positive(t, claims)
}
