package main

import (
	"context"
	"fmt"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// open is the only place that knows which driver it is: it gives the driver, and
// what a machine of it is made of.
func open(ctx context.Context, name, uri string) (vm.Driver, vm.Spec, error) {
	switch name {
	case "local":
		driver, err := local.Open(local.Config{})
		return driver, vm.Spec{}, err
	case "libvirt":
		guest, err := testGuest(ctx)
		if err != nil {
			return nil, vm.Spec{}, err
		}
		driver, err := libvirt.Open(ctx, libvirt.Config{URI: uri})
		if err != nil {
			return nil, vm.Spec{}, err
		}
		return driver, vm.Spec{Kernel: guest.Kernel, Initrd: guest.Initrd, Cmdline: guest.Cmdline, Memory: 192 << 20}, nil
	default:
		return nil, vm.Spec{}, fmt.Errorf("-driver is %q, want local or libvirt", name)
	}
}
