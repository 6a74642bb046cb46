package vm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// capabilityTypes are all interfaces that a guard must keep.
var capabilityTypes = []reflect.Type{
	reflect.TypeFor[vm.Machine](), reflect.TypeFor[vm.Waiter](), reflect.TypeFor[vm.Snapshotter](), reflect.TypeFor[vm.Saver](),
	reflect.TypeFor[vm.Attacher](), reflect.TypeFor[vm.Owned](), reflect.TypeFor[vm.Addresser](), reflect.TypeFor[vm.Consoler](),
	reflect.TypeFor[vm.Messenger](), reflect.TypeFor[vm.Suspender](), reflect.TypeFor[vm.Screenshotter](),
	reflect.TypeFor[vm.Halter](),
}

var driverTypes = []reflect.Type{reflect.TypeFor[vm.Driver](), reflect.TypeFor[vm.Forker](), reflect.TypeFor[vm.Stocker]()}

// harmless are the methods that act on nothing and are therefore not fenced.
var harmless = map[string]bool{
	"HostID": true, "ID": true, "Rung": true, "As": true,
	"Size": true, "Close of JobDisk": true,
	"Done": true, "Err": true, "Stats": true, "Incarnation": true, "ID of Stream": true,
}

var errLost = errors.New("lease lost at 12:03")

// callAll calls every method of v that is not harmless and wants each to answer
// errLost. Arguments are zero values but for contexts.
func callAll(t *testing.T, v any, of string) int {
	t.Helper()
	n := 0
	rv := reflect.ValueOf(v)
	for i := range rv.NumMethod() {
		m := rv.Type().Method(i)
		if harmless[m.Name] || harmless[m.Name+" of "+of] {
			continue
		}
		n++
		in := []reflect.Value{rv}
		for k := 1; k < m.Type.NumIn(); k++ {
			if p := m.Type.In(k); p == reflect.TypeFor[context.Context]() {
				in = append(in, reflect.ValueOf(t.Context()))
			} else {
				in = append(in, reflect.Zero(p))
			}
		}
		out := m.Func.Call(in)
		err, _ := out[len(out)-1].Interface().(error)
		require.ErrorIs(t, err, errLost, "%s of %s", m.Name, of)
		require.ErrorContains(t, err, "refused by the fence", "%s of %s", m.Name, of)
		for _, o := range out[:len(out)-1] {
			require.True(t, o.IsZero(), "%s of %s told something beside its error: %v", m.Name, of, o)
		}
	}
	return n
}

// watcher records what reaches a driver, and is a fence.
type watcher struct {
	mu   sync.Mutex
	seen []string
	lost error
}

func (w *watcher) watch(d vm.Driver) vm.Driver {
	return vm.Intercept(d, vm.Interceptor{Call: func(ctx context.Context, op string, _ vm.ID, _ any, do func(context.Context) error) error {
		w.mu.Lock()
		w.seen = append(w.seen, op)
		w.mu.Unlock()
		return do(ctx)
	}})
}

// fence is held until lose.
func (w *watcher) fence() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// lose loses the fence, and records from here on.
func (w *watcher) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.lost = nil, errLost
}

func (w *watcher) got() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

func TestNothingGetsThroughAGuardWhoseFenceIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		raw := fake.New(fake.Config{})
		defer raw.Hypervisor().Close()
		var w watcher
		d := vm.Guard(w.watch(raw), w.fence)
		m := boot(t, d, "m1")
		sv, _ := vm.As[vm.Saver](m)
		require.NoError(t, vm.ProveClean(t.Context(), m))
		require.NoError(t, sv.Save(t.Context(), "parent"))
		f, ok := vm.As[vm.Forker](d)
		require.True(t, ok)
		forked, err := f.Fork(t.Context(), "parent", spec("m2"))
		require.NoError(t, err)
		a, _ := vm.As[vm.Attacher](forked)
		disk, err := a.JobDisk(t.Context(), 0)
		require.NoError(t, err)
		msgr, _ := vm.As[vm.Messenger](forked)
		ch, err := msgr.Channel(t.Context())
		require.NoError(t, err)
		_, err = ch.Ready(t.Context())
		require.NoError(t, err)
		stream, err := ch.Open(0)
		require.NoError(t, err)
		require.NoError(t, stream.Send(t.Context(), 16, nil))

		w.lose()
		// By type assertion: the guard's own methods.
		require.GreaterOrEqual(t, callAll(t, d, "Driver"), 8)
		for _, m := range []vm.Machine{m, forked} {
			require.GreaterOrEqual(t, callAll(t, m, "Machine"), 20)
		}
		require.Equal(t, 3, callAll(t, disk, "JobDisk"))
		require.Equal(t, 5, callAll(t, ch, "Channel"))
		require.Equal(t, 3, callAll(t, stream, "Stream"), "Recv, Send and Close, which forgets the stream")
		// Through As.
		for _, c := range []any{d, m, forked} {
			require.NotZero(t, vm.Capabilities(c))
		}
		mustAs(t, m, callAll)
		_, err = f.Fork(t.Context(), "parent", spec("m3"))
		require.ErrorIs(t, err, errLost)
		// Through what this package does with a machine.
		_, err = vm.Run(t.Context(), forked, vm.RunOptions{})
		require.ErrorIs(t, err, errLost)
		_, err = vm.Renew(t.Context(), forked, vm.Policy{Driver: d, Spec: spec("m4")})
		require.ErrorIs(t, err, errLost)
		require.ErrorIs(t, vm.ProveClean(t.Context(), forked), errLost)
		_, err = vm.Exec(t.Context(), forked, vm.Command{Argv: []string{"true"}})
		require.ErrorIs(t, err, errLost)
		_, err = vm.CopyFrom(t.Context(), forked, "/", io.Discard, nil)
		require.ErrorIs(t, err, errLost)
		require.Empty(t, w.got(), "got through")
		require.NoError(t, disk.Close(), "handles can still be closed")
	})
}

