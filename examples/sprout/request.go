package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
)

// appliance is one machine of a pool, as workers and tests are told of it.
type appliance struct {
	Name     string `json:"name"`
	Address  string `json:"ip_address"`
	URL      string `json:"url"`
	Template string `json:"template_name"`
	Provider string `json:"provider"`
	Host     string `json:"host"`
	guest    *pool.Guest
}

// request is what is asked for.
type request struct {
	static      []string // instead of all below: machines that exist
	group       string
	count       int
	version     string
	date        string
	lease       time.Duration
	provision   time.Duration // how long the wait may take
	description string
}

// poolKey is the lease of a pool: its note is the description, its end the end of
// the pool.
const poolKey = "sprout/pool/"

// appliancePool are the appliances of one request.
type appliancePool struct {
	ID     string
	client *client
	asked  request
	pool   *pool.Pool
	want   pool.Want
	term   *lease.Lease // nil of static ones

	mu      sync.Mutex
	tickets []*pool.Ticket // nil where it was collected
	ready   []appliance    // by ticket

	once    sync.Once
	destroy error
}

// requestAppliances asks for appliances and gives the pool's id at once, before any
// is ready. Destroy it.
func (c *client) requestAppliances(ctx context.Context, r request, term *terminal) (_ *appliancePool, err error) {
	p := &appliancePool{ID: uuid.NewString(), client: c, asked: r, want: pool.Want{Labels: map[string]string{"group": r.group}, Job: r.description}}
	var templates []pool.Template
	if len(r.static) > 0 {
		t := c.existing(r.static)
		templates, p.want.Labels, r.count = []pool.Template{t}, t.Labels, len(r.static)
	} else {
		t, err := chooseTemplate(c.config.Templates, r.group, r.version, r.date)
		if err != nil {
			return nil, err
		}
		if n := c.slots(t); r.count > n {
			return nil, fmt.Errorf("%d appliances are asked for, and the hosts of template %s have %d slots", r.count, t.Name, n)
		}
		templates = c.templates(t)
		// The record is there before the first machine, with the description: there
		// is no moment at which a pool cannot be found.
		p.term, err = c.leases.TryAcquire(ctx, poolKey+p.ID, &lease.Options{Note: r.description, Term: r.lease + r.provision})
		if err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Destroy(ctx))
		}
	}()
	job, _ := jobName(r.description)
	p.pool, err = pool.New(pool.Config{
		Name: "sprout", Run: pool.Run{ID: p.ID, Start: time.Now(), Job: job, Description: r.description},
		Leases: c.leases, Hosts: c.hosts, Templates: templates,
		Trace: &pool.Trace{Event: func(e pool.Event) {
			if e.Kind == pool.EventLeftover && e.Err == nil {
				term.println("Destroyed the leftover %s on %s: %s", e.Machine, e.Host, e.Reason)
			}
		}},
	})
	if err != nil {
		return nil, err
	}
	for range r.count {
		// Not with ctx: what was requested ends with Destroy.
		t, err := p.pool.Request(context.WithoutCancel(ctx), p.want)
		if err != nil {
			return nil, err
		}
		p.tickets = append(p.tickets, t)
	}
	p.ready = make([]appliance, len(p.tickets))
	return p, nil
}

// status is where a request stands.
type status struct {
	Fulfilled  bool
	Progress   int    // percent
	Waiting    string // for what, as far as it is not fulfilled
	Appliances []appliance
}

// sproutError says that a request can never be fulfilled.
type sproutError struct{ err error }

func (e *sproutError) Error() string { return e.err.Error() }
func (e *sproutError) Unwrap() error { return e.err }

