package vmtest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is the fake's, with whatever is put in front of it.
type harness struct {
	h       *fake.Hypervisor
	without vm.Set
	front   func(vm.Driver) vm.Driver // nil: nothing
	n       *atomic.Int64
}

func newHarness(c fake.Config) harness {
	c.Job = func(ctx context.Context, j *fake.Job) error {
		if string(j.Go) == "hang" {
			<-ctx.Done()
		}
		return nil
	}
	c.Exec = func(ctx context.Context, call *fake.Call) vm.Exit {
		return fake.BuiltIn(ctx, call)
	}
	return harness{h: fake.NewHypervisor(c), without: c.Without, n: new(atomic.Int64)}
}

func (h harness) Open(context.Context) (vm.Driver, error) {
	if h.front != nil {
		return h.front(h.h.Driver()), nil
	}
	return h.h.Driver(), nil
}

func (h harness) Spec() vm.Spec {
	n := h.n.Add(1)
	return vm.Spec{
		Name: fmt.Sprintf("m%d", n), Template: "tiny", JobDisks: []int64{64 << 10, 128 << 10}, Inputs: 2,
		Owner:  vm.Owner{Pool: "vmtest", Incarnation: fmt.Sprintf("inc%d", n)},
		Secret: vm.Secret(fmt.Sprintf("pssst%d", n)),
	}
}

func (h harness) Without() vm.Set { return h.without }

func (h harness) Job(_ context.Context, _ vm.Machine, hang bool) ([]byte, error) {
	if hang {
		return []byte("hang"), nil
	}
	return []byte("end"), nil
}

// slow times make every operation take a while, on the clock of a bubble.
var slow = fake.Times{
	Create: time.Second, Start: time.Second, Boot: 5 * time.Second, Stop: time.Second, Kill: time.Second, Destroy: time.Second,
	Snapshot: time.Second, Revert: time.Second, Save: time.Second, Fork: time.Second, Suspend: time.Second,
}

func TestFakeConforms(t *testing.T) {
	t.Parallel()
	h := newHarness(fake.Config{})
	vmtest.Run(t, h)
	require.NoError(t, h.h.Close())
	require.Zero(t, h.h.Count(), "machines that the suite left")
}

func TestFakeConformsHoweverItIsWrapped(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func() harness{
		"slow": func() harness { return newHarness(fake.Config{Times: slow}) },
		"behind Wrap without faults": func() harness {
			h := newHarness(fake.Config{Times: slow})
			h.front = func(d vm.Driver) vm.Driver { return fake.Wrap(d) }
			return h
		},
		"behind a guard that holds": func() harness {
			h := newHarness(fake.Config{})
			h.front = func(d vm.Driver) vm.Driver { return vm.Guard(d, func() error { return nil }) }
			return h
		},
		"behind two guards and Wrap": func() harness {
			h := newHarness(fake.Config{})
			holds := func() error { return nil }
			h.front = func(d vm.Driver) vm.Driver { return vm.Guard(fake.Wrap(vm.Guard(d, holds)), holds) }
			return h
		},
		"without anything optional": func() harness {
			return newHarness(fake.Config{Without: vm.AllOfDrivers | vm.AllOfMachines})
		},
		"with a channel only": func() harness {
			return newHarness(fake.Config{Without: (vm.AllOfDrivers | vm.AllOfMachines) &^ vm.CanMessage})
		},
		"with the dead man's switch": func() harness { return newHarness(fake.Config{Keepalive: time.Minute}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := build()
				for _, v := range vmtest.Check(t.Context(), h) {
					t.Error(v)
				}
				assert.NoError(t, h.h.Close())
				assert.Zero(t, h.h.Count(), "machines that the suite left")
			})
		})
	}
}
