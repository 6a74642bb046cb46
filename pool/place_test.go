package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// withParent makes a parent on a hypervisor, as a harness does before.
func withParent(t *testing.T, h *fake.Hypervisor, name string) *fake.Hypervisor {
	t.Helper()
	d := h.Driver()
	require.NoError(t, vm.MakeParent(t.Context(), d, name, vm.Spec{Name: "for-" + name, Owner: vm.Owner{Incarnation: "for-" + name}}))
	require.NoError(t, d.Close())
	return h
}

// seen collects what a pool tells.
type seen struct {
	mu     sync.Mutex
	events []Event
}

func (s *seen) trace() *Trace {
	return &Trace{Event: func(e Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e)
	}}
}

func (s *seen) of(kind EventKind) (out []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// listed waits until all hosts were listed.
func (w *world) listed() {
	w.Helper()
	synctest.Wait()
	_, err := w.Reconcile(w.Context(), ReconcileOptions{})
	require.NoError(w, err)
	synctest.Wait()
}

// over gives all guests back and finishes.
func (w *world) over() {
	w.Helper()
	w.mu.Lock()
	var held []*Guest
	for u := range w.units {
		if u.guest != nil {
			held = append(held, u.guest)
		}
	}
	w.mu.Unlock()
	for _, g := range held {
		w.release(g)
	}
	w.finish()
}

// site is one host of a table: its slots and those used, and what it has.
type site struct {
	slots, used     int
	parents, inputs string // with spaces; "?": not known
	paused, sick    bool
}

func (s site) put(h *host, now time.Time) {
	h.used, h.paused = s.used, s.paused
	for _, k := range []struct {
		of    *known
		names string
	}{{&h.have.parents, s.parents}, {&h.have.inputs, s.inputs}} {
		if k.names == "?" {
			k.of.set(nil, errTest)
		} else {
			k.of.set(strings.Fields(k.names), nil)
		}
	}
	if s.sick {
		h.lost.Failure(now, "on purpose")
	}
}

func TestMachinesAreMadeWhereTheirParentAndInputsAreWithinABound(t *testing.T) {
	for name, c := range map[string]struct {
		sites []site
		t     Template
		want  Want
		where string
	}{
		"the least loaded, where nothing is known":        {sites: []site{{4, 1, "", "", false, false}, {4, 0, "", "", false, false}}, where: "h1"},
		"the first of equal ones":                         {sites: []site{{4, 1, "", "", false, false}, {8, 2, "", "", false, false}}, where: "h0"},
		"the one with the parent":                         {sites: []site{{4, 0, "", "", false, false}, {4, 1, "p q", "", false, false}}, where: "h1"},
		"another parent is none":                          {sites: []site{{4, 0, "", "", false, false}, {4, 1, "q", "", false, false}}, where: "h0"},
		"not at half of its slots more":                   {sites: []site{{4, 0, "", "", false, false}, {4, 2, "p", "", false, false}}, where: "h0"},
		"at less than half of its slots more":             {sites: []site{{8, 2, "", "", false, false}, {8, 5, "p", "", false, false}}, where: "h1"},
		"the least loaded of two with the parent":         {sites: []site{{4, 0, "", "", false, false}, {4, 2, "p", "", false, false}, {4, 1, "p", "", false, false}}, where: "h2"},
		"an error is not a parent":                        {sites: []site{{4, 1, "?", "?", false, false}, {4, 0, "", "", false, false}}, where: "h1"},
		"an error is not the want of one":                 {sites: []site{{4, 0, "?", "?", false, false}, {4, 1, "", "", false, false}}, where: "h0"},
		"not when it is full":                             {sites: []site{{4, 1, "", "", false, false}, {1, 1, "p", "", false, false}}, where: "h0"},
		"not when it is paused":                           {sites: []site{{4, 1, "", "", false, false}, {4, 0, "p", "", true, false}}, where: "h0"},
		"not when it is quarantined":                      {sites: []site{{4, 1, "", "", false, false}, {4, 0, "p", "", false, true}}, where: "h0"},
		"not when it is to be avoided":                    {sites: []site{{4, 3, "", "", false, false}, {4, 0, "p", "", false, false}}, want: Want{Avoid: []string{"h1"}}, where: "h0"},
		"when all others are to be avoided":               {sites: []site{{4, 0, "", "", false, false}, {4, 3, "p", "", false, false}}, want: Want{Avoid: []string{"h0"}}, where: "h1"},
		"not when the template does not fork":             {sites: []site{{4, 0, "", "", false, false}, {4, 1, "p", "", false, false}}, t: Template{Rungs: []vm.Rung{vm.RungCold}}, where: "h0"},
		"when the template may fork":                      {sites: []site{{4, 0, "", "", false, false}, {4, 1, "p", "", false, false}}, t: Template{Rungs: []vm.Rung{vm.RungFork, vm.RungCold}}, where: "h1"},
		"not where a heavy one has no room":               {sites: []site{{4, 1, "", "", false, false}, {4, 2, "p", "", false, false}}, t: Template{Weight: 3}, where: "h0"},
		"the one with the inputs":                         {sites: []site{{8, 0, "", "", false, false}, {8, 1, "", "a b", false, false}}, want: Want{Inputs: []string{"a", "b"}}, where: "h1"},
		"the one with more of them":                       {sites: []site{{8, 1, "", "a", false, false}, {8, 1, "", "a b", false, false}}, want: Want{Inputs: []string{"a", "b"}}, where: "h1"},
		"half of them count half":                         {sites: []site{{8, 0, "", "", false, false}, {8, 1, "", "a", false, false}}, want: Want{Inputs: []string{"a", "b"}}, where: "h0"},
		"not at a quarter of its slots more":              {sites: []site{{8, 0, "", "", false, false}, {8, 2, "", "a", false, false}}, want: Want{Inputs: []string{"a"}}, where: "h0"},
		"nobody's inputs count":                           {sites: []site{{8, 0, "", "", false, false}, {8, 1, "", "a b", false, false}}, where: "h0"},
		"the parent before the inputs":                    {sites: []site{{8, 0, "", "a", false, false}, {8, 1, "p", "", false, false}}, want: Want{Inputs: []string{"a"}}, where: "h1"},
		"both add up":                                     {sites: []site{{8, 0, "", "", false, false}, {8, 5, "p", "a", false, false}}, want: Want{Inputs: []string{"a"}}, where: "h1"},
		"at three quarters it is never preferred":         {sites: []site{{8, 0, "", "", false, false}, {8, 6, "p", "a", false, false}}, want: Want{Inputs: []string{"a"}}, where: "h0"},
		"as many slots are not as much load on all hosts": {sites: []site{{100, 10, "", "", false, false}, {10, 5, "p", "", false, false}}, where: "h1"},
		"nowhere": {sites: []site{{4, 4, "", "", false, false}, {4, 4, "p", "", false, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c.t.Name, c.t.Parent = "a", "p"
				var hosts []Host
				var hyper []*fake.Hypervisor
				for i, s := range c.sites {
					hosts = append(hosts, Host{Slots: s.slots})
					hyper = append(hyper, hypervisor(fmt.Sprint("h", i)))
				}
				w := start(t, Config{Templates: []Template{c.t}, Hosts: hosts}, hyper...)
				defer w.over()
				w.listed()
				w.mu.Lock()
				now := time.Now()
				for i, h := range w.hosts {
					c.sites[i].put(h, now)
				}
				_, h := w.pickClass(w.q.Demand("", nil).Classes(), now, &c.want)
				where := ""
				if h != nil {
					where = h.Name
				}
				for _, h := range w.hosts {
					site{}.put(h, now)
					h.lost.Success()
				}
				w.mu.Unlock()
				require.Equal(t, c.where, where)
			})
		})
	}
}