// mustAs finds each capability of a guarded machine by As and calls its methods.
func mustAs(t *testing.T, m vm.Machine, call func(*testing.T, any, string) int) {
	t.Helper()
	each := func(v any, ok bool, n int) {
		require.True(t, ok)
		require.GreaterOrEqual(t, call(t, v, "Machine"), n)
	}
	w, ok := vm.As[vm.Waiter](m)
	each(w, ok, 1)
	s, ok := vm.As[vm.Snapshotter](m)
	each(s, ok, 4)
	sv, ok := vm.As[vm.Saver](m)
	each(sv, ok, 1)
	a, ok := vm.As[vm.Attacher](m)
	each(a, ok, 3)
	o, ok := vm.As[vm.Owned](m)
	each(o, ok, 1)
	ad, ok := vm.As[vm.Addresser](m)
	each(ad, ok, 1)
	c, ok := vm.As[vm.Consoler](m)
	each(c, ok, 1)
	ms, ok := vm.As[vm.Messenger](m)
	each(ms, ok, 1)
	su, ok := vm.As[vm.Suspender](m)
	each(su, ok, 2)
	sc, ok := vm.As[vm.Screenshotter](m)
	each(sc, ok, 1)
	mm, ok := vm.As[vm.Machine](m)
	each(mm, ok, 5)
}

func TestGuardHasEveryCapabilityThereIs(t *testing.T) {
	t.Parallel()
	d := vm.Guard(fake.New(fake.Config{}), func() error { return nil })
	m := vm.GuardMachine(boot(t, d, "m1"), func() error { return nil })
	for _, c := range capabilityTypes {
		require.True(t, reflect.TypeOf(m).Implements(c), "%v", c)
	}
	for _, c := range driverTypes {
		require.True(t, reflect.TypeOf(d).Implements(c), "%v", c)
	}
	// None but these: a method that is new in the driver's own interface
	// cannot be reached through a guard.
	known := map[string]bool{"As": true}
	for _, c := range append(capabilityTypes, driverTypes...) {
		for i := range c.NumMethod() {
			known[c.Method(i).Name] = true
		}
	}
	for _, v := range []any{d, m} {
		for i := range reflect.TypeOf(v).NumMethod() {
			require.True(t, known[reflect.TypeOf(v).Method(i).Name], "%s of the guard is in no interface", reflect.TypeOf(v).Method(i).Name)
		}
	}
	require.NoError(t, d.Close())
}

// special is a driver's own extension, which a guard cannot know.
type special interface{ Backdoor() }

type withBackdoor struct{ vm.Driver }

func (withBackdoor) Backdoor()     {}
func (w withBackdoor) Unwrap() any { return w.Driver }

func TestAsNeverLooksBehindAGuard(t *testing.T) {
	t.Parallel()
	d := withBackdoor{fake.New(fake.Config{})}
	_, ok := vm.As[special](d)
	require.True(t, ok)
	_, ok = vm.As[vm.Forker](d)
	require.True(t, ok, "found by Unwrap")
	g := vm.Guard(d, func() error { return nil })
	_, ok = vm.As[special](g)
	require.False(t, ok)
	_, ok = vm.As[*fake.Driver](g)
	require.False(t, ok)
	_, ok = vm.As[interface{ Unwrap() any }](g)
	require.False(t, ok)
	f, ok := vm.As[vm.Forker](g)
	require.True(t, ok)
	require.Same(t, g, f, "the capability is the guard itself")
	dd, ok := vm.As[vm.Driver](g)
	require.True(t, ok)
	require.Same(t, g, dd)
	_, ok = vm.As[vm.Forker](nil)
	require.False(t, ok)
	_, ok = vm.As[vm.Forker](42)
	require.False(t, ok)
}

