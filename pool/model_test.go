package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// program is a random history, drawn outside the bubble and run inside.
type program struct {
	slots  [2]int
	pools  int
	steps  []step
	seed   uint64
	chance float64
}

type step struct {
	op       int
	pool     int
	n        int
	template string
	priority int
	patience time.Duration
	pick     int
	wait     time.Duration
}

func drawProgram(t *rapid.T) program {
	p := program{
		slots:  [2]int{rapid.IntRange(1, 3).Draw(t, "slots1"), rapid.IntRange(1, 2).Draw(t, "slots2")},
		pools:  rapid.IntRange(1, 2).Draw(t, "pools"),
		seed:   rapid.Uint64().Draw(t, "seed"),
		chance: rapid.SampledFrom([]float64{0, 0, 0.05, 0.2}).Draw(t, "chance"),
	}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		p.steps = append(p.steps, step{
			op: rapid.IntRange(0, 11).Draw(t, "op"), pool: rapid.IntRange(0, 1).Draw(t, "pool"), n: rapid.IntRange(1, 3).Draw(t, "n"),
			template: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "template"), priority: rapid.IntRange(0, 1).Draw(t, "priority"),
			patience: time.Duration(rapid.IntRange(0, 120).Draw(t, "patience")) * time.Second, pick: rapid.IntRange(0, 99).Draw(t, "pick"),
			wait: time.Duration(rapid.IntRange(0, 90_000).Draw(t, "wait")) * time.Millisecond,
		})
	}
	return p
}

// Random programs of acquire, cancel, release, crashes of machines, lost leases,
// lost hosts and faults: never over capacity, never two holders, never a dirty
// machine, nothing leaked, and every wait ends.
func TestRandomProgramsKeepTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := drawProgram(rt)
		var err error
		synctest.Test(t, func(*testing.T) { err = p.run() })
		if err != nil {
			rt.Fatalf("%v", err)
		}
	})
}

// TestSoak runs more and longer programs, where BULLPEN_SOAK is set.
func TestSoak(t *testing.T) {
	for i := range need.Soak(t, 2, 200) {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		p := program{slots: [2]int{1 + r.IntN(4), 1 + r.IntN(3)}, pools: 1 + r.IntN(2), seed: r.Uint64(), chance: []float64{0, 0.02, 0.1}[r.IntN(3)]}
		for range 1000 {
			p.steps = append(p.steps, step{
				op: r.IntN(12), pool: r.IntN(2), n: 1 + r.IntN(3), template: []string{"", "a", "b"}[r.IntN(3)], priority: r.IntN(2),
				patience: time.Duration(r.IntN(120)) * time.Second, pick: r.IntN(100), wait: time.Duration(r.IntN(20_000)) * time.Millisecond,
			})
		}
		var err error
		synctest.Test(t, func(*testing.T) { err = p.run() })
		if err != nil {
			t.Fatalf("program %d: %v", i, err)
		}
	}
}

type model struct {
	program
	hyper   []*fake.Hypervisor
	store   *lease.MemStore
	pools   []*Pool
	leases  []*lease.Manager
	cuts    []*cutStore
	waiters sync.WaitGroup

	mu      sync.Mutex
	held    []*Guest
	holders map[string]*Guest
	used    map[string]bool // incarnations that were handed out
	errs    []error
}

func (m *model) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, fmt.Errorf(format, args...))
}