// Check says how far the request is, and collects what is there.
func (p *appliancePool) Check(ctx context.Context) (status, error) {
	if p.term != nil {
		if err := p.recorded(ctx); errors.Is(err, errPoolGone) {
			return status{}, &sproutError{err}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := status{Fulfilled: true}
	sum := 0
	for i, t := range p.tickets {
		if p.ready[i].guest == nil {
			progress := t.Progress()
			switch {
			case progress.Err != nil:
				return s, &sproutError{progress.Err}
			case !progress.Over:
				s.Fulfilled, s.Waiting = false, progress.Reason
				sum += progress.Percent
				continue
			}
			guest, err := t.Wait(ctx)
			if err != nil {
				return s, &sproutError{err}
			}
			p.ready[i] = appliance{guest: guest}
		}
		if p.ready[i].URL == "" {
			var err error
			if p.ready[i], err = describe(ctx, p.ready[i].guest); err != nil {
				return s, &sproutError{err}
			}
		}
		sum += 100
		s.Appliances = append(s.Appliances, p.ready[i])
	}
	s.Progress = sum / len(p.tickets)
	return s, nil
}

// Replace gives a machine that broke back and requests another one in its place.
func (p *appliancePool) Replace(ctx context.Context, broken appliance, why error) (appliance, error) {
	if err := broken.guest.Release(ctx, pool.Broken(why)); err != nil && !errors.Is(err, lease.ErrLost) {
		return broken, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.asked.provision, fmt.Errorf("no appliance within %v", p.asked.provision))
	defer cancel()
	guest, err := p.pool.Acquire(ctx, p.want)
	if err != nil {
		return broken, err
	}
	a, err := describe(ctx, guest)
	if err != nil {
		return broken, errors.Join(err, guest.Release(ctx, err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.ready {
		if p.ready[i].guest == broken.guest {
			p.ready[i] = a
		}
	}
	return a, nil
}

// destroyTimeout bounds what Destroy waits for guests that are in use; the pool
// destroys machines beyond that by its own bound.
const destroyTimeout = time.Minute

// Destroy gives all up: requests, machines, the pool's record. It is idempotent, and
// does so also when ctx has ended.
func (p *appliancePool) Destroy(ctx context.Context) error {
	p.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		var errs []error
		p.mu.Lock()
		for i, t := range p.tickets {
			t.Cancel()
			if i < len(p.ready) && p.ready[i].guest != nil {
				_ = p.ready[i].guest.Release(ctx, nil) // of one that was lost before nothing is left to do
			}
		}
		p.mu.Unlock()
		if p.pool != nil {
			errs = append(errs, p.pool.Close(ctx))
		}
		if p.term != nil {
			errs = append(errs, p.term.Release(ctx))
		}
		p.destroy = errors.Join(errs...)
	})
	return p.destroy
}

// addressTimeout bounds the wait for a machine's address.
const addressTimeout = 2 * time.Minute

// describe finds out what is told of an appliance.
func describe(ctx context.Context, g *pool.Guest) (appliance, error) {
	properties := g.Properties()
	a := appliance{Name: g.Name(), Template: properties["template_name"], Provider: properties["provider"], Host: g.Host(), guest: g}
	bounded, cancel := context.WithTimeoutCause(ctx, addressTimeout, fmt.Errorf("no address within %v", addressTimeout))
	defer cancel()
	all, err := g.Addresses(bounded)
	switch {
	case err == nil && len(all) > 0:
		a.Address = bestAddress(all)
	case properties["address"] != "" && (err == nil || errors.Is(err, errors.ErrUnsupported)):
		a.Address = properties["address"]
	case err == nil:
		return a, fmt.Errorf("appliance %s has no address", a.Name)
	default:
		return a, fmt.Errorf("address of appliance %s, for which neither host nor template has the property \"address\": %w", a.Name, err)
	}
	a.URL = applianceURL(a.Address)
	return a, nil
}

// bestAddress prefers what is reached from elsewhere, then IPv4.
func bestAddress(all []netip.Addr) string {
	rank := func(a netip.Addr) int {
		n := 0
		if a.IsLoopback() || a.IsLinkLocalUnicast() {
			n += 2
		}
		if a.Is6() {
			n++
		}
		return n
	}
	return slices.MinFunc(all, func(a, b netip.Addr) int { return rank(a) - rank(b) }).String()
}

// applianceURL is https://{ip}/.
func applianceURL(address string) string {
	if ip, err := netip.ParseAddr(address); err == nil && ip.Is6() {
		address = "[" + address + "]"
	}
	return "https://" + address + "/"
}

// dumpPoolInfo tells all that is known of a pool, a line at a time.
func dumpPoolInfo(line func(format string, args ...any), s status) {
	line("Fulfilled: %v", s.Fulfilled)
	line("Progress: %d%%", s.Progress)
	if s.Waiting != "" {
		line("Waiting: %s", s.Waiting)
	}
	line("Appliances:")
	for _, a := range s.Appliances {
		line("\t%s:", a.Name)
		details := map[string]string{"ip_address": a.Address, "url": a.URL, "template_name": a.Template, "provider": a.Provider, "host": a.Host}
		for _, k := range slices.Sorted(maps.Keys(details)) {
			line("\t\t%s: %s", k, details[k])
		}
	}
}
