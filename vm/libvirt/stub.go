//go:build !cgo || !(libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"errors"
	"fmt"
)

// Open says how to build a program that can: this one was built without libvirt.
func Open(_ context.Context, c Config) (*Driver, error) {
	if _, _, err := c.withDefaults(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("libvirt: this program was built without libvirt; build it with cgo and -tags libvirt_dlopen (needs no headers) or -tags libvirt (needs libvirt-dev): %w", errors.ErrUnsupported)
}
