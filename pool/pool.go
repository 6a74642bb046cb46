package pool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/queue"
	"github.com/bullpen-vm/bullpen/vm"
)

// Pool keeps machines warm and hands them out. Use New; it is safe for
// concurrent use. Whoever made it closes it, before its lease manager and the
// drivers.
type Pool struct {
	config    Config
	leases    *lease.Manager
	ownLeases bool
	hosts     []*host
	templates []*template
	places    []*place // by class index
	byName    map[string]*template

	// soft ends when the pool begins to close: boots, renewals and listings.
	// hard ends when Close gives up on what is left.
	soft, hard         context.Context
	softStop, hardStop context.CancelFunc
	wg                 sync.WaitGroup
	kick               chan struct{} // the alarm was set earlier

	mu       sync.Mutex
	q        *units
	units    map[*unit]struct{}
	live     map[string]*unit // by incarnation, from before Create on
	counts   [states]int
	vacating int
	store    health.Pause // the lease store does not answer
	storeErr error
	closing  bool
	empty    chan struct{} // closed when the last unit is gone, while closing
	done     chan struct{} // closed when Close is through
	closeErr error
	alarm    time.Time // when to look again; zero: never
	stats    counters
	kept     int
	tickets  map[*Ticket]struct{}
	accounts map[string]*account // those with quotas that use some
	left     []error             // machines that Close could not destroy
	lend     lender

	avail, vacant []int // scratch of plan
	hoarded       *host // whose slots the first waiter that needs several of them gets

	began  time.Time
	survey bool // all hosts were listed once, or waited for for long enough

	watched bool
	telling bool
	events  []Event
}

// New makes a pool. It does no I/O itself; the pool then begins, behind it, to
// list its hosts, to destroy leftovers, and to boot the machines that are to be
// ready. Close it.
func New(c Config) (*Pool, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	p := &Pool{
		config:   c,
		leases:   c.Leases,
		byName:   make(map[string]*template),
		kick:     make(chan struct{}, 1),
		q:        queue.New[*unit, *wait](),
		units:    make(map[*unit]struct{}),
		live:     make(map[string]*unit),
		tickets:  make(map[*Ticket]struct{}),
		accounts: make(map[string]*account),
		empty:    make(chan struct{}),
		done:     make(chan struct{}),
		began:    time.Now(),
		store:    health.Pause{Policy: health.Policy{First: time.Second, Most: 30 * time.Second}},
	}
	p.watched = c.Trace != nil && c.Trace.Event != nil || c.Logger.Enabled(context.Background(), 8)
	if p.leases == nil {
		p.leases, err = lease.New(lease.Config{Store: lease.NewMemStore(), Owner: c.Run.Job, Logger: c.Logger})
		if err != nil {
			return nil, fmt.Errorf("pool: making a lease manager: %w", err)
		}
		p.ownLeases = true
	}
	for _, t := range c.Templates {
		t := newTemplate(t)
		p.templates = append(p.templates, t)
		p.byName[t.Name] = t
	}
	for _, h := range c.Hosts {
		p.hosts = append(p.hosts, newHost(h))
	}
	p.join()
	p.alarm = p.began // the first look is at once, whatever is to be looked at later
	p.soft, p.softStop = context.WithCancel(context.Background())
	p.hard, p.hardStop = context.WithCancel(context.Background())
	p.wg.Go(p.clock)
	return p, nil
}

func newTemplate(c Template) *template {
	t := &template{
		Template: c,
		locked:   health.Pause{Policy: health.Policy{First: 250 * time.Millisecond, Most: 5 * time.Second}},
		health:   health.Breaker{Policy: health.Policy{Threshold: c.Failures}},
	}
	t.bootLate, t.renewLate = fmt.Errorf("not ready after %v", t.BootTimeout), fmt.Errorf("not renewed after %v", t.RenewTimeout)
	switch {
	case t.Snapshot == "":
	case len(t.Rungs) == 0 && t.Parent == "":
		t.reverts, t.others = []vm.Rung{vm.RungRevert}, []vm.Rung{vm.RungCold}
	case len(t.Rungs) > 0 && t.Rungs[0] == vm.RungRevert:
		t.reverts, t.others = t.Rungs[:1:1], t.Rungs[1:]
	}
	if t.existing() {
		t.others = nil
	}
	t.prove = func(ctx context.Context, m vm.Machine) error { return prove(ctx, t, m) }
	return t
}

func newHost(c Host) *host {
	way := vm.RungNone
	if f, ok := vm.As[vm.Forker](c.Driver); ok {
		way = f.Rung()
	}
	return &host{
		Host: c, way: way, id: c.Driver.HostID(),
		slots:   make([]*unit, c.Slots),
		pairs:   make(map[*template]*health.Breaker),
		recipes: make(map[*template]string),
		deaths:  make(map[*template]int),
		failed:  make(map[*template]int),
		sick:    health.Breaker{Policy: health.Policy{Threshold: hostFailures}},
		busy:    health.Pause{Policy: health.Policy{First: time.Second, Most: time.Minute}},
		full:    health.Pause{Policy: health.Policy{First: 250 * time.Millisecond, Most: 5 * time.Second}},
	}
}

// hostFailures is how many failures in a row, of two templates or more, make a
// host sick. With one template its back-off on that host says the same.
const hostFailures = 3

// clock looks again when the alarm says so, and first at once.
func (p *Pool) clock() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.soft.Done():
			return
		case <-p.kick:
		case <-timer.C:
			p.mu.Lock()
			p.alarm = time.Time{}
			p.tick(time.Now())
			p.unlock()
		}
		p.mu.Lock()
		at := p.alarm
		p.mu.Unlock()
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
	}
}

// wake makes the clock look at a time, if it would not do so before.
func (p *Pool) wake(at time.Time) {
	if at.IsZero() || !p.alarm.IsZero() && !at.Before(p.alarm) {
		return
	}
	p.alarm = at
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// tick does what is due, and sets the alarm for what will be.
func (p *Pool) tick(now time.Time) {
	if p.closing {
		return
	}
	p.retire()
	for _, h := range p.hosts {
		if !h.sweeping && !now.Before(h.nextSweep) {
			h.sweeping = true
			p.wg.Go(func() { p.sweep(h) })
		}
		if !h.sweeping {
			p.wake(h.nextSweep)
		}
	}
	p.shrink(now)
	p.plan(now)
	later := func(at time.Time) {
		if at.After(now) {
			p.wake(at)
		}
	}
	until := func(b *health.Breaker) {
		if at, ok := b.Until(); ok {
			later(at)
		}
	}
	later(p.store.Until())
	for _, t := range p.templates {
		until(&t.health)
		later(t.locked.Until())
	}
	for _, h := range p.hosts {
		until(&h.lost)
		until(&h.sick)
		for _, b := range h.pairs {
			until(b)
		}
		later(h.busy.Until())
		later(h.full.Until())
		for _, f := range h.fixtures {
			until(&f.sick)
			later(f.full.Until())
		}
	}
}