func TestGuardHasNoCapabilityThatTheMachineLacks(t *testing.T) {
	t.Parallel()
	all := vm.AllOfMachines | vm.AllOfDrivers
	for bit := vm.Set(1); bit <= vm.CanStock; bit <<= 1 {
		d := fake.New(fake.Config{Without: bit})
		m := boot(t, d, "m1")
		for _, holds := range []vm.Fence{func() error { return nil }, func() error { return errLost }} {
			got := vm.Capabilities(vm.Guard(d, holds)) | vm.Capabilities(vm.GuardMachine(m, holds))
			require.Equal(t, all&^bit, got)
		}
		g := vm.GuardMachine(m, func() error { return nil })
		if bit == vm.CanSnapshot {
			// By assertion one gets the guard, which says so.
			err := g.(vm.Snapshotter).Snapshot(t.Context(), "x")
			require.ErrorIs(t, err, errors.ErrUnsupported)
		}
		require.NoError(t, d.Close())
	}
}

func TestCapabilitySetsAreReadable(t *testing.T) {
	t.Parallel()
	require.Equal(t, "none", vm.Set(0).String())
	require.Equal(t, "Waiter, Forker", (vm.CanFork | vm.CanWait).String())
	require.True(t, vm.AllOfMachines.Has(vm.CanWait|vm.CanMessage))
	require.False(t, vm.AllOfMachines.Has(vm.CanWait|vm.CanFork))
}

func TestMachineMadeWhileTheRightWasLostIsDestroyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		raw := fake.New(fake.Config{Times: fake.Times{Create: time.Minute, Fork: time.Minute}})
		defer raw.Close()
		p, err := raw.Create(t.Context(), spec("p"))
		require.NoError(t, err)
		require.NoError(t, p.Start(t.Context()))
		sv, _ := vm.As[vm.Saver](p)
		require.NoError(t, sv.Save(t.Context(), "parent"))
		require.NoError(t, p.Destroy(t.Context()))
		var lostAt time.Time
		fence := func() error {
			if time.Now().After(lostAt) {
				return errLost
			}
			return nil
		}
		d := vm.Guard(raw, fence)
		lostAt = time.Now().Add(30 * time.Second)
		_, err = d.Create(t.Context(), spec("m1"))
		require.ErrorIs(t, err, errLost)
		require.Zero(t, raw.Hypervisor().Count())
		lostAt = time.Now().Add(30 * time.Second)
		f, _ := vm.As[vm.Forker](d)
		_, err = f.Fork(t.Context(), "parent", spec("m2"))
		require.ErrorIs(t, err, errLost)
		require.Zero(t, raw.Hypervisor().Count())
		require.Equal(t, 3, raw.Hypervisor().Made())
	})
}

func TestWhoeverWaitsWhenTheRightIsLostIsToldNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		raw := fake.New(fake.Config{})
		defer raw.Close()
		var fence watcher
		m := vm.GuardMachine(boot(t, raw, "m1"), fence.fence)
		w, _ := vm.As[vm.Waiter](m)
		told := make(chan error, 1)
		go func() {
			_, err := w.Wait(t.Context())
			told <- err
		}()
		synctest.Wait()
		fence.lose()
		require.NoError(t, raw.Hypervisor().Crash("m1"))
		require.ErrorIs(t, <-told, errLost)
	})
}

func TestInterceptorThatForgetsItsCallAnswersAnError(t *testing.T) {
	t.Parallel()
	raw := fake.New(fake.Config{})
	forgets := vm.Interceptor{Call: func(_ context.Context, op string, _ vm.ID, _ any, _ func(context.Context) error) error { return nil }}
	d := vm.Intercept(raw, forgets)
	_, err := d.Create(t.Context(), spec("m1"))
	require.ErrorContains(t, err, "neither a machine nor an error")
	m := vm.InterceptMachine(boot(t, raw, "m1"), forgets)
	msgr, _ := vm.As[vm.Messenger](m)
	ch, err := msgr.Channel(t.Context())
	require.NoError(t, err)
	require.Nil(t, ch)
	require.NoError(t, raw.Close())
}

func TestInterceptorsAreAskedFromTheOutsideIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var order []string
		named := func(name string) vm.Interceptor {
			return vm.Interceptor{Call: func(ctx context.Context, op string, id vm.ID, _ any, do func(context.Context) error) error {
				order = append(order, fmt.Sprint(name, " ", op, " ", id))
				return do(ctx)
			}}
		}
		raw := fake.New(fake.Config{})
		defer raw.Close()
		d := vm.Intercept(vm.Intercept(raw, named("inner")), named("outer"))
		m := boot(t, d, "m1")
		msgr, _ := vm.As[vm.Messenger](m)
		ch, err := msgr.Channel(t.Context())
		require.NoError(t, err)
		_, err = ch.Ready(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{
			"outer create m1", "inner create m1", "outer start m1", "inner start m1",
			"outer channel m1", "inner channel m1", "outer ready m1", "inner ready m1",
		}, order)
	})
}
