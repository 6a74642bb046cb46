package lease

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASweepFreesOnlyWhatIsProvenFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		dead, alive, m := newManager(t, store), newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		d, err := dead.Acquire(ctx, "p/dead", nil)
		require.NoError(t, err)
		_, err = dead.Acquire(ctx, "q/dead", nil)
		require.NoError(t, err)
		a, err := alive.Acquire(ctx, "p/alive", nil)
		require.NoError(t, err)
		own, err := m.Acquire(ctx, "p/own", nil)
		require.NoError(t, err)
		_, err = mem.Swap(ctx, Record{}, Record{Key: "p/orphan", Session: "session/gone", TTL: time.Hour}, true)
		require.NoError(t, err)
		store.set(down, nil)

		freed, err := m.Sweep(ctx, "p/")
		require.NoError(t, err)
		require.Len(t, freed, 1, "one sighting proves nothing but that a session is gone")
		require.Equal(t, "p/orphan", freed[0].Key)
		time.Sleep(m.config.TTL + m.config.Margin - 1)
		freed, err = m.Sweep(ctx, "p/")
		require.NoError(t, err)
		require.Empty(t, freed)
		time.Sleep(time.Nanosecond)
		freed, err = m.Sweep(ctx, "p/")
		require.NoError(t, err)
		require.Len(t, freed, 1)
		require.Equal(t, d.Token(), freed[0].Token)
		require.NoError(t, a.Check())
		require.NoError(t, own.Check())
		q, err := mem.Load(ctx, "q/dead")
		require.NoError(t, err)
		require.False(t, q.Zero(), "not under the prefix")
		freed, err = m.Sweep(ctx, "")
		require.NoError(t, err)
		require.Len(t, freed, 1)
		sessions, err := mem.List(ctx, sessionPrefix)
		require.NoError(t, err)
		require.Len(t, sessions, 2, "the dead one's is gone")
	})
}

func TestAReaperThatReadExpiredDoesNotKillWhatIsRenewedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		reaper := newFaulty(mem)
		m := newManager(t, reaper)
		ctx := t.Context()
		srec, err := mem.Swap(ctx, Record{}, Record{Key: "session/x", TTL: time.Minute}, true)
		require.NoError(t, err)
		_, err = mem.Swap(ctx, Record{}, Record{Key: "k", Session: "session/x", TTL: time.Minute}, true)
		require.NoError(t, err)
		_, err = m.Sweep(ctx, "")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		// The holder was stopped; it renews between the look and the kill.
		reaper.set(on("delete", isSession, func(ctx context.Context) error {
			srec, err = mem.Swap(ctx, srec, srec, false)
			return err
		}), nil)
		freed, err := m.Sweep(ctx, "")
		require.NoError(t, err)
		require.Empty(t, freed)
		_, err = m.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld)
		reaper.set(nil, nil)
		freed, err = m.Sweep(ctx, "")
		require.NoError(t, err)
		require.Empty(t, freed, "its wait starts anew")
	})
}

func TestAListingErrorIsNotAnEmptyList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		other, m := newManager(t, mem), newManager(t, store)
		_, err := other.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		for _, failing := range []string{"", sessionPrefix} { // one list is right, the other fails
			store.set(on("list", func(p string) bool { return p == failing }, fails), nil)
			freed, err := m.Sweep(t.Context(), "")
			require.ErrorIs(t, err, errDown)
			require.Empty(t, freed)
			_, err = m.Inspect(t.Context(), "")
			require.ErrorIs(t, err, errDown)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Hour)
		defer cancel()
		err = m.Missing(ctx, "", time.Minute, func(h Holding) { t.Error("told of", h) })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		rec, err := mem.Load(t.Context(), "k")
		require.NoError(t, err)
		require.False(t, rec.Zero())
	})
}

func TestInspectTellsWhoHoldsAndWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, mem, func(c *Config) { c.Owner = "TestUpgrade" })
		other := newManager(t, store, func(c *Config) { c.Owner = "TestBoot" })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := m.Acquire(ctx, "a", &Options{Note: "the upgrade"})
		require.NoError(t, err)
		_, err = other.Acquire(ctx, "b", nil)
		require.NoError(t, err)
		_, err = other.Acquire(ctx, "c", &Options{Term: time.Hour})
		require.NoError(t, err)
		_, err = mem.Swap(ctx, Record{}, Record{Key: "d", Session: "session/gone", Since: time.Now().Add(time.Hour)}, true)
		require.NoError(t, err)
		store.set(down, nil)
		for i := range 6 {
			go func() { _, _ = m.Acquire(ctx, "a", &Options{Note: fmt.Sprint("Test", i), Priority: i % 2}) }()
			time.Sleep(time.Second)
		}
		list, err := m.Inspect(ctx, "")
		require.NoError(t, err)
		var lines []string
		for _, h := range list {
			lines = append(lines, strings.NewReplacer(m.owner, "TestUpgrade on h (pid 1)", other.owner, "TestBoot on h (pid 1)").Replace(h.String()))
		}
		assert.Equal(t, []string{
			"a: held by TestUpgrade on h (pid 1) for the upgrade since 6s, token 2, here; 6 waiting: Test1 5s (priority 1), Test3 3s (priority 1), Test5 1s (priority 1), Test0 6s, ...",
			"b: held by TestBoot on h (pid 1) since 6s, token 4",
			"c: held by TestBoot on h (pid 1) since 6s, token 5",
			"d: held by somebody without a name since 2000-01-01T01:00:00Z, token 6, orphaned: its session is gone",
		}, lines)
		time.Sleep(30 * time.Second)
		list, err = m.Inspect(ctx, "b")
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, 30*time.Second, list[0].Seen)
		assert.Contains(t, list[0].String(), "no sign of life for 30s")
		store.set(nil, nil)
		cancel()
	})
}

func TestAMissingHolderIsToldOnceToAllAndAgainAfterItCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		m := newManager(t, mem)
		ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		srec, err := mem.Swap(ctx, Record{}, Record{Key: "session/x", Owner: "lab", TTL: time.Minute}, true)
		require.NoError(t, err)
		_, err = mem.Swap(ctx, Record{}, Record{Key: "k", Session: "session/x", Owner: "lab", TTL: time.Minute}, true)
		require.NoError(t, err)
		_, err = m.Acquire(ctx, "mine", nil)
		require.NoError(t, err)
		_, err = m.Acquire(ctx, "term", &Options{Term: 100 * time.Hour})
		require.NoError(t, err)
		var mu sync.Mutex
		var one, two []string
		told := func() ([]string, []string) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(one), slices.Clone(two)
		}
		done := make(chan error)
		go func() {
			done <- m.Missing(ctx, "", 0,
				func(h Holding) {
					mu.Lock()
					defer mu.Unlock()
					one = append(one, h.Key)
					assert.GreaterOrEqual(t, h.Seen, time.Hour)
				},
				func(h Holding) {
					mu.Lock()
					defer mu.Unlock()
					two = append(two, h.Key)
				})
		}()
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		a, b := told()
		require.Empty(t, a)
		require.Empty(t, b)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		a, b = told()
		require.Equal(t, []string{"k"}, a)
		require.Equal(t, a, b)
		_, err = mem.Swap(ctx, srec, srec, false) // a sign of life
		require.NoError(t, err)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		a, b = told()
		require.Equal(t, []string{"k", "k"}, a)
		require.Equal(t, a, b)
		require.ErrorIs(t, <-done, context.DeadlineExceeded)
		go func() { done <- m.Missing(context.Background(), "", 0) }()
		synctest.Wait()
		_ = m.Close(context.Background())
		require.ErrorIs(t, <-done, ErrClosed)
	})
}

func TestStoreIDIsTheStores(t *testing.T) {
	mem := NewMemStore()
	store := newFaulty(mem)
	m := newManager(t, store)
	id, err := m.StoreID(t.Context())
	require.NoError(t, err)
	want, err := mem.ID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, want, id)
	other, err := NewMemStore().ID(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, want, other)
	store.set(down, nil)
	_, err = m.StoreID(t.Context())
	require.ErrorIs(t, err, errDown)
}

// slowStore is any Store but a MemStore: one that may block.
type slowStore struct{ Store }

func TestASweepFreesManyOrphansAndTellsThemInOrder(t *testing.T) {
	mem := NewMemStore()
	m, err := New(Config{Store: slowStore{mem}, NoLock: true})
	require.NoError(t, err)
	defer m.Close(t.Context())
	mine, err := m.Acquire(t.Context(), "slot/mine", nil)
	require.NoError(t, err)
	for n := range 500 {
		_, err := mem.Swap(t.Context(), Record{}, Record{Key: fmt.Sprintf("slot/%03d", n), Session: fmt.Sprintf("session/gone-%d", n)}, true)
		require.NoError(t, err)
	}
	freed, err := m.Sweep(t.Context(), "slot/")
	require.NoError(t, err)
	require.Len(t, freed, 500)
	for n, rec := range freed {
		require.Equal(t, fmt.Sprintf("slot/%03d", n), rec.Key)
	}
	left, err := mem.List(t.Context(), "slot/")
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, mine.Check())
	require.NoError(t, mine.Release(t.Context()))
}