// Whatever the hosts have: the choice is a host that can take the machine, Avoid
// goes before all, and none is preferred to another one beyond its credit. Where
// nothing is had it is the least loaded one.
func TestNoChoiceGoesBeyondItsCredit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(rt, "hosts")
		sites := make([]site, n)
		for i := range sites {
			slots := rapid.IntRange(1, 12).Draw(rt, "slots")
			sites[i] = site{
				slots: slots, used: rapid.IntRange(0, slots).Draw(rt, "used"),
				parents: rapid.SampledFrom([]string{"", "p", "q", "?"}).Draw(rt, "parents"), inputs: rapid.SampledFrom([]string{"", "a", "a b", "?"}).Draw(rt, "inputs"),
				paused: rapid.IntRange(0, 5).Draw(rt, "paused") == 0, sick: rapid.IntRange(0, 5).Draw(rt, "sick") == 0,
			}
		}
		weight := rapid.IntRange(1, 2).Draw(rt, "weight")
		var want Want
		for i := range rapid.IntRange(0, n).Draw(rt, "avoid") {
			want.Avoid = append(want.Avoid, fmt.Sprint("h", i))
		}
		want.Inputs = rapid.SampledFrom([][]string{nil, {"a"}, {"a", "b"}, {"c"}}).Draw(rt, "inputs")
		now := time.Now()
		p := &Pool{config: Config{}}
		tmpl := newTemplate(Template{Name: "a", Weight: weight, Parent: "p"})
		pl := &place{template: tmpl}
		for i, s := range sites {
			h := newHost(Host{Name: fmt.Sprint("h", i), Slots: s.slots, Driver: fake.New(fake.Config{})})
			h.listed = true
			h.pairs[tmpl] = nil
			delete(h.pairs, tmpl)
			s.put(h, now)
			pl.hosts = append(pl.hosts, h)
			p.hosts = append(p.hosts, h)
		}
		for _, h := range p.hosts {
			h.pairs[tmpl] = &h.sick // healthy
		}
		var best candidate
		p.choose(&best, pl, now, &want)
		share := func(i int) float64 { return float64(sites[i].used) / float64(sites[i].slots) }
		avoided := func(i int) bool { return i < len(want.Avoid) }
		credit := func(i int) float64 {
			c := 0.0
			if sites[i].parents == "p" {
				c += 0.5
			}
			for _, in := range want.Inputs {
				if strings.Contains(" "+sites[i].inputs+" ", " "+in+" ") {
					c += 0.25 / float64(len(want.Inputs))
				}
			}
			return c
		}
		at := -1
		for i, h := range p.hosts {
			if h == best.host {
				at = i
			}
		}
		can := func(i int) bool { return sites[i].used+weight <= sites[i].slots && !sites[i].paused && !sites[i].sick }
		for i := range sites {
			switch {
			case !can(i):
				if i == at {
					rt.Fatalf("%d cannot take it: %+v", i, sites[i])
				}
			case at < 0:
				rt.Fatalf("%d could take it", i)
			case avoided(at) && !avoided(i):
				rt.Fatalf("%d is to be avoided, %d is not", at, i)
			case avoided(at) == avoided(i) && share(at)-credit(at) > share(i)-credit(i)+1e-9:
				rt.Fatalf("%d (%v less %v) was taken before %d (%v less %v)", at, share(at), credit(at), i, share(i), credit(i))
			case avoided(at) == avoided(i) && share(at)-share(i) > 0.75:
				rt.Fatalf("%d (%v) was taken before %d (%v)", at, share(at), i, share(i))
			case avoided(at) == avoided(i) && credit(at) <= credit(i) && share(at) > share(i):
				rt.Fatalf("%d (%v) was taken before %d (%v), which has as much", at, share(at), i, share(i))
			}
		}
	})
}

