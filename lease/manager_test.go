package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newManager makes a Manager without files that the test closes.
func newManager(t testing.TB, store Store, edit ...func(*Config)) *Manager {
	t.Helper()
	c := Config{Store: store, Owner: t.Name(), NoLock: true}
	for _, e := range edit {
		e(&c)
	}
	m, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	return m
}

func TestAKeyIsHeldByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemStore()
		a, b := newManager(t, store), newManager(t, store)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		require.NoError(t, l.Check())
		_, err = b.TryAcquire(ctx, "k", &Options{})
		require.ErrorIs(t, err, ErrHeld)
		_, err = a.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld)
		got := make(chan *Lease)
		go func() {
			l, err := b.Acquire(ctx, "k", nil)
			assert.NoError(t, err)
			got <- l
		}()
		time.Sleep(10 * time.Minute)
		require.NoError(t, l.Check())
		old := l.Fence()
		tok, err := l.Raise(ctx)
		require.NoError(t, err)
		require.Equal(t, tok, l.Token())
		require.ErrorIs(t, old(), ErrLost)
		require.NoError(t, l.Release(ctx))
		require.NoError(t, l.Release(ctx))
		require.ErrorIs(t, l.Check(), ErrReleased)
		n := <-got
		require.Greater(t, n.Token(), tok)
		require.NoError(t, n.Release(ctx))
		require.NoError(t, a.Close(ctx))
		require.NoError(t, b.Close(ctx))
		rest, err := store.List(ctx, "")
		require.NoError(t, err)
		require.Empty(t, rest)
	})
}

func BenchmarkAcquireRelease(b *testing.B) {
	m := newManager(b, NewMemStore())
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		l, err := m.Acquire(ctx, "host/h1/slot/0", nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Release(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	m := newManager(b, NewMemStore())
	l, err := m.Acquire(b.Context(), "k", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if l.Check() != nil {
			b.Fatal("lost")
		}
	}
}
