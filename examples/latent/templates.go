package main

import (
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/dialin"
)

// byHand is the name of the host of workers that the master does not start.
const byHand = "by-hand"

// serves is the label of a worker that a builder may use.
func serves(builder string) string { return "builder/" + builder }

// poolConfig makes the pool of the configuration: each worker is a template of which
// there is one machine at the most.
func (c *config) poolConfig(hosts []opened, connected vm.Driver) pool.Config {
	p := pool.Config{Name: c.Name, Run: pool.Run{Job: c.Name, Start: time.Now()}, Locks: c.Locks}
	specs := map[string]vm.Spec{}
	for _, h := range hosts {
		keepalive := h.Keepalive.or(defaultKeepalive)
		p.Hosts = append(p.Hosts, pool.Host{Name: h.Name, Driver: h.driver, Slots: h.Slots, Keepalive: keepalive})
		specs[h.Name] = h.spec
	}
	if connected != nil {
		p.Hosts = append(p.Hosts, pool.Host{Name: byHand, Driver: connected})
	}
	for _, w := range c.Workers {
		t := pool.Template{Name: w.Name, Properties: w.Properties, Locks: w.Locks, Labels: map[string]string{}}
		for _, b := range c.Builds {
			for _, name := range b.Workers {
				if name == w.Name {
					t.Labels[serves(b.Name)] = "yes"
				}
			}
		}
		if w.Type == typeLatent {
			t.Hosts, t.Most, t.Idle = w.Hosts, 1, w.idle()
			t.Rungs = []vm.Rung{vm.RungCold} // each build, or each max_builds of them, has a machine made anew
			t.Spec = w.spec(specs[w.Hosts[0]])
		} else {
			// It cannot be rolled back: that it answers is all that can be known. Its
			// locks are given back after each build.
			t.Existing = []pool.Existing{{Host: byHand, Machine: vm.ID(w.Name)}}
			t.Clean, t.Idle = dialin.Answers, pool.IdleFor(0)
		}
		p.Templates = append(p.Templates, t)
	}
	return p
}

// idle is build_wait_timeout: absent is pool.DefaultIdle, the same 10 minutes.
func (w workerConfig) idle() pool.Idle {
	if w.Wait == nil {
		return 0
	}
	return pool.IdleFor(seconds(*w.Wait))
}

// dialinConfig lists the workers that connect, whoever starts them. secrets has
// those of the local ones.
func (c *config) dialinConfig(secrets map[string]vm.Secret) (d dialin.Config) {
	d.Name = c.Name + "/" + byHand
	for _, w := range c.Workers {
		secret := w.Password
		switch w.Type {
		case typeLatent:
			continue
		case typeLocal:
			secret = secrets[w.Name]
		}
		keepalive := w.Keepalive.or(defaultKeepalive)
		if w.Keepalive.never {
			keepalive = -1
		}
		d.Workers = append(d.Workers, dialin.Worker{Name: w.Name, Secret: secret, Properties: w.Properties, Keepalive: keepalive})
	}
	return d
}
