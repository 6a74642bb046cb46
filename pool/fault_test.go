package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// Each fault of the fake, in each state of a machine and for each way to renew it:
// waits end, nothing is shared, nothing leaks, and once it is healed the pool works
// again.
func TestEachFaultInEachState(t *testing.T) {
	t.Parallel()
	type kind struct {
		name  string
		fault fake.Fault
	}
	kinds := []kind{
		{"error", fake.Fault{Err: errTest}},
		{"late error", fake.Fault{Err: errTest, Late: true}},
		{"busy", fake.Fault{Err: vm.ErrBusy}},
		{"host lost", fake.Fault{Err: vm.ErrHostLost}},
		{"not found", fake.Fault{Err: vm.ErrNotFound}},
		{"hang", fake.Fault{Hang: true, Times: 3}},
		{"delay", fake.Fault{Delay: 30 * time.Second}},
	}
	guests := map[string]fake.Guest{
		"boot fails": {Fail: true}, "silent": {Silent: true}, "deaf": {Deaf: true}, "wrong hello": {WrongHello: true},
		"other hello": {OtherHello: true}, "dirty": {Dirty: "job 7"}, "crash in boot": {Crash: true}, "slow": {Slow: time.Minute},
		"crash when ready": {Crash: true, CrashAfter: 30 * time.Second}, "powers off": {PowerOff: 20 * time.Second}, "second boot": {SecondBoot: true},
	}
	states := []string{"new", "booting", "ready", "held", "renewing", "idle out", "closing", "closing and renewing"}
	// Which operations each way to renew needs; those that all need are with the first.
	for _, way := range []struct {
		rung vm.Rung
		ops  []string
		boot string // what boots a guest
	}{
		{vm.RungCold, []string{
			vm.OpCreate, vm.OpStart, vm.OpDestroy, vm.OpList, vm.OpInfo, vm.OpOpen, vm.OpWait, vm.OpChannel, vm.OpReady, vm.OpPing,
		}, vm.OpStart},
		{vm.RungRevert, []string{vm.OpSnapshot, vm.OpRevert, vm.OpInfo, vm.OpEject}, vm.OpRevert},
		{vm.RungFork, []string{vm.OpFork, vm.OpParents, vm.OpStock}, vm.OpFork},
	} {
		var faults []kind
		for _, op := range way.ops {
			for _, k := range kinds {
				if op == vm.OpDestroy && k.name == "not found" {
					continue // it says that the machine is gone: then nobody can know better
				}
				k.fault.Op = op
				faults = append(faults, kind{op + " " + k.name, k.fault})
			}
		}
		for name, g := range guests {
			faults = append(faults, kind{"guest " + name, fake.Fault{Op: way.boot, Guest: g}})
		}
		for _, f := range faults {
			for _, state := range states {
				t.Run(fmt.Sprintf("%s/%s while %s", way.rung, f.name, state), func(t *testing.T) {
					bubble(t, func(t *testing.T) { underFault(t, way.rung, state, f.fault) })
				})
			}
		}
	}
}

