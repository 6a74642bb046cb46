package proof

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/daemon"
	"github.com/bullpen-vm/bullpen/internal/need"
)

// daemons are started once, when a test first wants them.
type daemons struct {
	once sync.Once
	s    *daemon.Server
	err  error
}

var postgresServer, etcdServer daemons

func endDaemons() {
	for _, d := range []*daemons{&postgresServer, &etcdServer} {
		if d.s != nil {
			_ = d.s.Close()
		}
	}
}

func (d *daemons) get(t testing.TB, thing string, start func(context.Context) (*daemon.Server, error)) *daemon.Server {
	t.Helper()
	need.Thing(t, thing)
	d.once.Do(func() { d.s, d.err = start(context.Background()) })
	require.NoError(t, d.err)
	return d.s
}

func thePostgres(t testing.TB) *daemon.Server {
	return postgresServer.get(t, "postgres", daemon.PostgreSQL)
}
func theEtcd(t testing.TB) *daemon.Server { return etcdServer.get(t, "etcd", daemon.Etcd) }
