package machines

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// Options say what machines are made of. The zero value is local machines.
type Options struct {
	// Driver is local or libvirt; empty is local.
	Driver string
	// URI is the hypervisor of libvirt; empty is an embedded one under Dir.
	URI string
	// Dir is the folder for the test guest and the embedded hypervisor; empty is a
	// folder of this user's under os.TempDir.
	Dir string
}

// Flags is what is used of a *flag.FlagSet.
type Flags interface {
	StringVar(p *string, name, value, usage string)
}

// Register adds -driver and -uri to the flags.
func (o *Options) Register(flags Flags) {
	flags.StringVar(&o.Driver, "driver", o.Driver, "what machines are made of: local or libvirt (default local)")
	flags.StringVar(&o.URI, "uri", o.URI, "the hypervisor of -driver libvirt (default an embedded one)")
}

// Open gives the driver, which the caller closes, and what a machine of it is made
// of: nothing on local, the test guest on libvirt.
func (o Options) Open(ctx context.Context) (vm.Driver, vm.Spec, error) {
	var spec vm.Spec
	if o.Driver == "libvirt" {
		guest, err := TestGuest(ctx, filepath.Join(o.dir(), "guest"))
		if err != nil {
			return nil, vm.Spec{}, err
		}
		spec = vm.Spec{Kernel: guest.Kernel, Initrd: guest.Initrd, Cmdline: guest.Cmdline, Memory: 192 << 20}
	}
	driver, err := o.Connect(ctx)
	return driver, spec, err
}

// Connect gives the driver alone, for those who make no machines. The caller closes
// it.
func (o Options) Connect(ctx context.Context) (vm.Driver, error) {
	switch o.Driver {
	case "", "local":
		driver, err := local.Open(local.Config{})
		if err != nil { // a nil *Driver is no nil vm.Driver
			return nil, err
		}
		return driver, nil
	case "libvirt":
		uri := o.URI
		if uri == "" {
			uri = "qemu:///embed?root=" + filepath.Join(o.dir(), "libvirt")
		}
		driver, err := libvirt.Open(ctx, libvirt.Config{URI: uri})
		if err != nil {
			return nil, err
		}
		return driver, nil
	default:
		return nil, fmt.Errorf("-driver is %q, want local or libvirt", o.Driver)
	}
}

func (o Options) dir() string {
	if o.Dir != "" {
		return o.Dir
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-examples-%d", os.Getuid()))
}