func underFault(t *testing.T, way vm.Rung, state string, fault fake.Fault) {
	h := hypervisor("h")
	a := Template{Name: "a", Ready: 1, Idle: IdleFor(time.Minute), BootTimeout: 2 * time.Minute, RenewTimeout: 2 * time.Minute}
	op := vm.OpCreate // which only the other template and its renewals call, if this way works
	switch way {
	case vm.RungRevert:
		a.Snapshot, a.Probe, op = "clean", snapshotOnce, vm.OpRevert
	case vm.RungFork:
		a.Parent, op = "p", vm.OpFork
		withParent(t, h, "p")
	}
	w := start(t, Config{
		Templates: []Template{a, {Name: "b"}},
		Hosts:     []Host{{Slots: 2, Keepalive: 2 * time.Minute}}, Poll: 5 * time.Minute,
	}, h)
	var g *Guest
	hit := func() { h.Inject(fault) }
	switch state {
	case "new":
		hit()
	case "booting":
		time.Sleep(500 * time.Millisecond)
		hit()
	case "ready":
		time.Sleep(10 * time.Second)
		hit()
	case "held":
		g = w.acquire(Want{})
		hit()
	case "renewing":
		g = w.acquire(Want{})
		w.release(g)
		g = nil
		time.Sleep(100 * time.Millisecond)
		hit()
	case "idle out":
		gs, err := w.AcquireAll(t.Context(), 2, Want{Template: "a"})
		require.NoError(t, err)
		for _, g := range gs {
			w.release(g)
		}
		time.Sleep(10 * time.Second)
		hit()
		time.Sleep(time.Minute)
	case "closing", "closing and renewing":
		time.Sleep(10 * time.Second)
		if state != "closing" {
			w.release(w.acquire(Want{Template: "a"}))
		}
		hit()
		defer time.AfterFunc(20*time.Second, h.Heal).Stop()
		require.NoError(t, w.Close(t.Context()))
		h.Heal()
		w.finish()
		return
	}
	// Every wait ends, with a machine that is clean or with a reason.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
				g, err := w.Acquire(ctx, Want{Template: []string{"a", "b"}[i%2]})
				cancel()
				if err != nil {
					var op *OpError
					assert.ErrorAs(t, err, &op)
					continue
				}
				// The machine itself may be a victim by now; the hand-out is not.
				assert.NoError(t, g.fence())
				soil(t, g)
				time.Sleep(10 * time.Second)
				assert.NoError(t, g.Release(t.Context(), nil))
			}
		})
	}
	wg.Wait()
	if g != nil {
		w.release(g)
	}
	require.LessOrEqual(t, h.Peak(), 2, "never over capacity")
	h.Heal()
	time.Sleep(time.Hour) // as long as any quarantine
	for _, template := range []string{"a", "b"} {
		g := w.acquire(Want{Template: template})
		require.NoError(t, vm.ProveClean(t.Context(), g.Machine()))
		w.release(g)
	}
	time.Sleep(20 * time.Minute)
	require.Equal(t, 1, w.Stats().Ready, w)
	require.LessOrEqual(t, h.Peak(), 2)
	require.Positive(t, h.Calls(op), "the way was not gone")
	w.finish()
}

// soil makes a machine dirty that must be clean, where it still answers.
func soil(t *testing.T, g *Guest) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := vm.ProveClean(ctx, g.Machine()); err != nil {
		assert.NotErrorIs(t, err, vm.ErrDirty, "handed out dirty")
		return
	}
	_, _ = g.Exec(ctx, vm.Command{Argv: []string{"true"}})
}

// FIELD (c) 14: retried every 5 s for ever; and waiters who are never told.
func TestBootsThatFailInARowAreToldToThoseWhoWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "bad", Spec: vm.Spec{Memory: 1}}, {Name: "good"}}, Hosts: []Host{{Slots: 2}}},
			hypervisor("h", fake.Fault{Op: vm.OpStart, Machine: "*", Guest: fake.Guest{Fail: true}}))
		defer w.finish()
		began := time.Now()
		_, err := w.Acquire(t.Context(), Want{Template: "bad"})
		require.ErrorContains(t, err, "3 boots of template bad in a row failed")
		var op *vm.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, 10*time.Second+20*time.Second, time.Since(began).Truncate(time.Second))
		// A day of nobody asking or one asking: hardly any attempts.
		for range 24 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			_, err = w.Acquire(ctx, Want{Template: "bad"})
			require.Error(t, err)
			cancel()
		}
		require.LessOrEqual(t, w.hyper[0].Calls(vm.OpStart), 40)
		require.Positive(t, w.Stats().Quarantined)
		w.hyper[0].Heal()
		g := w.acquire(Want{Template: "bad"})
		require.Zero(t, w.Stats().Quarantined, "one success ends it")
		w.release(g)
	})
}

func TestABootThatFailsOnOneHostIsTriedOnAnotherAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 2}, {Slots: 1}}},
			hypervisor("h1", fake.Fault{Op: vm.OpCreate, Err: errTest}), hypervisor("h2"))
		defer w.finish()
		began := time.Now()
		g := w.acquire(Want{})
		require.Equal(t, "h2", g.Host())
		require.Less(t, time.Since(began), 5*time.Second)
		time.Sleep(time.Hour)
		require.LessOrEqual(t, w.hyper[0].Calls(vm.OpCreate), 1, "nobody waits: nothing is tried")
		w.release(g)
	})
}

// FIELD P12, P13: a host that may refuse.
func TestABusyHostIsPassedOverAndNothingIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Name: "busy", Slots: 3}, {Name: "free", Slots: 1}}},
			hypervisor("h1", fake.Fault{Op: vm.OpCreate, Err: vm.ErrBusy}), hypervisor("h2"))
		defer w.finish()
		g := w.acquire(Want{})
		require.Equal(t, "free", g.Host())
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := w.Acquire(ctx, Want{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "busy is busy, next try in")
		require.Less(t, w.hyper[0].Calls(vm.OpCreate), 80, "no busy loop")
		s := w.Stats()
		require.Zero(t, s.Failures)
		require.Zero(t, s.Quarantined)
		w.hyper[0].Heal()
		began := time.Now()
		g2 := w.acquire(Want{})
		require.Equal(t, "busy", g2.Host())
		require.LessOrEqual(t, time.Since(began), 62*time.Second)
		w.release(g)
		w.release(g2)
	})
}

