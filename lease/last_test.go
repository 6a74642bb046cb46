package lease

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInspectTellsTheLastHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemStore()
		m, err := New(Config{Store: store, Owner: "TestUpgrade", NoLock: true})
		require.NoError(t, err)
		defer m.Close(t.Context())
		_, err = store.Swap(t.Context(), Record{}, Record{Key: "slot/1", Session: "session/gone", Owner: "TestInstall on ci-2", Note: "n"}, true)
		require.NoError(t, err)
		l, err := m.Acquire(t.Context(), "slot/1", nil) // from one whose session is gone
		require.NoError(t, err)
		require.NoError(t, l.Release(t.Context()))
		l, err = m.Acquire(t.Context(), "slot/1", nil)
		require.NoError(t, err)
		time.Sleep(3 * time.Minute)

		all, err := m.Inspect(t.Context(), "slot/")
		require.NoError(t, err)
		require.Len(t, all, 1)
		last := all[0].Last
		require.Len(t, last, 2)
		assert.Equal(t, m.Owner(), last[0].Owner)
		assert.Equal(t, "released", last[0].Why)
		assert.Greater(t, last[0].Token, last[1].Token)
		assert.Equal(t, "TestInstall on ci-2", last[1].Owner)
		assert.Equal(t, "n", last[1].Note)
		assert.Equal(t, "its session is gone", last[1].Why)
		assert.Contains(t, all[0].String(), fmt.Sprintf("; before: %s, token %d, until 3m0s ago: released", m.Owner(), last[0].Token))
		require.NoError(t, l.Release(t.Context()))
	})
}

func TestAFixedTermThatIsOverIsAmongTheLastHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := New(Config{Store: NewMemStore(), NoLock: true})
		require.NoError(t, err)
		defer m.Close(t.Context())
		_, err = m.Acquire(t.Context(), "k", &Options{Term: time.Minute})
		require.NoError(t, err)
		next, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		all, err := m.Inspect(t.Context(), "k")
		require.NoError(t, err)
		require.NotEmpty(t, all[0].Last)
		assert.Equal(t, "lost", all[0].Last[0].Why)
		require.NoError(t, next.Release(t.Context()))
	})
}

func TestTheLastHoldersAreBounded(t *testing.T) {
	var e endings
	for n := range 3*mostEndings + 5 {
		e.add(pastHolding{other: &Ending{Key: fmt.Sprint("k", n%2), Token: uint64(n)}})
	}
	all := e.under("k", 0, time.Time{})
	assert.Len(t, all, 2)
	assert.Len(t, e.ring, mostEndings)
	assert.Equal(t, uint64(3*mostEndings+4), all["k0"][0].Token)
	assert.Equal(t, uint64(3*mostEndings+3), all["k1"][0].Token)
	for _, of := range all {
		for i := 1; i < len(of); i++ {
			assert.Equal(t, of[i-1].Token-2, of[i].Token)
		}
	}
	assert.Empty(t, e.under("x", 0, time.Time{}))
}
