package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// opened is a hypervisor that was opened: the caller closes the driver.
type opened struct {
	hostConfig
	driver vm.Driver
	spec   vm.Spec // of a machine whose worker does not say what it is booted from
}

// openHost opens a hypervisor. With look alone nothing is made for machines to be
// booted from.
func openHost(ctx context.Context, h hostConfig, look bool, log *slog.Logger) (opened, error) {
	o := opened{hostConfig: h}
	var err error
	switch {
	case h.Driver == "local":
		o.driver, err = local.Open(local.Config{Root: h.Dir, Logger: log})
	case look:
		o.driver, err = libvirt.Open(ctx, libvirt.Config{URI: h.uri(), Logger: log})
	default:
		o.driver, o.spec, err = machines.Options{Driver: h.Driver, URI: h.uri(), Dir: h.Dir}.Open(ctx)
	}
	if err != nil {
		return o, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return o, nil
}

// uri is that of libvirt; one that is not given is an embedded one.
func (h hostConfig) uri() string {
	if h.URI != "" || h.Dir == "" {
		return h.URI
	}
	return "qemu:///embed?root=" + filepath.Join(h.Dir, "libvirt")
}

// spec is what a latent worker is booted from.
func (w workerConfig) spec(standard vm.Spec) vm.Spec {
	s := standard
	m := w.Machine
	if m.Kernel != "" || len(m.Images) > 0 {
		s = vm.Spec{Kernel: m.Kernel, Initrd: m.Initrd, Cmdline: m.Cmdline}
	}
	for _, image := range m.Images {
		s.Disks = append(s.Disks, vm.Disk{Format: "qcow2", Backing: image, BackingFormat: imageFormat(image)})
	}
	if m.Memory > 0 {
		s.Memory = m.Memory << 20
	}
	if m.CPUs > 0 {
		s.CPUs = m.CPUs
	}
	if m.Network != "" {
		s.Network = m.Network
	}
	if w.MaxBuilds > 1 { // each build of those that run at once has a disk of its own
		for range w.MaxBuilds {
			s.JobDisks = append(s.JobDisks, pool.DefaultJobDisk)
		}
	}
	return s
}

func imageFormat(path string) string {
	if filepath.Ext(path) == ".qcow2" {
		return "qcow2"
	}
	return "raw"
}
