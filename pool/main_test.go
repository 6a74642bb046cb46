package pool

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestMain(m *testing.M) {
	local.Main()
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

var errTest = errors.New("on purpose")

// world is a pool on fake hypervisors, inside a bubble.
type world struct {
	*testing.T
	*Pool
	hyper   []*fake.Hypervisor
	drivers []*fake.Driver
	store   *lease.MemStore
	leases  *lease.Manager
	closed  bool
}

// hypervisor makes a fake host.
func hypervisor(id string, faults ...fake.Fault) *fake.Hypervisor {
	return fake.NewHypervisor(fake.Config{HostID: id, Faults: faults, Times: fake.Times{Boot: time.Second}})
}

// manager makes a lease manager without files.
func manager(t *testing.T, store lease.Store) *lease.Manager {
	m, err := lease.New(lease.Config{Store: store, NoLock: true, Owner: t.Name()})
	require.NoError(t, err)
	return m
}

// start makes a pool on the hypervisors; hosts are filled in from them.
func start(t *testing.T, c Config, hyper ...*fake.Hypervisor) *world {
	t.Helper()
	w := &world{T: t, hyper: hyper}
	if c.Leases == nil {
		w.store = lease.NewMemStore()
		w.leases = manager(t, w.store)
		c.Leases = w.leases
	}
	for i, h := range hyper {
		d := h.Driver()
		w.drivers = append(w.drivers, d)
		if i < len(c.Hosts) {
			c.Hosts[i].Driver = d
		} else {
			c.Hosts = append(c.Hosts, Host{Driver: d, Slots: 2})
		}
	}
	p, err := New(c)
	require.NoError(t, err)
	w.Pool = p
	return w
}

// finish closes everything and wants nothing left.
func (w *world) finish() {
	w.Helper()
	w.shut()
	for _, h := range w.hyper {
		require.Zero(w, h.Count(), "machines are left")
		require.NoError(w, h.Close())
	}
	require.Zero(w, w.Stats().Machines)
	require.Empty(w, w.live, "incarnations are left")
}

func (w *world) shut() {
	w.Helper()
	if w.closed {
		return
	}
	w.closed = true
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	require.NoError(w, w.Close(ctx))
	if w.leases != nil {
		rs, err := w.store.List(ctx, "host/")
		require.NoError(w, err)
		require.Empty(w, rs, "leases are left")
		require.NoError(w, w.leases.Close(ctx))
	}
	for _, d := range w.drivers {
		require.NoError(w, d.Close())
	}
}

func (w *world) acquire(want Want) *Guest {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Hour)
	defer cancel()
	g, err := w.Acquire(ctx, want)
	require.NoError(w, err)
	return g
}

func (w *world) release(g *Guest) {
	w.Helper()
	require.NoError(w, g.Release(w.Context(), nil))
}

func one(name string) []Template { return []Template{{Name: name}} }

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

// snapshotOnce is a probe that leaves the snapshot "clean" behind.
func snapshotOnce(ctx context.Context, m vm.Machine) error {
	s, ok := vm.As[vm.Snapshotter](m)
	if !ok {
		return errors.New("no snapshots")
	}
	if err := s.Snapshot(ctx, "clean"); err != nil && !errors.Is(err, vm.ErrExists) {
		return err
	}
	return nil
}

// noProof takes every machine for clean.
func noProof(context.Context, vm.Machine) error { return nil }