func TestAMachineIsForkedOnTheHostThatHasItsParent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var s seen
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p"}}, Trace: s.trace(), Hosts: []Host{{Slots: 4}, {Slots: 4}}},
			hypervisor("h0"), withParent(t, hypervisor("h1"), "p"))
		defer w.over()
		g := w.acquire(Want{})
		require.Equal(t, "h1", g.Host())
		require.Equal(t, "fork", w.Guests()[0].Rung)
		require.EqualValues(t, 1, w.Stats().FromParent)
		require.Zero(t, w.Stats().Cold)
		require.Equal(t, "it has parent p; 0 of its 4 slots are used", s.of(EventBoot)[0].Place)
		require.Equal(t, "made from parent p", s.of(EventReady)[0].Reason)
		// The second is where it is too: one of four slots is less than half.
		require.Equal(t, "h1", w.acquire(Want{}).Host())
		require.Equal(t, "h0", w.acquire(Want{}).Host(), "two of four are half: the idle host is as good, and less loaded")
		boots := s.of(EventBoot)
		require.Equal(t, "it has no parent p; those that have it: h1 (loaded); 0 of its 4 slots are used", boots[2].Place)
		require.Equal(t, "booted from cold", s.of(EventReady)[2].Reason)
		require.EqualValues(t, 1, w.Stats().Cold)
	})
}

