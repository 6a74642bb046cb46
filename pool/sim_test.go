package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// The simulation's size: the callers of all harnesses together want more machines
// than there can be at once. The full one has a hundred harnesses, and ten hosts
// with a hundred machines for each.
const (
	simHarnesses = 100
	simSlots     = 10
	simShared    = 20 // hosts that a harness uses; each host is two harnesses'
	simCallers   = 110
)

// referee keeps the invariants as hand-outs come and go. It holds the first
// violation.
type referee struct {
	mu      sync.Mutex
	clean   map[string]bool   // proven since it was last used, by machine
	holders map[string]string // by machine
	tokens  map[string]uint64 // the highest of each slot
	wrong   error
}

func (r *referee) fail(format string, args ...any) {
	if r.wrong == nil {
		r.wrong = fmt.Errorf(format, args...)
	}
}

// proved is a template's proof that the machine is clean.
func (r *referee) proved(_ context.Context, m vm.Machine) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if by, held := r.holders[string(m.ID())]; held {
		r.fail("machine %s is renewed while %s holds it", m.ID(), by)
	}
	r.clean[string(m.ID())] = true
	return nil
}

func (r *referee) got(g *Guest, who string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, slot := g.Name(), g.Properties()["slot"]
	if by, held := r.holders[name]; held {
		r.fail("machine %s has two holders: %s and %s", name, by, who)
	}
	if !r.clean[name] {
		r.fail("machine %s was not proven clean before %s got it", name, who)
	}
	if g.Token() <= r.tokens[slot] {
		r.fail("token %d of slot %s is not above %d", g.Token(), slot, r.tokens[slot])
	}
	r.holders[name], r.tokens[slot] = who, g.Token()
	delete(r.clean, name)
}

func (r *referee) gave(g *Guest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.holders, g.Name())
}

// simulation is many harnesses on many hosts over one lease store.
type simulation struct {
	*referee
	t      *testing.T
	hosts  []*fake.Hypervisor
	stores []*cutStore
	pools  []*Pool
	left   atomic.Int64 // tasks
	lost   atomic.Int64 // guests whose lease was lost
	broken atomic.Int64
}

// work does tasks until none is left. Each is done once: one whose machine was
// lost is done again.
func (s *simulation) work(p *Pool, who string, r *rand.Rand) error {
	for s.left.Add(-1) >= 0 {
		for done := false; !done; {
			ctx, cancel := context.WithTimeout(context.Background(), 6*time.Hour)
			g, err := p.Acquire(ctx, Want{Template: [...]string{"a", "b", ""}[r.IntN(3)], Job: who})
			cancel()
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					return fmt.Errorf("%s: a wait that does not end: %w", who, err)
				}
				time.Sleep(time.Minute) // all boots of a template failed
				continue
			}
			s.got(g, who)
			held := g.Context()
			timer := time.NewTimer(time.Duration(1+r.IntN(10)) * time.Second)
			select {
			case <-timer.C:
				done = true
			case <-held.Done():
				timer.Stop()
				s.lost.Add(1)
			}
			var reason error
			if r.IntN(200) == 0 {
				reason = Broken(errTest)
				s.broken.Add(1)
			}
			s.gave(g)
			if g.Release(context.Background(), reason) != nil {
				done = false
			}
		}
	}
	return nil
}

// disturb breaks hosts, machines and the way to the store, one after the other,
// until ctx ends; all is whole again then.
func (s *simulation) disturb(ctx context.Context, r *rand.Rand) {
	rest := func(d time.Duration) bool { return sleep(ctx, d) }
	for rest(time.Duration(1+r.IntN(20)) * time.Second) {
		h := s.hosts[r.IntN(len(s.hosts))]
		switch r.IntN(5) {
		case 0:
			h.Lose(true)
			rest(time.Minute)
			h.Lose(false)
		case 1:
			h.Inject(fake.Fault{Op: vm.OpCreate, Err: errTest, Times: 3}, fake.Fault{Op: vm.OpRevert, Err: errTest, Times: 3})
		case 2:
			h.Inject(fake.Fault{Op: vm.OpCreate, Err: vm.ErrBusy, Times: 5})
		case 3:
			if all, err := h.Driver().List(context.Background()); err == nil && len(all) > 0 {
				_ = h.Crash(all[r.IntN(len(all))].ID)
			}
		case 4:
			c := s.stores[r.IntN(len(s.stores))]
			c.cut.Store(true)
			rest(time.Duration(50+r.IntN(70)) * time.Second)
			c.cut.Store(false)
		}
	}
	for _, h := range s.hosts {
		h.Lose(false)
		h.Heal()
	}
	for _, c := range s.stores {
		c.cut.Store(false)
	}
}