func (p program) run() error {
	ctx := context.Background()
	m := &model{program: p, store: lease.NewMemStore(), holders: map[string]*Guest{}, used: map[string]bool{}}
	for i := range 2 {
		var faults []fake.Fault
		if p.chance > 0 {
			for _, op := range []string{vm.OpCreate, vm.OpStart, vm.OpDestroy, vm.OpList} {
				faults = append(faults, fake.Fault{Op: op, Chance: p.chance, Err: errTest}, fake.Fault{Op: op, Chance: p.chance / 2, Err: errTest, Late: true},
					fake.Fault{Op: op, Chance: p.chance / 2, Err: vm.ErrBusy}, fake.Fault{Op: op, Chance: p.chance, Delay: 10 * time.Second})
			}
			for _, op := range []string{vm.OpParents, vm.OpStock, vm.OpFork} {
				faults = append(faults, fake.Fault{Op: op, Chance: p.chance, Err: errTest}, fake.Fault{Op: op, Chance: p.chance, Delay: 10 * time.Second})
			}
			faults = append(faults, fake.Fault{Op: vm.OpStart, Chance: p.chance, Guest: fake.Guest{Dirty: "left over"}},
				fake.Fault{Op: vm.OpStart, Chance: p.chance, Guest: fake.Guest{Crash: true, CrashAfter: 20 * time.Second}})
		}
		m.hyper = append(m.hyper, fake.NewHypervisor(fake.Config{
			HostID: fmt.Sprint("h", i), Seed: p.seed, Times: fake.Times{Boot: time.Second, Destroy: 100 * time.Millisecond},
		}))
		m.hyper[i].Stock([]string{"a", "b"}[i])
		if i == 1 { // the parent of b is on the second host
			d := m.hyper[i].Driver()
			if err := vm.MakeParent(ctx, d, "p", vm.Spec{Name: "for-p", Owner: vm.Owner{Incarnation: "for-p"}}); err != nil {
				return err
			}
			if err := d.Close(); err != nil {
				return err
			}
		}
		m.hyper[i].Inject(faults...)
	}
	for range p.pools {
		cut := &cutStore{MemStore: m.store}
		m.cuts = append(m.cuts, cut)
		l, err := lease.New(lease.Config{Store: cut, NoLock: true})
		if err != nil {
			return err
		}
		pl, err := New(Config{
			Name: "p", Leases: l,
			Templates: []Template{{Name: "a", Ready: 1, Idle: IdleFor(time.Minute), MostAge: time.Hour}, {Name: "b", BootTimeout: time.Minute, Parent: "p"}},
			Hosts:     []Host{{Driver: m.hyper[0].Driver(), Slots: p.slots[0], Starts: 2}, {Driver: m.hyper[1].Driver(), Slots: p.slots[1]}},
		})
		if err != nil {
			return err
		}
		m.pools, m.leases = append(m.pools, pl), append(m.leases, l)
	}
	for _, s := range p.steps {
		m.step(ctx, s)
		m.check()
	}
	time.Sleep(2 * time.Minute) // all cuts are over
	for _, h := range m.hyper {
		h.Heal()
	}
	m.mu.Lock()
	held := m.held
	m.held = nil
	m.mu.Unlock()
	for _, g := range held {
		m.release(g, nil)
	}
	m.waiters.Wait() // every wait ends: a deadlock of the bubble else
	m.mu.Lock()
	held = m.held
	m.held = nil
	m.mu.Unlock()
	for _, g := range held {
		m.release(g, nil)
	}
	for i, pl := range m.pools {
		if err := pl.Close(ctx); err != nil {
			m.fail("close: %w", err)
		}
		if n := pl.Stats(); n.Machines != 0 || n.Waiting != 0 || len(pl.live) != 0 {
			m.fail("after close: %+v, %d live", n, len(pl.live))
		}
		if err := m.leases[i].Close(ctx); err != nil {
			m.fail("close of leases: %w", err)
		}
	}
	// What was lost with its lease is nobody's until the next owner of the
	// slot comes.
	next, err := New(Config{
		Name: "p", Templates: one("x"), Leases: m.next(),
		Hosts: []Host{{Driver: m.hyper[0].Driver(), Slots: 1}, {Driver: m.hyper[1].Driver(), Slots: 1}},
	})
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Minute)
	if err := next.Close(ctx); err != nil {
		m.fail("close of the next pool: %w", err)
	}
	// Records of sessions that were lost stay until somebody sweeps them.
	last := m.leases[len(m.leases)-1]
	for range 3 {
		if _, err := last.Sweep(ctx, ""); err != nil {
			m.fail("sweep: %w", err)
		}
		time.Sleep(2 * time.Minute)
	}
	if err := last.Close(ctx); err != nil {
		m.fail("close of leases: %w", err)
	}
	for _, h := range m.hyper {
		if n := h.Count(); n != 0 {
			m.fail("%d machines are left on %s", n, h.Driver().HostID())
		}
		if err := h.Close(); err != nil {
			m.fail("%w", err)
		}
	}
	if rs, err := m.store.List(ctx, ""); err != nil || len(rs) > 0 {
		m.fail("records are left: %v %v", rs, err)
	}
	return errors.Join(m.errs...)
}

func (m *model) next() *lease.Manager {
	l, _ := lease.New(lease.Config{Store: m.store, NoLock: true})
	m.leases = append(m.leases, l)
	return l
}