// One host has the parent, and more is wanted than it should take: the others do
// not idle.
func TestTheHostWithTheParentIsNotFlooded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hyper := []*fake.Hypervisor{withParent(t, hypervisor("h0"), "p"), hypervisor("h1"), hypervisor("h2")}
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p", Ready: 15}}, Hosts: []Host{{Slots: 10}, {Slots: 10}, {Slots: 10}}}, hyper...)
		defer w.over()
		w.listed()
		time.Sleep(time.Minute)
		on := map[string]int{}
		for _, g := range w.Guests() {
			on[g.Host]++
		}
		require.Equal(t, map[string]int{"h0": 8, "h1": 4, "h2": 3}, on, "it has five more than the others, and there its lead ends")
	})
}

func TestWhatAHostHasIsForgottenWhenItCannotSay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var s seen
		h := withParent(t, hypervisor("h1"), "p")
		h.Stock("a")
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p"}}, Trace: s.trace(), Hosts: []Host{{Slots: 2}, {Slots: 8}}}, hypervisor("h0"), h)
		defer w.over()
		w.listed()
		ticket := func() string {
			var held []*Guest
			for range 10 {
				held = append(held, w.acquire(Want{}))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := w.Request(ctx, Want{Inputs: []string{"a", "b"}})
			require.NoError(t, err)
			why := r.Progress().Reason
			r.Cancel()
			for _, g := range held {
				w.release(g)
			}
			return why
		}
		why := ticket()
		require.Contains(t, why, "parent p is on h1")
		require.Contains(t, why, "inputs are on h1 (1 of 2)")
		require.Zero(t, w.Stats().Unlisted)

		h.Inject(fake.Fault{Op: vm.OpParents, Err: errTest}, fake.Fault{Op: vm.OpStock, Err: errTest})
		time.Sleep(2 * DefaultPoll)
		why = ticket()
		require.Contains(t, why, "parent p is on no host, not known of h1 (")
		require.Contains(t, why, "inputs are on no host, not known of h1 (")
		require.Contains(t, why, errTest.Error())
		require.Equal(t, 1, w.Stats().Unlisted)
		require.Zero(t, w.Stats().Quarantined, "it lists its machines: it is no lost host")
		var told []string
		for _, e := range s.of(EventFailed) {
			if errors.Is(e.Err, errTest) && strings.HasPrefix(e.Reason, "listing") {
				told = append(told, e.Host+" "+e.Reason)
			}
		}
		require.Equal(t, []string{"h1 listing parents", "h1 listing inputs"}, told, "once, not at every look")

		h.Heal()
		time.Sleep(DefaultPoll)
		require.Zero(t, w.Stats().Unlisted)
		require.Contains(t, ticket(), "parent p is on h1")
	})
}

// A host that does not answer the question holds nothing up for longer than its
// bound, and no lock meanwhile.
func TestAHostThatNeverSaysWhatItHasIsUsedAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := withParent(t, hypervisor("h"), "p")
		h.Inject(fake.Fault{Op: vm.OpParents, Hang: true, Times: 1}, fake.Fault{Op: vm.OpStock, Hang: true, Times: 1})
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p"}}}, h)
		defer w.over()
		begun := time.Now()
		synctest.Wait()
		require.Zero(t, w.Stats().Unlisted, "not asked to the end yet")
		g := w.acquire(Want{})
		require.LessOrEqual(t, time.Since(begun), 2*askTimeout+time.Second)
		require.Equal(t, 1, w.Stats().Unlisted)
		w.release(g)
	})
}

func TestAParentThatCannotBeForkedIsNotReliedOnUntilItIsListedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := withParent(t, hypervisor("h0"), "p")
		h.Inject(fake.Fault{Op: vm.OpFork, Err: errTest})
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p"}}, Hosts: []Host{{Slots: 4}, {Slots: 4}}}, h, hypervisor("h1"))
		defer w.over()
		w.listed()
		a, b := w.acquire(Want{}), w.acquire(Want{})
		require.Equal(t, []string{"h0", "h1"}, []string{a.Host(), b.Host()})
		require.EqualValues(t, 2, w.Stats().Cold)
		h.Heal()
		time.Sleep(DefaultPoll)
		require.Equal(t, "h0", w.acquire(Want{}).Host())
		require.EqualValues(t, 1, w.Stats().FromParent)
	})
}

