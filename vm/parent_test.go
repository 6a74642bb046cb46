package vm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestAParentIsMadeOnceAndItsMachineIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: ladderTimes})
		h := d.Hypervisor()
		defer h.Close()
		require.NoError(t, vm.MakeParent(t.Context(), d, "parent", spec("first")))
		require.Zero(t, h.Count())
		began := time.Now()
		require.NoError(t, vm.MakeParent(t.Context(), d, "parent", spec("second")))
		require.Zero(t, time.Since(began), "it is there: nothing is booted")
		r, err := vm.Renew(t.Context(), nil, vm.Policy{Driver: d, Spec: spec("child"), Parent: "parent"})
		require.NoError(t, err)
		require.Equal(t, vm.RungFork, r.Rung)
	})
}

func TestAParentThatSomebodyElseMakesMeanwhileIsAsGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: ladderTimes})
		h := d.Hypervisor()
		defer h.Close()
		h.Inject(fake.Fault{Op: vm.OpSave, Err: vm.ErrExists})
		require.NoError(t, vm.MakeParent(t.Context(), d, "parent", spec("late")))
		require.Zero(t, h.Count())
	})
}

func TestWhateverGoesWrongWithAParentItsMachineIsDestroyed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config fake.Config
		fault  fake.Fault
		is     error
		says   string
		left   int
	}{
		"the listing":   {fault: fake.Fault{Op: vm.OpParents, Err: vm.ErrHostLost}, is: vm.ErrHostLost},
		"the making":    {fault: fake.Fault{Op: vm.OpCreate, Err: vm.ErrBusy}, is: vm.ErrBusy},
		"the boot":      {fault: fake.Fault{Op: vm.OpStart, Guest: fake.Guest{Fail: true}}, says: "the boot failed"},
		"the proof":     {fault: fake.Fault{Op: vm.OpStart, Guest: fake.Guest{Dirty: "old"}}, is: vm.ErrDirty},
		"the save":      {fault: fake.Fault{Op: vm.OpSave, Err: errors.New("disk full")}, says: "disk full"},
		"the removal":   {fault: fake.Fault{Op: vm.OpDestroy, Err: errors.New("in use")}, says: "in use", left: 1},
		"the driver":    {config: fake.Config{Without: vm.CanFork}, is: errors.ErrUnsupported},
		"the machine's": {config: fake.Config{Without: vm.CanSave}, is: errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c.config.Times = ladderTimes
				d := fake.New(c.config)
				h := d.Hypervisor()
				defer h.Close()
				if c.fault.Op != "" {
					h.Inject(c.fault)
				}
				err := vm.MakeParent(t.Context(), d, "parent", spec("first"))
				require.Error(t, err)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				require.ErrorContains(t, err, c.says)
				require.Equal(t, c.left, h.Count())
			})
		})
	}
}
