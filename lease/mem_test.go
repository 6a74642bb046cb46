package lease

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAHundredThousandLeasesAreSmall(t *testing.T) {
	const n = 100_000
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("host/h1/slot/%d", i)
	}
	leases := make([]*Lease, n)
	m := newManager(t, NewMemStore())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i, key := range keys {
		l, err := m.Acquire(t.Context(), key, nil)
		require.NoError(t, err)
		leases[i] = l
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.0f bytes a lease", each)
	assert.Less(t, each, 300.0)
	for _, l := range leases {
		require.NoError(t, l.Release(t.Context()))
	}
	runtime.KeepAlive(keys)
}

func TestChecksAllocateNothing(t *testing.T) {
	m := newManager(t, NewMemStore())
	l, err := m.Acquire(t.Context(), "k", nil)
	require.NoError(t, err)
	fence := l.Fence()
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		if l.Check() != nil || fence() != nil {
			panic("lost")
		}
	}))
}

func TestTheTermsOfASessionAreForgottenWithItsRecords(t *testing.T) {
	s := NewMemStore()
	for i := range 100 {
		var recs []Record
		for k := range 3 {
			r, err := s.Swap(t.Context(), Record{}, Record{Key: fmt.Sprint(i, "/", k), Session: fmt.Sprint("session/", i), Owner: fmt.Sprint(k % 2)}, true)
			require.NoError(t, err)
			recs = append(recs, r)
		}
		for _, r := range recs {
			require.NoError(t, s.Delete(t.Context(), r))
		}
	}
	assert.Empty(t, s.records)
	assert.LessOrEqual(t, len(s.terms), 1)
	_, err := s.Swap(t.Context(), Record{}, Record{Key: "k"}, false)
	require.ErrorContains(t, err, "without a new token")
}
