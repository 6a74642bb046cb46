package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/bullpen-vm/bullpen/vm"
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
