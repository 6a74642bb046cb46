package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/libvirt"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// made is what machines are made of.
type made struct {
	driver vm.Driver
	spec   vm.Spec
	// path is the PATH of the tests; empty: the machine's own. The go tool must
	// not be in it.
	path string
	// parent is what machines are restored from; empty: they are booted.
	parent string
}

const (
	jobDisk = 512 << 20 // bytes; sparse
	inputs  = 1         // places: binary and files of one package
)

// open is the only place that knows which driver it is.
func open(ctx context.Context, o options) (made, error) {
	m := made{spec: vm.Spec{CPUs: 1, Memory: o.memory << 20, JobDisks: []int64{jobDisk}, Inputs: inputs}}
	var err error
	switch o.driver {
	case "local":
		m.path = withoutGo(os.Getenv("PATH"))
		m.driver, err = local.Open(local.Config{})
	case "libvirt":
		guest, gerr := machines.TestGuest(ctx, filepath.Join(o.cache, "guest"))
		if gerr != nil {
			return m, gerr
		}
		m.spec.Kernel, m.spec.Initrd, m.spec.Cmdline = guest.Kernel, guest.Initrd, guest.Cmdline
		if m.driver, err = libvirt.Open(ctx, libvirt.Config{URI: o.uri}); err != nil {
			return m, err
		}
		if err = m.makeParent(ctx, o.cache); err != nil {
			err = errors.Join(err, m.driver.Close())
		}
	default:
		err = fmt.Errorf("-driver is %q, want local or libvirt", o.driver)
	}
	return m, err
}

// withoutGo leaves out the folders that have a go command, for on the local
// driver machines see this computer's files.
func withoutGo(path string) string {
	var kept []string
	for _, dir := range filepath.SplitList(path) {
		if _, err := os.Stat(filepath.Join(dir, "go")); err != nil && filepath.IsAbs(dir) {
			kept = append(kept, dir)
		}
	}
	if len(kept) == 0 {
		return "/bullpen-no-path" // an empty PATH would mean the machine's own
	}
	return strings.Join(kept, string(filepath.ListSeparator))
}
