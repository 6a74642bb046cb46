package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/examples/pyti/pypi"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// bench is all that requests are done with: the connections to the hypervisors,
// the pool of machines, the index and the caches. It may do several at once.
type bench struct {
	conf    config
	log     *slog.Logger
	drivers []vm.Driver
	pool    *pool.Pool
	state   *stateFile
	index   *pypi.Index
	images  *diskio.Cache
	python  *diskio.Image // Debian's; nil: no platform wants it
	debian  string        // its version
}

// totalLock is held by each machine where there are several hypervisors: their
// slots cannot say how many there may be on all of them.
const totalLock = "total_vms"

// openBench connects to all hypervisors and begins to make machines. Close it.
func openBench(ctx context.Context, c config, log *slog.Logger) (_ *bench, err error) {
	b := &bench{conf: c, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, dir := range []string{recipesFolder, "cache", "results"} {
		if err := os.MkdirAll(filepath.Join(c.Root, dir), 0o755); err != nil {
			return nil, fmt.Errorf("root %s: %w", c.Root, err)
		}
	}
	if b.index, err = pypi.NewIndex(pypi.Config{Location: c.Index, Cache: filepath.Join(c.Root, "cache", "distributions")}); err != nil {
		return nil, err
	}
	if b.images, err = diskio.NewCache(filepath.Join(c.Root, "cache", "images"), nil); err != nil {
		return nil, err
	}
	if err := b.pythons(ctx); err != nil {
		return nil, err
	}
	setup := pool.Config{Name: "pyti", Logger: log, Kept: -1, Run: pool.Run{Job: "pyti " + c.Root}}
	if err := b.connect(ctx, &setup); err != nil {
		return nil, err
	}
	if len(setup.Hosts) > 1 {
		setup.Locks = map[string]int{totalLock: c.Total}
		for i := range setup.Templates {
			// A warm machine would keep the lock from one on another host.
			setup.Templates[i].Locks, setup.Templates[i].Idle = []string{totalLock}, pool.IdleFor(0)
		}
	}
	if b.state, err = openState(filepath.Join(c.Root, "state"), c.Total, log); err != nil {
		return nil, err
	}
	setup.Trace = &pool.Trace{Event: b.state.event}
	if b.pool, err = pool.New(setup); err != nil {
		return nil, err
	}
	b.state.follow(b.pool)
	return b, nil
}

// pythons gets Debian's Python where a platform wants it, and finds out the versions
// that the configuration does not say: of Debian's from its files, of this
// computer's by asking it.
func (b *bench) pythons(ctx context.Context) error {
	b.conf.Platforms = slices.Clone(b.conf.Platforms)
	for i := range b.conf.Platforms {
		p := &b.conf.Platforms[i]
		version := defaultPython
		switch {
		case p.Python == "debian":
			if b.python == nil {
				image, found, err := debianPython(ctx, b.images)
				if err != nil {
					return err
				}
				b.python, b.debian = image, found
			}
			version = b.debian
			if p.PythonVersion != "" && !strings.HasPrefix(p.PythonVersion+".", version+".") {
				return fmt.Errorf("platform %s: python_version is %q, want %s, Debian's, or python = guest", p.label(), p.PythonVersion, version)
			}
		case p.PythonVersion == "" && p.Machines.Driver != "libvirt":
			out, err := tool(ctx, "", "python3", "-c", "import platform; print(platform.python_version())")
			if text := strings.TrimSpace(string(out)); err == nil && goodPython.MatchString(text) {
				version = text
			}
		}
		if p.PythonVersion == "" {
			p.PythonVersion = version
		}
	}
	return nil
}

// connect opens each hypervisor once and adds the platforms.
func (b *bench) connect(ctx context.Context, setup *pool.Config) error {
	type connection struct {
		host string
		spec vm.Spec // of the test guest, for those who name nothing to boot
	}
	known := map[machines.Options]connection{}
	for _, p := range b.conf.Platforms {
		on, ok := known[p.Machines]
		if !ok {
			driver, spec, err := b.conf.open(ctx, p.Machines)
			if err != nil {
				return fmt.Errorf("platform %s: %w", p.label(), err)
			}
			b.drivers = append(b.drivers, driver)
			on = connection{fmt.Sprintf("%s-%d", driver.HostID(), len(b.drivers)), spec}
			known[p.Machines] = on
			setup.Hosts = append(setup.Hosts, pool.Host{Name: on.host, Driver: driver, Slots: b.conf.Total})
		}
		setup.Templates = append(setup.Templates, p.template(on.host, on.spec))
	}
	return nil
}

// open connects to a hypervisor. The test guest is made only if a platform wants it.
func (c config) open(ctx context.Context, o machines.Options) (vm.Driver, vm.Spec, error) {
	if o.Driver == "" || o.Driver == "local" {
		driver, err := local.Open(local.Config{Root: o.Dir})
		return driver, vm.Spec{}, err
	}
	if slices.ContainsFunc(c.Platforms, func(p platform) bool { return p.Machines == o && p.Image == "" && p.Kernel == "" }) {
		return o.Open(ctx)
	}
	driver, err := o.Connect(ctx)
	return driver, vm.Spec{}, err
}

// spec is what a machine of the platform is made of.
func (p platform) spec(standard vm.Spec) vm.Spec {
	s := standard
	switch {
	case p.Kernel != "":
		s = vm.Spec{Kernel: p.Kernel, Initrd: p.Initrd, Cmdline: p.Cmdline}
	case p.Image != "":
		format := "raw"
		if filepath.Ext(p.Image) == ".qcow2" {
			format = "qcow2"
		}
		s = vm.Spec{Disks: []vm.Disk{{Format: "qcow2", Backing: p.Image, BackingFormat: format}}}
	}
	if p.Memory > 0 {
		s.Memory = p.Memory
	}
	if p.CPUs > 0 {
		s.CPUs = p.CPUs
	}
	return s
}

// template is what machines of a platform are made from, found by its labels.
func (p platform) template(host string, standard vm.Spec) pool.Template {
	return pool.Template{
		Name: strings.ReplaceAll(p.label(), " ", "/"), Labels: p.labels(), Properties: map[string]string{"platform": p.Name, "variant": p.Variant},
		Spec: p.spec(standard), Hosts: []string{host}, Ready: p.Ready,
	}
}

// labels are what requests find it by. One without a variant wants the platform
// itself.
func (p platform) labels() map[string]string {
	return map[string]string{"platform": p.Name, "variant": p.Variant}
}

// find gives the platform and variant of that name; the error lists what there is.
func (c config) find(name, variant string) (platform, error) {
	var platforms, variants []string
	for _, p := range c.Platforms {
		if p.Name == name && p.Variant == variant {
			return p, nil
		}
		if !slices.Contains(platforms, p.Name) {
			platforms = append(platforms, p.Name)
		}
		if p.Name == name && p.Variant != "" {
			variants = append(variants, p.Variant)
		}
	}
	switch {
	case !slices.Contains(platforms, name):
		return platform{}, fmt.Errorf("platform_identifier is %q, want one of %s", name, strings.Join(platforms, ", "))
	case variant == "":
		return platform{}, fmt.Errorf("platform_variants is null, but %s has only variants: want some of %s", name, strings.Join(variants, ", "))
	case len(variants) == 0:
		return platform{}, fmt.Errorf("platform_variants has %q, but %s has no variants: write null", variant, name)
	}
	return platform{}, fmt.Errorf("platform_variants has %q, want some of %s", variant, strings.Join(variants, ", "))
}

// close destroys the machines and ends the connections. It waits for what still
// runs; who is in a hurry has aborted that before.
func (b *bench) close() error {
	var errs []error
	if b.pool != nil {
		errs = append(errs, b.pool.Close(context.Background()))
	}
	if b.state != nil {
		errs = append(errs, b.state.close())
	}
	for _, d := range b.drivers {
		errs = append(errs, d.Close())
	}
	if b.python != nil {
		errs = append(errs, b.python.Close())
	}
	return errors.Join(errs...)
}
