package sqlstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

func TestClaimsLeaveOutWhatTheirStoreHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k taken
		keys := []string{"a", "b", "c", "d"}
		const ttl = 3 * time.Minute
		first := k.choose(keys, time.Second)
		assert.Equal(t, keys, first)
		second := k.choose(keys, time.Second)
		assert.Equal(t, []string{"b", "c", "d"}, second, "the first is being claimed")
		k.settle(first, "a", ttl)
		k.settle(second, "d", ttl) // others had b and c
		assert.Equal(t, []string{"b", "c"}, k.choose(keys, time.Second))
		time.Sleep(2 * time.Second)
		assert.Equal(t, []string{"b", "c"}, k.choose(keys, time.Second), "a claim that was never settled ends by time")

		time.Sleep(time.Minute - 4*time.Second)
		k.swapped(lease.Record{Key: "a", TTL: ttl}, nil)
		k.swapped(lease.Record{Key: "d", TTL: ttl}, lease.ErrConflict)
		assert.Equal(t, []string{"b", "c", "d"}, k.choose(keys, time.Second), "a was renewed, d was lost")
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"b", "c", "d"}, k.choose(keys, 0))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, keys, k.choose(keys, 0), "a was not renewed when it should have been")

		k.settle(nil, "c", ttl)
		k.forget("c")
		k.swapped(lease.Record{Key: "other", TTL: ttl}, nil)
		time.Sleep(time.Nanosecond)
		assert.Equal(t, keys, k.choose(keys, ttl))
		k.settle(keys, "", ttl)
		for _, key := range keys {
			k.settle(nil, key, ttl)
		}
		assert.Empty(t, k.choose(keys, ttl))
		for n := range 2 * mostKept {
			k.settle(nil, fmt.Sprint(n), ttl)
		}
		assert.LessOrEqual(t, len(k.until), mostKept, "memory is bounded")
	})
}

func TestAClaimAsksForWhatItsStoreHasNot(t *testing.T) {
	s := learnt()
	store := openLearnt(t, Postgres{}, s)
	keys := []string{"a", "b", "c"}
	for range 2 { // the second one gets b
		_, err := store.Claim(t.Context(), keys, lease.Record{TTL: time.Minute})
		require.NoError(t, err)
	}
	_, err := store.Claim(t.Context(), keys, lease.Record{TTL: time.Minute})
	require.NoError(t, err)
	assert.Equal(t, `{"c"}`, s.last(asParameter)[2])
	require.NoError(t, store.Delete(t.Context(), lease.Record{Key: "b", Token: 9}))
	_, err = store.Claim(t.Context(), keys, lease.Record{TTL: time.Minute})
	require.NoError(t, err)
	assert.Equal(t, `{"b","c"}`, s.last(asParameter)[2])
}
