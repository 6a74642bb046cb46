package daemon

import (
	"context"
	"net"
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

func TestAServerThatCrashedComesBackAtItsAddress(t *testing.T) {
	for _, row := range []struct {
		thing string
		start func(context.Context) (*Server, error)
	}{{"postgres", PostgreSQL}, {"etcd", Etcd}} {
		t.Run(row.thing, func(t *testing.T) {
			need.Thing(t, row.thing)
			s, err := row.start(t.Context())
			require.NoError(t, err)
			defer s.Close()
			host := s.Address
			if u, err := url.Parse(s.Address); err == nil && u.Host != "" {
				host = u.Host
			}
			reach := func() error {
				c, err := net.Dial("tcp", host)
				if err == nil {
					c.Close()
				}
				return err
			}
			require.NoError(t, reach())
			require.ErrorContains(t, s.Up(t.Context()), "it runs already")
			s.Crash()
			require.Error(t, reach())
			require.NoError(t, s.Up(t.Context()))
			require.NoError(t, reach())
			require.NoError(t, s.Close())
			require.Error(t, reach())
			require.NoDirExists(t, s.dir)
			require.NoError(t, s.Close())
		})
	}
}

func TestAServerThatDoesNotStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("BULLPEN_ETCD", "no-such-program")
	_, err := Etcd(t.Context())
	require.ErrorContains(t, err, "no-such-program")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