// The full count is a million tasks on 1,000 hosts with 10,000 machines; a hundredth
// of the tasks has a tenth of the harnesses and hosts. What is checked is kept up
// with each hand-out, so that the check costs the same at any size.
func TestSoakAHundredHarnessesShareAThousandHosts(t *testing.T) {
	tasks := need.Soak(t, 10_000, 1_000_000)
	began := time.Now()
	harnesses := min(max(tasks/1000, 10), simHarnesses)
	bubble(t, func(t *testing.T) { simulate(t, tasks, harnesses) })
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d tasks in %v of real time, %d MB of memory from the system", tasks, time.Since(began).Round(time.Second), m.Sys>>20)
}

func simulate(t *testing.T, tasks, harnesses int) {
	s := &simulation{t: t, referee: &referee{clean: map[string]bool{}, holders: map[string]string{}, tokens: map[string]uint64{}}}
	s.left.Store(int64(tasks))
	mem := lease.NewMemStore()
	hosts := harnesses * simShared / 2
	for i := range hosts {
		s.hosts = append(s.hosts, fake.NewHypervisor(fake.Config{
			HostID: fmt.Sprintf("h%d", i), Without: vm.CanMessage, Times: fake.Times{Create: 5 * time.Second, Start: 10 * time.Second, Revert: time.Second},
		}))
	}
	templates := []Template{
		{Name: "a", Clean: s.proved, Snapshot: "clean", Probe: snapshotOnce, MostUses: 50},
		{Name: "b", Clean: s.proved},
	}
	var managers []*lease.Manager
	var drivers []vm.Driver
	for i := range harnesses {
		store := &cutStore{MemStore: mem}
		leases := manager(t, store)
		var own []Host
		for n := range simShared {
			d := s.hosts[(i*simShared/2+n)%hosts].Driver()
			drivers = append(drivers, d)
			own = append(own, Host{Driver: d, Slots: simSlots})
		}
		p, err := New(Config{Name: "sim", Leases: leases, Hosts: own, Templates: templates})
		require.NoError(t, err)
		s.stores, managers, s.pools = append(s.stores, store), append(managers, leases), append(s.pools, p)
	}
	ctx, stop := context.WithCancel(t.Context())
	var trouble, all sync.WaitGroup
	for i := range max(harnesses/5, 4) {
		trouble.Go(func() { s.disturb(ctx, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	failed := make(chan error, harnesses*simCallers)
	for i, p := range s.pools {
		for c := range simCallers {
			all.Go(func() {
				if err := s.work(p, fmt.Sprintf("%d/%d", i, c), rand.New(rand.NewPCG(uint64(i), uint64(c)))); err != nil {
					failed <- err
				}
			})
		}
	}
	begun := time.Now()
	all.Wait()
	took := time.Since(begun)
	stop()
	trouble.Wait()
	select {
	case err := <-failed:
		t.Error(err)
	default:
	}
	require.NoError(t, s.wrong)
	require.Empty(t, s.holders)
	var sum Stats
	for _, p := range s.pools {
		st := p.Stats()
		sum.Grants, sum.LeasesLost, sum.Failures, sum.Leftovers = sum.Grants+st.Grants, sum.LeasesLost+st.LeasesLost, sum.Failures+st.Failures, sum.Leftovers+st.Leftovers
	}
	require.GreaterOrEqual(t, sum.Grants, int64(tasks))
	for i, p := range s.pools {
		require.NoError(t, p.Close(context.Background()))
		require.NoError(t, managers[i].Close(context.Background()))
	}
	for _, d := range drivers {
		require.NoError(t, d.Close())
	}
	// Who was cut off from the store when it gave a machine back left it to
	// whoever has the slot next: nobody, so the reaper.
	reaper := Reaper{Name: "sim", Leases: manager(t, mem), Between: 2 * lease.DefaultTTL}
	var last []vm.Driver
	for _, h := range s.hosts {
		d := h.Driver()
		last = append(last, d)
		reaper.Hosts = append(reaper.Hosts, Host{Driver: d})
	}
	_, err := Reconcile(t.Context(), reaper)
	require.NoError(t, err)
	_, err = reaper.Leases.Sweep(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, reaper.Leases.Close(t.Context()))
	for _, d := range last {
		require.NoError(t, d.Close())
	}
	made := 0
	for _, h := range s.hosts {
		require.Zero(t, h.Count(), "machines are left on %s", h.Driver().HostID())
		require.LessOrEqual(t, h.Peak(), simSlots, "over capacity")
		made += h.Made()
		require.NoError(t, h.Close())
	}
	rs, err := mem.List(context.Background(), "")
	require.NoError(t, err)
	require.Empty(t, rs, "leases are left")
	t.Logf("%d harnesses, %d hosts, %v of virtual time: %d hand-outs, %d machines made, %d lost, %d broken, %d leases lost, %d failures, %d leftovers",
		harnesses, hosts, took.Round(time.Second), sum.Grants, made, s.lost.Load(), s.broken.Load(), sum.LeasesLost, sum.Failures, sum.Leftovers)
}
