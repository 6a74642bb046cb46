package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFixedTermEndsByItselfAndIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", &Options{Term: time.Hour, MostTerm: 2 * time.Hour, Note: "hold"})
		require.NoError(t, err)
		require.Empty(t, a.SessionKey(), "it needs none")
		time.Sleep(time.Hour - 1)
		require.NoError(t, l.Check())
		left, err := l.Extend(ctx, 30*time.Minute)
		require.NoError(t, err)
		require.Equal(t, 30*time.Minute, left)
		time.Sleep(20 * time.Minute)
		left, err = l.Extend(ctx, 2*time.Hour)
		require.NoError(t, err)
		require.Equal(t, 40*time.Minute+1, left, "not beyond the longest term")
		time.Sleep(left - 1)
		require.NoError(t, l.Check())
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, l.Check(), ErrLost)
		require.ErrorContains(t, l.Check(), "fixed term of 1h0m0s is over")
		<-l.Done()
		_, err = l.Extend(ctx, time.Hour)
		require.Error(t, err)
		n, err := b.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		require.Greater(t, n.Token(), l.Token())
		_, err = n.Extend(ctx, time.Hour)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

func TestAFixedTermOutlivesItsManagerAndIsHandedOnByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		require.NoError(t, l.Fix(ctx, 8*time.Hour))
		require.NoError(t, l.Check())
		token := l.Token()
		require.NoError(t, a.Close(ctx))
		require.ErrorIs(t, l.Check(), ErrClosed)
		time.Sleep(time.Hour)
		_, err = b.TryAcquire(ctx, "k", nil)
		require.ErrorIs(t, err, ErrHeld)
		_, err = b.Adopt(ctx, "k", token+1)
		require.ErrorIs(t, err, ErrConflict)
		n, err := b.Adopt(ctx, "k", token)
		require.NoError(t, err)
		require.Greater(t, n.Token(), token)
		time.Sleep(100 * time.Hour)
		require.NoError(t, n.Check(), "it is renewed again")
	})
}

func TestAFixedTermIsFreeForOthersATermAfterTheySawIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		l, err := a.Acquire(t.Context(), "k", &Options{Term: time.Hour})
		require.NoError(t, err)
		require.NoError(t, a.Close(t.Context()))
		began := time.Now()
		n, err := b.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		require.Equal(t, time.Hour+b.config.Margin, time.Since(began))
		require.Greater(t, n.Token(), l.Token())
	})
}

func TestWhatAManagerLostItAdoptsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		m := newManager(t, store)
		ctx := t.Context()
		l, err := m.Acquire(ctx, "k", &Options{Note: "n"})
		require.NoError(t, err)
		_, err = m.Adopt(ctx, "k", l.Token())
		require.ErrorIs(t, err, ErrHeld)
		store.set(down, nil)
		time.Sleep(m.config.TTL)
		require.ErrorIs(t, l.Check(), ErrLost)
		store.set(nil, nil)
		began := time.Now()
		n, err := m.Adopt(ctx, "k", l.Token())
		require.NoError(t, err)
		require.Equal(t, began, time.Now())
		require.Equal(t, "n", n.Note())
		require.NoError(t, n.Check())
		require.NoError(t, l.Release(ctx))
		require.NoError(t, n.Check())
		_, err = m.Adopt(ctx, "none", 5)
		require.ErrorIs(t, err, ErrLost)
	})
}

func TestTheLeaseOfALivingSessionIsNotAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		a, b := newManager(t, mem), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		began := time.Now()
		_, err = b.Adopt(ctx, "k", l.Token())
		require.ErrorIs(t, err, ErrHeld)
		require.Less(t, time.Since(began), a.config.TTL, "known as soon as it is seen renewed")
		require.NoError(t, l.Check())
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = b.Adopt(short, "k", l.Token())
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestTheLeaseOfADeadSessionIsAdoptedAfterTTLAndMargin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		store := newFaulty(mem)
		a, b := newManager(t, store), newManager(t, mem)
		ctx := t.Context()
		l, err := a.Acquire(ctx, "k", nil)
		require.NoError(t, err)
		store.set(down, nil)
		began := time.Now()
		n, err := b.Adopt(ctx, "k", l.Token())
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), a.config.TTL+a.config.Margin)
		require.Less(t, time.Since(began), a.config.TTL+a.config.Margin+time.Second)
		require.Greater(t, n.Token(), l.Token())
		require.ErrorIs(t, l.Check(), ErrLost)
	})
}
