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
	if slices.ContainsFunc(c.Platforms, func(p platform) bool { return p.Python == "debian" }) {
		if b.python, err = debianPython(ctx, b.images); err != nil {
			return nil, err
		}
	}
	setup := pool.Config{Name: "pyti", Logger: log, Kept: -1, Run: pool.Run{Job: "pyti " + c.Root}}
	hosts := map[machines.Options]string{}
	specs := map[string]vm.Spec{}
	for _, p := range c.Platforms {
		if hosts[p.Machines] == "" {
			driver, spec, err := p.Machines.Open(ctx)
			if err != nil {
				return nil, fmt.Errorf("platform %s: %w", p.label(), err)
			}
			b.drivers = append(b.drivers, driver)
			name := fmt.Sprintf("%s-%d", driver.HostID(), len(b.drivers))
			hosts[p.Machines], specs[name] = name, spec
			setup.Hosts = append(setup.Hosts, pool.Host{Name: name, Driver: driver, Slots: c.Total})
		}
		host := hosts[p.Machines]
		setup.Templates = append(setup.Templates, p.template(host, specs[host]))
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

// template is what machines of a platform are made from, found by its labels.
func (p platform) template(host string, spec vm.Spec) pool.Template {
	if p.Memory > 0 {
		spec.Memory = p.Memory
	}
	if p.CPUs > 0 {
		spec.CPUs = p.CPUs
	}
	return pool.Template{
		Name: strings.ReplaceAll(p.label(), " ", "/"), Labels: p.labels(), Properties: map[string]string{"platform": p.Name, "variant": p.Variant},
		Spec: spec, Hosts: []string{host}, Ready: p.Ready,
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
