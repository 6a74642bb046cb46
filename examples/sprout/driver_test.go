package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// mute is a driver whose machines do not tell their addresses.
type mute struct{ vm.Driver }

func (d mute) Create(ctx context.Context, s vm.Spec) (vm.Machine, error) {
	m, err := d.Driver.Create(ctx, s)
	return muteMachine{m}, err
}

type muteMachine struct{ vm.Machine }

// Addresses is what a hypervisor says that cannot tell.
func (muteMachine) Addresses(context.Context) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}

// Unwrap gives all other capabilities.
func (m muteMachine) Unwrap() any { return m.Machine }

// foreign makes machines that others than this program own. They are off: who starts
// a local machine has its channel.
func (p *project) foreign(n int) (names []string) {
	p.t.Helper()
	driver, err := local.Open(local.Config{Root: p.conf.Hosts[0].Dir})
	require.NoError(p.t, err)
	p.t.Cleanup(func() { assert.NoError(p.t, driver.Close()) })
	for i := range n {
		name := fmt.Sprintf("static-%d", i)
		m, err := driver.Create(p.t.Context(), vm.Spec{Name: name, Owner: vm.Owner{Incarnation: name}, JobDisks: []int64{1 << 20}})
		require.NoError(p.t, err)
		p.t.Cleanup(func() { assert.NoError(p.t, m.Destroy(context.Background())) })
		names = append(names, name)
	}
	return names
}
