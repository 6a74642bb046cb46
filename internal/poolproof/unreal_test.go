//go:build !cgo || !(libvirt || libvirt_dlopen)

package poolproof

import (
	"context"
	"errors"

	"github.com/bullpen-vm/bullpen/vm"
)

func driveReal(context.Context, []string) (vm.Driver, vm.Spec, error) {
	return nil, vm.Spec{}, errors.ErrUnsupported
}
