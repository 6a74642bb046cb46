package main

import (
	"fmt"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// open is the only place that knows which driver it is: it gives the driver, and
// what a machine of it is made of.
func open(name string) (vm.Driver, vm.Spec, error) {
	switch name {
	case "local":
		driver, err := local.Open(local.Config{})
		return driver, vm.Spec{}, err
	default:
		return nil, vm.Spec{}, fmt.Errorf("-driver is %q, want local", name)
	}
}
