package pool

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
)

// idleDriver keeps machines that do nothing and are always clean, so that what
// is measured is the pool.
type idleDriver struct {
	mu       sync.Mutex
	machines map[vm.ID]*idleMachine
}

func (d *idleDriver) HostID() string { return "idle" }
func (d *idleDriver) Close() error   { return nil }

func (d *idleDriver) Create(_ context.Context, s vm.Spec) (vm.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := &idleMachine{driver: d, info: vm.Info{ID: vm.ID(s.Name), Template: s.Template, State: vm.StateRunning, Owner: s.Owner}}
	d.machines[m.info.ID] = m
	return m, nil
}

func (d *idleDriver) Open(_ context.Context, id vm.ID) (vm.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.machines[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%s: %w", id, vm.ErrNotFound)
}

func (d *idleDriver) List(context.Context) ([]vm.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []vm.Info
	for _, m := range d.machines {
		all = append(all, m.info)
	}
	return all, nil
}

type idleMachine struct {
	driver *idleDriver
	info   vm.Info
}

func (m *idleMachine) ID() vm.ID                                    { return m.info.ID }
func (m *idleMachine) Info(context.Context) (vm.Info, error)        { return m.info, nil }
func (m *idleMachine) Start(context.Context) error                  { return nil }
func (m *idleMachine) Stop(context.Context) error                   { return nil }
func (m *idleMachine) Kill(context.Context) error                   { return nil }
func (m *idleMachine) Snapshot(context.Context, string) error       { return nil }
func (m *idleMachine) Revert(context.Context, string) error         { return nil }
func (m *idleMachine) Snapshots(context.Context) ([]string, error)  { return []string{"clean"}, nil }
func (m *idleMachine) DeleteSnapshot(context.Context, string) error { return nil }

func (m *idleMachine) Destroy(context.Context) error {
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	delete(m.driver.machines, m.info.ID)
	return nil
}

// idlePool is a pool whose machines need nothing, warm. Call end.
func idlePool(tb testing.TB) (p *Pool, once, end func()) {
	tb.Helper()
	m, err := lease.New(lease.Config{Store: lease.NewMemStore(), NoLock: true})
	require.NoError(tb, err)
	const slots = 8
	p, err = New(Config{
		Leases: m,
		Hosts:  []Host{{Name: "h", Driver: &idleDriver{machines: map[vm.ID]*idleMachine{}}, Slots: slots}},
		Templates: []Template{{
			Name: "t", Ready: slots, Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert, vm.RungCold},
			Clean: func(context.Context, vm.Machine) error { return nil },
		}},
	})
	require.NoError(tb, err)
	ctx := context.Background()
	once = func() {
		g, err := p.Acquire(ctx, Want{Template: "t"})
		if err != nil {
			tb.Fatal(err)
		}
		if err := g.Release(ctx, nil); err != nil {
			tb.Fatal(err)
		}
	}
	for range 1000 {
		once()
	}
	return p, once, func() {
		s := p.Stats()
		require.NoError(tb, p.Close(ctx))
		require.NoError(tb, m.Close(ctx))
		require.Zero(tb, s.Destroyed+s.Failures, "machines were not renewed in place")
	}
}

// Acquire and Release of machines that need nothing, the renewal behind them
// included.
func BenchmarkWhole(b *testing.B) {
	_, once, end := idlePool(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
	end()
}

// A guard against growth, not a bar: those are measured elsewhere.
func TestAHandOutIsCheap(t *testing.T) {
	_, once, end := idlePool(t)
	defer end()
	require.LessOrEqual(t, testing.AllocsPerRun(2000, once), 16.0, "allocations of Acquire, Release and the renewal behind them")
}