func TestASickHostIsLeftAloneForAllTemplatesAndProbedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", Failures: 99}, {Name: "b", Failures: 99}, {Name: "c", Failures: 99}}, Hosts: []Host{{Slots: 3}}},
			hypervisor("h", fake.Fault{Op: vm.OpCreate, Err: errTest}))
		defer w.finish()
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			wg.Go(func() {
				g, err := w.Acquire(t.Context(), Want{Template: name})
				if assert.NoError(t, err) {
					time.Sleep(time.Second)
					w.release(g)
				}
			})
		}
		time.Sleep(15 * time.Minute)
		require.Less(t, w.hyper[0].Calls(vm.OpCreate), 20)
		w.hyper[0].Heal()
		wg.Wait()
		require.Zero(t, w.Stats().Quarantined)
	})
}

// FIELD (c) 17: one failing cleanup blocks the others.
func TestOneFailingCleanupDoesNotBlockTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h", fake.Fault{Op: vm.OpDestroy, Machine: "stuck", Err: errTest})
		w := start(t, Config{Name: "p", Templates: one("a")}, h)
		id, _ := w.store.ID(t.Context())
		for i, name := range []string{"stuck", "other", "third"} {
			owned(t, w.drivers[0], name, vm.Owner{Store: id, Slot: slotKey("h", 10+i)})
		}
		g := w.acquire(Want{})
		time.Sleep(2 * time.Minute)
		require.ElementsMatch(t, []string{"stuck", g.Name()}, listed(t, w.drivers[0]))
		w.release(g)
		h.Heal()
		time.Sleep(2 * time.Minute)
		w.finish()
	})
}

func TestAMachineThatCannotBeDestroyedKeepsItsSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, h)
		g := w.acquire(Want{})
		h.Inject(fake.Fault{Op: vm.OpDestroy, Err: errTest})
		w.release(g)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := w.Acquire(ctx, Want{})
		require.ErrorContains(t, err, "1 destroying")
		require.Equal(t, 1, h.Peak())
		require.Less(t, h.Calls(vm.OpDestroy), 80)
		h.Heal()
		g = w.acquire(Want{})
		w.release(g)
		w.finish()
	})
}

func TestProbeAndCleanGateTheHandOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		bad := map[string]error{"clean": errTest, "probe": errTest}
		gate := func(name string) func(context.Context, vm.Machine) error {
			return func(context.Context, vm.Machine) error {
				mu.Lock()
				defer mu.Unlock()
				return bad[name]
			}
		}
		heal := func(name string) {
			mu.Lock()
			defer mu.Unlock()
			bad[name] = nil
		}
		w := start(t, Config{Templates: []Template{{Name: "a", Clean: gate("clean"), Probe: gate("probe")}}}, hypervisor("h"))
		defer w.finish()
		_, err := w.Acquire(t.Context(), Want{})
		require.ErrorContains(t, err, "not clean")
		heal("clean")
		_, err = w.Acquire(t.Context(), Want{})
		require.ErrorContains(t, err, "not ready")
		require.ErrorIs(t, err, errTest)
		heal("probe")
		w.release(w.acquire(Want{}))
	})
}

func TestABootThatNeverEndsIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: []Template{{Name: "a", BootTimeout: time.Minute, Failures: 1}}},
			hypervisor("h", fake.Fault{Op: vm.OpStart, Guest: fake.Guest{Silent: true}}))
		defer w.finish()
		_, err := w.Acquire(t.Context(), Want{})
		require.ErrorContains(t, err, "not ready after 1m0s")
	})
}

func TestValidationNamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	d, d2 := hypervisor("h").Driver(), hypervisor("h").Driver()
	h := []Host{{Driver: d, Slots: 2}}
	with := func(f func(*Template)) Config {
		tp := Template{Name: "a"}
		f(&tp)
		return Config{Hosts: h, Templates: []Template{tp}}
	}
	for text, c := range map[string]Config{
		"Config.Hosts is empty, want at least one host":                                        {},
		"Config.Templates is empty, want at least one template":                                {Hosts: h},
		"Config.Hosts[0].Driver is nil, want an open vm.Driver":                                {Hosts: []Host{{}}, Templates: one("a")},
		"Config.Hosts[0].Slots is -1, want 0 or more":                                          {Hosts: []Host{{Driver: d, Slots: -1}}, Templates: one("a")},
		"Config.Hosts[0].Starts is -1":                                                         {Hosts: []Host{{Driver: d, Slots: 1, Starts: -1}}, Templates: one("a")},
		"Config.Hosts[0].Keepalive is -1s":                                                     {Hosts: []Host{{Driver: d, Slots: 1, Keepalive: -time.Second}}, Templates: one("a")},
		"Config.Hosts is without a single slot":                                                {Hosts: []Host{{Driver: d}}, Templates: one("a")},
		`Config.Hosts[1].Name is "h", want a name other than that of Hosts[0]`:                 {Hosts: []Host{{Driver: d, Slots: 1}, {Name: "h", Driver: d2}}, Templates: one("a")},
		`Config.Hosts[1].Driver is of host "h", want a hypervisor other than that of Hosts[0]`: {Hosts: []Host{{Driver: d, Slots: 1}, {Name: "x", Driver: d2}}, Templates: one("a")},
		`Config.Templates[1].Name is "a", want a name other than that of Templates[0]`:         {Hosts: h, Templates: append(one("a"), one("a")...)},
		"Config.Templates[0].Name is empty":                                                    {Hosts: h, Templates: one("")},
		"Config.Templates[0].Ready is -1, want 0 or more":                                      with(func(t *Template) { t.Ready = -1 }),
		"Config.Templates[0].Ready is 2, want at most Most (1)":                                with(func(t *Template) { t.Ready, t.Most = 2, 1 }),
		"Config.Templates[0].Ready is 3, want at most the 2 that its hosts have slots for":     with(func(t *Template) { t.Ready = 3 }),
		"Config.Templates[0].Weight is 3, want no more than the slots of a host":               with(func(t *Template) { t.Weight = 3 }),
		`Config.Templates[0].Locks is "x", want locks of Config.Locks ([])`:                    with(func(t *Template) { t.Locks = []string{"x"} }),
		`Config.Templates[0].Hosts is "x", want names of hosts ([h])`:                          with(func(t *Template) { t.Hosts = []string{"x"} }),
		"Config.Templates[0].MostAge is -1s":                                                   with(func(t *Template) { t.MostAge = -time.Second }),
		"Config.Templates[0].BootTimeout is -1s":                                               with(func(t *Template) { t.BootTimeout = -time.Second }),
		"Config.Templates[0].RenewTimeout is -1s":                                              with(func(t *Template) { t.RenewTimeout = -time.Second }),
		"Config.Templates[0].Spec is refused: spec: CPUs is -1":                                with(func(t *Template) { t.Spec.CPUs = -1 }),
		`Config.Templates[0].Spec is refused: spec: Properties has key "a b"`:                  with(func(t *Template) { t.Properties = map[string]string{"a b": ""} }),
		"Config.Poll is -1s":  {Hosts: h, Templates: one("a"), Poll: -time.Second},
		"Config.Drain is -1s": {Hosts: h, Templates: one("a"), Drain: -time.Second},
		`Config.Locks["x"] is 0, want a name, and 1 or more holders`: {Hosts: h, Templates: one("a"), Locks: map[string]int{"x": 0}},
	} {
		_, err := New(c)
		require.ErrorContains(t, err, "pool: "+text)
	}
}

func TestErrorsAreWords(t *testing.T) {
	t.Parallel()
	require.EqualError(t, &OpError{Op: "release", What: "vm-1", Err: errTest}, "pool: release vm-1: on purpose")
	require.EqualError(t, &OpError{Op: opWait, What: "one of 2 machines", Waited: 1234 * time.Millisecond, Why: "x", Err: errTest},
		"pool: waited 1.2s for one of 2 machines (x): on purpose")
	require.Equal(t, "p--p-3-0123456789ab", machineName("-.p/ p", 3, "01234567-89ab-cdef"))
	require.Equal(t, "pool-0-0123456789ab", machineName("..", 0, "01234567-89ab-cdef"))
	require.Len(t, machineName(fmt.Sprintf("%0100d", 1), 0, "01234567-89ab-cdef"), 55)
	require.True(t, IsBroken(fmt.Errorf("x: %w", Broken(errTest))))
	require.False(t, errors.Is(Broken(errTest), ErrBusy))
	synctest.Test(t, func(*testing.T) {})
}
