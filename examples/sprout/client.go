package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// client is what requests appliances: the store of leases and the hosts.
type client struct {
	config config
	leases *lease.Manager
	hosts  []pool.Host
	specs  map[string]vm.Spec // of templates without one, by the hosts' names
	closes []func() error     // backwards
}

// openClient opens the store and the hosts of a configuration. Close it.
func openClient(ctx context.Context, c config) (_ *client, err error) {
	cl := &client{config: c, specs: map[string]vm.Spec{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, cl.Close(ctx))
		}
	}()
	store, closeStore, err := openStore(ctx, c.Store)
	if err != nil {
		return cl, fmt.Errorf("store %s: %w", storeName(c.Store), err)
	}
	cl.closes = append(cl.closes, closeStore)
	for _, h := range c.Hosts {
		driver, spec, err := openHost(ctx, h)
		if err != nil {
			return cl, fmt.Errorf("host %s: %w", h.Name, err)
		}
		cl.closes = append(cl.closes, driver.Close)
		cl.specs[h.Name] = spec
		properties := map[string]string{"provider": h.Name}
		maps.Copy(properties, h.Properties)
		cl.hosts = append(cl.hosts, pool.Host{Name: h.Name, Driver: driver, Slots: h.Slots, Properties: properties})
	}
	cl.leases, err = lease.New(lease.Config{Store: store, Owner: "sprout", Poll: 200 * time.Millisecond})
	return cl, err
}

// openHost opens the driver of a host. Local machines are below its folder, so that
// all who name the folder share them.
func openHost(ctx context.Context, h host) (vm.Driver, vm.Spec, error) {
	if h.Driver != "libvirt" && h.Dir != "" {
		driver, err := local.Open(local.Config{Root: h.Dir})
		return driver, vm.Spec{}, err
	}
	return machines.Options{Driver: h.Driver, URI: h.URI, Dir: h.Dir}.Open(ctx)
}

// Entry says where appliances are requested, for messages.
func (c *client) Entry() string {
	var hosts []string
	for _, h := range c.hosts {
		hosts = append(hosts, h.Name)
	}
	return storeName(c.config.Store) + ", hosts " + strings.Join(hosts, ", ")
}

// storeName is a store without its password.
func storeName(store string) string {
	if u, err := url.Parse(store); err == nil && u.User != nil {
		return u.Redacted()
	}
	return store
}

// slots is how many machines of a template there can be at once.
func (c *client) slots(t template) int {
	n := 0
	for _, h := range c.config.Hosts {
		if len(t.Hosts) == 0 || slices.Contains(t.Hosts, h.Name) {
			n += h.Slots
		}
	}
	return n
}

// templates makes a template of the configuration one of a pool: one per host where
// the hosts' own spec is used, all of the same name for people.
func (c *client) templates(t template) []pool.Template {
	properties := map[string]string{}
	maps.Copy(properties, t.Properties)
	maps.Copy(properties, map[string]string{"template_name": t.Name, "version": t.Version, "date": t.Date})
	made := pool.Template{
		Name: t.Name, Labels: map[string]string{"group": t.Group}, Properties: properties,
		Hosts: t.Hosts, Idle: pool.IdleFor(0),
	}
	if t.Spec != nil {
		made.Spec = *t.Spec
		return []pool.Template{made}
	}
	var all []pool.Template
	for _, h := range c.config.Hosts {
		if len(t.Hosts) > 0 && !slices.Contains(t.Hosts, h.Name) {
			continue
		}
		one := made
		one.Name, one.Hosts, one.Spec = t.Name+"@"+h.Name, []string{h.Name}, c.specs[h.Name]
		all = append(all, one)
	}
	return all
}

// existing makes a template of static appliances.
func (c *client) existing(names []string) pool.Template {
	t := pool.Template{
		Name: "static", Labels: map[string]string{"group": staticGroup}, Properties: map[string]string{"template_name": staticGroup},
		// Static appliances are used as they are; who named them answers for them.
		Clean: func(context.Context, vm.Machine) error { return nil },
	}
	for _, name := range names {
		host, machine, _ := strings.Cut(name, "/")
		t.Existing = append(t.Existing, pool.Existing{Host: host, Machine: vm.ID(machine)})
	}
	return t
}

const staticGroup = "(static)"

// Close gives the leases back and closes the hosts, then the store.
func (c *client) Close(ctx context.Context) error {
	var errs []error
	if c.leases != nil {
		errs = append(errs, c.leases.Close(context.WithoutCancel(ctx)))
	}
	for i := len(c.closes) - 1; i >= 0; i-- {
		errs = append(errs, c.closes[i]())
	}
	c.leases, c.closes = nil, nil
	return errors.Join(errs...)
}

// program is the running file itself, whatever has become of its name.
func program() string {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self
	}
	return os.Args[0]
}
