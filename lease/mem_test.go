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
	assert.LessOrEqual(t, len(s.records), len(s.resting))
	all, err := s.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, all)
	assert.LessOrEqual(t, len(s.terms), 1)
	_, err = s.Swap(t.Context(), Record{}, Record{Key: "k"}, false)
	require.ErrorContains(t, err, "without a new token")
}

// Records that were deleted rest for a while where they were: nobody sees them, the
// next one of their key has another token, and there are never many.
func TestADeletedRecordThatRestsIsNone(t *testing.T) {
	ctx := t.Context()
	s := NewMemStore()
	m := newManager(t, s)
	var last uint64
	for n := range 5 * len(s.resting) {
		keys := []string{fmt.Sprint(n), fmt.Sprint(n / 2), "again"}
		for i, key := range keys {
			l, err := m.TryAcquire(ctx, key, &Options{Note: "a note"})
			require.NoError(t, err)
			require.Greater(t, l.Token(), last)
			last = l.Token()
			require.NoError(t, l.Release(ctx))
			got, err := s.Load(ctx, key)
			require.NoError(t, err)
			require.Zero(t, got)
			require.NoError(t, s.Delete(ctx, Record{Key: key, Token: last}), "nothing is there")
			_, err = s.Swap(ctx, Record{Key: key, Token: last}, Record{Key: key}, false)
			require.ErrorIs(t, err, ErrConflict)
			_, err = s.Swap(ctx, Record{}, Record{Key: key}, false)
			require.ErrorContains(t, err, "without a new token")
			var rec Record
			if i%2 == 0 {
				rec, err = s.Claim(ctx, []string{key}, Record{Note: "another"})
			} else {
				rec, err = s.Swap(ctx, Record{}, Record{Key: key, Note: "another"}, true)
			}
			require.NoError(t, err)
			require.Greater(t, rec.Token, last)
			last = rec.Token
			_, err = m.TryAcquire(ctx, key, nil)
			require.ErrorIs(t, err, ErrHeld)
			require.NoError(t, l.Release(ctx), "it does not touch another's record")
			got, err = s.Load(ctx, key)
			require.NoError(t, err)
			require.Equal(t, "another", got.Note)
			require.NoError(t, s.Delete(ctx, rec))
		}
		all, err := s.List(ctx, "")
		require.NoError(t, err)
		require.Len(t, all, 1, "the session's")
		require.LessOrEqual(t, len(s.records), len(s.resting)+1)
	}
}

func TestARecordThatRestedIsHeldLikeOthers(t *testing.T) {
	ctx := t.Context()
	s := NewMemStore()
	m := newManager(t, s)
	var l *Lease
	for range 2 { // the second time it has rested
		if l != nil {
			require.NoError(t, l.Release(ctx))
		}
		var err error
		l, err = m.Acquire(ctx, "held", nil)
		require.NoError(t, err)
	}
	for n := range 3 * len(s.resting) {
		other, err := m.Acquire(ctx, fmt.Sprint(n), nil)
		require.NoError(t, err)
		require.NoError(t, other.Release(ctx))
		got, err := s.Load(ctx, "held")
		require.NoError(t, err)
		require.Equal(t, l.Token(), got.Token, "after %d others have rested", n+1)
	}
}

// A lease that was granted in memory has a record like others: it is raised, taken
// away and released as one.
func TestALeaseGrantedInMemoryIsReleasedByItsToken(t *testing.T) {
	ctx := t.Context()
	s := NewMemStore()
	m := newManager(t, s)
	l, err := m.Acquire(ctx, "k", nil)
	require.NoError(t, err)
	_, err = l.Raise(ctx)
	require.NoError(t, err)
	require.NoError(t, l.Release(ctx))
	_, err = m.TryAcquire(ctx, "k", nil)
	require.NoError(t, err)

	l, err = m.Acquire(ctx, "taken", nil)
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, Record{Key: "taken", Token: l.Token()}))
	other, err := s.Swap(ctx, Record{}, Record{Key: "taken"}, true)
	require.NoError(t, err)
	require.NoError(t, l.Release(ctx))
	got, err := s.Load(ctx, "taken")
	require.NoError(t, err)
	require.Equal(t, other.Token, got.Token, "its successor is left alone")
}