// A host that listed its parents before the machine was made from one that is
// new there has it all the same.
func TestABootShowsThatAHostHasTheParent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h1")
		w := start(t, Config{Poll: time.Hour, Templates: []Template{{Name: "a", Parent: "p"}}, Hosts: []Host{{Slots: 8}, {Slots: 8}}}, hypervisor("h0"), h)
		defer w.over()
		w.listed()
		withParent(t, h, "p")
		a := w.acquire(Want{})
		require.Equal(t, "h0", a.Host())
		require.Equal(t, "h1", w.acquire(Want{}).Host(), "the less loaded one")
		require.EqualValues(t, 1, w.Stats().FromParent)
		require.Equal(t, "h1", w.acquire(Want{}).Host(), "it is known by now")
		require.Equal(t, "h1", w.acquire(Want{}).Host())
	})
}

func TestRoomIsMadeOnTheHostThatHasTheParent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Parent: "p"}, {Name: "b", Ready: 4, Idle: IdleNever}}, Hosts: []Host{{Slots: 2}, {Slots: 2}}},
			hypervisor("h0"), withParent(t, hypervisor("h1"), "p"))
		defer w.over()
		w.listed()
		time.Sleep(time.Minute)
		require.Equal(t, 4, w.Stats().Ready)
		require.Equal(t, "h1", w.acquire(Want{Template: "a"}).Host())
	})
}

func TestAFreeMachineIsTakenWhereTheInputsAre(t *testing.T) {
	for name, c := range map[string]struct {
		stock [3]string // by host
		used  [3]int    // machines in use, of the four of each host
		want  Want
		n     int
		where string
	}{
		"of one that has them":               {stock: [3]string{"", "", "a b"}, want: Want{Inputs: []string{"a", "b"}}, where: "h2"},
		"of the one that has most":           {stock: [3]string{"a", "a b", "b"}, want: Want{Inputs: []string{"a", "b"}}, where: "h1"},
		"within a quarter of its slots":      {stock: [3]string{"a", "", ""}, used: [3]int{1, 0, 0}, want: Want{Inputs: []string{"a"}}, where: "h1 h2"},
		"the less used of two that have":     {stock: [3]string{"a", "a", ""}, used: [3]int{2, 1, 1}, want: Want{Inputs: []string{"a"}}, where: "h1"},
		"all of them, and one that has none": {stock: [3]string{"a", "", ""}, used: [3]int{3, 1, 3}, want: Want{Inputs: []string{"a"}}, n: 2, where: "h1"},
		"not one that is to be avoided":      {stock: [3]string{"a", "", ""}, used: [3]int{0, 4, 0}, want: Want{Inputs: []string{"a"}, Avoid: []string{"h0"}}, where: "h2"},
		"one that is to be avoided is last":  {stock: [3]string{"a", "a", ""}, used: [3]int{1, 4, 4}, want: Want{Inputs: []string{"a"}, Avoid: []string{"h0"}}, where: "h0"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var s seen
				hyper := []*fake.Hypervisor{hypervisor("h0"), hypervisor("h1"), hypervisor("h2")}
				for i, h := range hyper {
					h.Stock(strings.Fields(c.stock[i])...)
				}
				w := start(t, Config{
					Templates: []Template{{Name: "a", Ready: 12}}, Hosts: []Host{{Slots: 4}, {Slots: 4}, {Slots: 4}}, Trace: s.trace(),
				}, hyper...)
				defer w.over()
				w.listed()
				time.Sleep(time.Minute)
				require.Equal(t, 12, w.Stats().Ready)
				use(w, c.used)
				for range max(c.n, 1) {
					before := w.Stats().Boots
					g, err := w.TryAcquire(t.Context(), c.want)
					require.NoError(t, err)
					require.Contains(t, strings.Fields(c.where), g.Host())
					require.Equal(t, before, w.Stats().Boots)
				}
				granted := s.of(EventGranted)
				require.Regexp(t, `^its host has \d of \d inputs$`, granted[len(granted)-1].Place)
			})
		})
	}
}

// use takes so many machines of each host, whichever the pool hands out first.
func use(w *world, used [3]int) {
	w.Helper()
	for i, n := range used {
		for range n {
			var others []string
			for o := range used {
				if o != i {
					others = append(others, fmt.Sprint("h", o))
				}
			}
			g, err := w.TryAcquire(w.Context(), Want{Avoid: others})
			require.NoError(w, err)
			require.Equal(w, fmt.Sprint("h", i), g.Host())
		}
	}
}

