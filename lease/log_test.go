package lease

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// unlocked is a log that wants to be written without the Manager's lock.
type unlocked struct {
	slog.Handler
	m    **Manager
	told *[]string
}

func (u unlocked) Enabled(context.Context, slog.Level) bool { return true }

func (u unlocked) Handle(_ context.Context, r slog.Record) error {
	if !(*u.m).mu.TryLock() {
		return errors.New("locked")
	}
	(*u.m).mu.Unlock()
	*u.told = append(*u.told, r.Message)
	return nil
}

func TestALossIsLoggedWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m *Manager
		var told []string
		s := NewMemStore()
		m = newManager(t, s, func(c *Config) { c.Logger = slog.New(unlocked{slog.DiscardHandler, &m, &told}) })
		l, err := m.Acquire(t.Context(), "k", nil)
		require.NoError(t, err)
		require.NoError(t, s.Delete(t.Context(), Record{Key: "k", Token: l.Token()}))
		_, err = l.Raise(t.Context())
		require.ErrorIs(t, err, ErrLost)
		require.Equal(t, []string{"lease: lost"}, told)
		rec, err := s.Load(t.Context(), m.SessionKey())
		require.NoError(t, err)
		require.NoError(t, s.Delete(t.Context(), rec))
		time.Sleep(m.config.TTL)
		synctest.Wait()
		require.Equal(t, []string{"lease: lost", "lease: session lost"}, told)
	})
}