func (m *model) step(ctx context.Context, s step) {
	p := m.pools[s.pool%len(m.pools)]
	switch s.op {
	case 0, 1, 2, 3:
		n := 1
		if s.op == 3 {
			n = s.n
		}
		m.waiters.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, s.patience)
			defer cancel()
			want := Want{Template: s.template, Priority: s.priority, Job: "job", Inputs: [][]string{nil, {"a"}, {"b", "c"}}[s.pick%3]}
			if s.pick%5 == 0 {
				want.Avoid = []string{"h1"}
			}
			gs, err := p.AcquireAll(ctx, n, want)
			if err != nil {
				return
			}
			if len(gs) != n {
				m.fail("%d machines for %d", len(gs), n)
			}
			for _, g := range gs {
				m.hold(g)
			}
		})
	case 4, 5, 6, 7:
		m.mu.Lock()
		if len(m.held) == 0 {
			m.mu.Unlock()
			break
		}
		i := s.pick % len(m.held)
		g := m.held[i]
		m.held = append(m.held[:i], m.held[i+1:]...)
		m.mu.Unlock()
		var reason error
		if s.pick%5 == 0 {
			reason = Broken(errTest)
		}
		m.release(g, reason)
	case 8:
		gs := p.Guests()
		if len(gs) > 0 {
			g := gs[s.pick%len(gs)]
			for _, h := range m.hyper {
				_ = h.Crash(vm.ID(g.Name))
			}
		}
	case 9:
		// Shorter than the TTL is survived, longer loses all leases.
		cut := m.cuts[s.pool%len(m.pools)]
		cut.cut.Store(true)
		time.AfterFunc(s.patience, func() { cut.cut.Store(false) })
	case 10:
		h := m.hyper[s.pick%2]
		h.Lose(true)
		time.AfterFunc(s.patience, func() { h.Lose(false) })
	case 11:
		if _, err := p.Reconcile(ctx, ReconcileOptions{DryRun: s.pick%2 == 0}); err != nil && m.chance == 0 && !errors.Is(err, vm.ErrHostLost) && !errors.Is(err, errCut) {
			m.fail("reconcile: %w", err)
		}
	}
	time.Sleep(s.wait)
	synctest.Wait()
}

// hold takes note of a hand-out: it must be alone and new.
func (m *model) hold(g *Guest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := g.fence(); err != nil {
		return // lost at this instant: nothing is promised
	}
	if other := m.holders[g.name]; other != nil && other.check() == nil {
		m.errs = append(m.errs, fmt.Errorf("%s has two holders, with tokens %d and %d", g.name, other.token, g.token))
	}
	if m.used[g.name] {
		m.errs = append(m.errs, fmt.Errorf("%s was handed out before and never renewed", g.name))
	}
	m.holders[g.name], m.used[g.name] = g, true
	m.held = append(m.held, g)
}

func (m *model) release(g *Guest, reason error) {
	if err := g.Release(context.Background(), reason); err != nil && !errors.Is(err, lease.ErrLost) {
		m.fail("release: %w", err)
	}
	if err := g.check(); err == nil {
		m.fail("%s is not fenced off after its release", g.name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.holders[g.name] == g {
		delete(m.holders, g.name)
	}
}

func (m *model) check() {
	for i, h := range m.hyper {
		if h.Peak() > m.slots[i] {
			m.fail("%d machines on %d slots of h%d", h.Peak(), m.slots[i], i)
		}
	}
	for _, p := range m.pools {
		if err := p.consistent(); err != nil {
			m.fail("%w", err)
		}
	}
}

// consistent compares all counts of a pool with its units.
func (p *Pool) consistent() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var counts [states]int
	used, boots, inflight, total, free := map[*host]int{}, map[*host]int{}, map[*place]int{}, map[*template]int{}, 0
	for u := range p.units {
		counts[u.state]++
		used[u.host] += u.template.Weight
		total[u.template]++
		switch u.state {
		case claiming, booting:
			boots[u.host]++
			inflight[u.place]++
		case renewing:
			inflight[u.place]++
		case ready:
			if u.item.Free() {
				free++
			} else if u.item.Reserved() == nil && !u.parked {
				return fmt.Errorf("%s is ready and in nobody's books", u.name)
			}
			if u.guest != nil {
				return fmt.Errorf("%s is ready and has a guest", u.name)
			}
		case gone:
			return fmt.Errorf("%s is gone and still there", u.name)
		}
	}
	counts[gone] = p.counts[gone]
	if counts != p.counts {
		return fmt.Errorf("states are counted %v, are %v", p.counts, counts)
	}
	if p.vacating != counts[destroying] {
		return fmt.Errorf("vacating is %d, want %d", p.vacating, counts[destroying])
	}
	for _, h := range p.hosts {
		if h.used != used[h] || h.boots != boots[h] || h.used > h.Slots || h.Starts > 0 && h.boots > h.Starts {
			return fmt.Errorf("host %s counts %d used and %d booting, want %d of %d and %d of %d", h.Name, h.used, h.boots, used[h], h.Slots, boots[h], h.Starts)
		}
	}
	for _, t := range p.templates {
		if t.count != total[t] {
			return fmt.Errorf("template %s counts %d, want %d", t.Name, t.count, total[t])
		}
		free -= t.free()
	}
	for _, pl := range p.places {
		if pl.inflight != inflight[pl] {
			return fmt.Errorf("inflight is %d, want %d", pl.inflight, inflight[pl])
		}
	}
	if free != 0 {
		return fmt.Errorf("%d free machines are not in the queue", free)
	}
	return nil
}