// Where is not who: a machine that comes free goes to the first waiter, also when
// it is nearer to the inputs of the second.
func TestInputsNeverChangeWhoseTurnItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h0")
		h.Stock("a")
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}, {Slots: 1}}}, h, hypervisor("h1"))
		defer w.over()
		w.listed()
		held := []*Guest{w.acquire(Want{}), w.acquire(Want{})}
		if held[0].Host() != "h0" {
			held[0], held[1] = held[1], held[0]
		}
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, want := range []Want{{Job: "first"}, {Job: "second", Inputs: []string{"a"}}, {Job: "third", Inputs: []string{"a"}}} {
			wg.Go(func() {
				g := w.acquire(want)
				mu.Lock()
				order = append(order, want.Job)
				mu.Unlock()
				w.release(g)
			})
			synctest.Wait()
		}
		w.release(held[0])
		wg.Wait()
		require.Equal(t, []string{"first", "second", "third"}, order)
		w.release(held[1])
	})
}

// AcquireAll with inputs gets all its machines at once, the nearest ones.
func TestSeveralMachinesAreTakenNearTheirInputsTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h1")
		h.Stock("a")
		w := start(t, Config{Templates: []Template{{Name: "a", Ready: 16}}, Hosts: []Host{{Slots: 8}, {Slots: 8}}}, hypervisor("h0"), h)
		defer w.over()
		w.listed()
		time.Sleep(time.Minute)
		gs, err := w.AcquireAll(t.Context(), 5, Want{Inputs: []string{"a"}})
		require.NoError(t, err)
		on := map[string]int{}
		for _, g := range gs {
			on[g.Host()]++
		}
		require.Equal(t, map[string]int{"h0": 2, "h1": 3}, on, "two more than the other, a quarter of its slots, and there it ends")
	})
}

// The first host that answers does not get all machines; one that is slow to
// answer is not waited for.
func TestTheFirstHostThatAnswersDoesNotGetAllMachines(t *testing.T) {
	for name, c := range map[string]struct {
		delay time.Duration
		ready time.Duration // of the first machine
		on    map[string]int
	}{
		"all at once":       {0, time.Second, map[string]int{"h0": 4, "h1": 3}},
		"one a little late": {firstLook / 2, firstLook/2 + time.Second, map[string]int{"h0": 4, "h1": 3}},
		"one very late":     {20 * time.Second, firstLook + time.Second, map[string]int{"h0": 6}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, Config{Templates: []Template{{Name: "a", Ready: 6}}, Hosts: []Host{{Slots: 6}, {Slots: 6}}},
					hypervisor("h0"), hypervisor("h1", fake.Fault{Op: vm.OpList, Delay: c.delay, Times: 1}))
				defer w.over()
				begun := time.Now()
				w.acquire(Want{})
				require.Equal(t, c.ready, time.Since(begun))
				time.Sleep(time.Second)
				on := map[string]int{}
				for _, g := range w.Guests() {
					on[g.Host]++
				}
				require.Equal(t, c.on, on)
			})
		})
	}
}

// Between two listings of the hosts, calls for the same inputs keep together.
func TestTheNextCallForTheSameInputsGoesWhereTheFirstWent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Poll: time.Hour, Templates: []Template{{Name: "a", Ready: 24}}, Hosts: []Host{{Slots: 8}, {Slots: 8}, {Slots: 8}}},
			hypervisor("h0"), hypervisor("h1"), hypervisor("h2", fake.Fault{Op: vm.OpStock, Err: errTest}))
		defer w.over()
		w.listed()
		time.Sleep(time.Minute)
		for _, in := range []string{"a", "b", "c", "d"} {
			first := w.acquire(Want{Inputs: []string{in}})
			second := w.acquire(Want{Inputs: []string{in}})
			if first.Host() != "h2" {
				require.Equal(t, first.Host(), second.Host())
			}
			w.release(first)
			w.release(second)
			synctest.Wait()
			time.Sleep(5 * time.Second)
		}
		w.mu.Lock()
		require.Empty(t, w.hosts[2].have.inputs.names, "it cannot say what it has, so nothing is taken for granted")
		w.mu.Unlock()
	})
}
