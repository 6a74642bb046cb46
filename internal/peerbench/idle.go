package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/bullpen-vm/bullpen/vm"
)

// idleDriver keeps machines that do nothing and are always clean, so that what is
// measured is the pool.
type idleDriver struct {
	mu       sync.Mutex
	machines map[vm.ID]*idleMachine
}

func newIdleDriver() *idleDriver { return &idleDriver{machines: make(map[vm.ID]*idleMachine)} }

func (d *idleDriver) HostID() string { return "idle" }

func (d *idleDriver) Create(_ context.Context, s vm.Spec) (vm.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := vm.ID(s.Name)
	m := &idleMachine{driver: d, info: vm.Info{ID: id, Template: s.Template, State: vm.StateDefined, Owner: s.Owner}}
	d.machines[id] = m
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
	for _, id := range slices.Sorted(maps.Keys(d.machines)) {
		all = append(all, d.machines[id].info)
	}
	return all, nil
}

func (d *idleDriver) Close() error { return nil }

type idleMachine struct {
	driver *idleDriver
	info   vm.Info // under the driver's lock
}

func (m *idleMachine) ID() vm.ID { return m.info.ID }

func (m *idleMachine) Info(context.Context) (vm.Info, error) {
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	return m.info, nil
}

func (m *idleMachine) become(s vm.State) error {
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	m.info.State = s
	return nil
}

func (m *idleMachine) Start(context.Context) error { return m.become(vm.StateRunning) }
func (m *idleMachine) Stop(context.Context) error  { return m.become(vm.StateStopped) }
func (m *idleMachine) Kill(context.Context) error  { return m.become(vm.StateStopped) }

func (m *idleMachine) Destroy(context.Context) error {
	m.driver.mu.Lock()
	defer m.driver.mu.Unlock()
	delete(m.driver.machines, m.info.ID)
	return nil
}

func (m *idleMachine) Snapshot(context.Context, string) error       { return nil }
func (m *idleMachine) Revert(context.Context, string) error         { return nil }
func (m *idleMachine) Snapshots(context.Context) ([]string, error)  { return []string{"clean"}, nil }
func (m *idleMachine) DeleteSnapshot(context.Context, string) error { return nil }
