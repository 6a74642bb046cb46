package vm_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// ladderTimes tell the rungs apart.
var ladderTimes = fake.Times{Boot: 10 * time.Second, Fork: time.Second, Revert: 3 * time.Second, Destroy: 100 * time.Millisecond}

// used is a machine with the snapshot "clean" and a parent "parent", that ran a
// command.
func used(t *testing.T, d vm.Driver) vm.Machine {
	t.Helper()
	if sv, ok := vm.As[vm.Saver](boot(t, d, "p")); ok {
		require.NoError(t, sv.Save(t.Context(), "parent"))
	}
	p, err := d.Open(t.Context(), "p")
	require.NoError(t, err)
	require.NoError(t, p.Destroy(t.Context()))
	m := boot(t, d, "old")
	require.NoError(t, vm.ProveClean(t.Context(), m))
	if s, ok := vm.As[vm.Snapshotter](m); ok {
		require.NoError(t, s.Snapshot(t.Context(), "clean"))
	}
	exit, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
	require.NoError(t, err)
	require.True(t, exit.OK())
	return m
}

func TestLadderPicksByCapabilityAndSaysWhatItSkipped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config  fake.Config
		rungs   []vm.Rung
		parent  string
		snap    string
		fresh   bool // there is no machine yet
		faults  []fake.Fault
		rung    vm.Rung
		cost    time.Duration
		skipped string // rungs and what their reasons contain
		err     error
		left    string // the machine left beside an error
	}{
		"fork is the cheapest":         {parent: "parent", snap: "clean", rung: vm.RungFork, cost: 1100 * time.Millisecond},
		"restore where it is no fork":  {config: fake.Config{Rung: vm.RungRestore}, parent: "parent", snap: "clean", rung: vm.RungRestore, cost: 1100 * time.Millisecond, skipped: "fork: the driver's way is restore"},
		"revert without a parent":      {snap: "clean", rung: vm.RungRevert, cost: 3 * time.Second, skipped: "fork: no parent is named; restore: no parent is named"},
		"revert where parents are not": {config: fake.Config{Without: vm.CanFork | vm.CanSave}, parent: "parent", snap: "clean", rung: vm.RungRevert, cost: 3 * time.Second, skipped: "fork: the driver makes no machines from parents; restore: the driver"},
		"cold when all else is not":    {config: fake.Config{Without: vm.CanFork | vm.CanSave | vm.CanSnapshot}, parent: "parent", snap: "clean", rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: ; restore: ; revert: the machine keeps no snapshots"},
		"an unknown parent":            {parent: "nobody", snap: "clean", rung: vm.RungRevert, cost: 3 * time.Second, skipped: "fork: parent nobody: no such machine; restore: "},
		"an unknown snapshot":          {snap: "nothing", rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: ; restore: ; revert: snapshot nothing: no such"},
		"from nothing":                 {parent: "", snap: "clean", fresh: true, rung: vm.RungCold, cost: 10 * time.Second, skipped: "fork: ; restore: ; revert: there is no machine yet"},
		"from nothing by fork":         {parent: "parent", fresh: true, rung: vm.RungFork, cost: time.Second},
		"the order of the caller":      {rungs: []vm.Rung{vm.RungCold, vm.RungFork}, parent: "parent", rung: vm.RungCold, cost: 10100 * time.Millisecond},

		"a fork that fails": {parent: "parent", snap: "clean", faults: []fake.Fault{{Op: vm.OpFork, Err: errors.New("no memory")}},
			rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: no memory; restore: ; revert: the machine was destroyed for the rung before"},
		"a fork that is not clean": {parent: "parent", faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Dirty: "old"}}},
			rung: vm.RungCold, cost: 11200 * time.Millisecond, skipped: "fork: machine is not clean; restore: ; revert: no snapshot"},
		"a fork that crashes": {parent: "parent", faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Silent: true, Crash: true, CrashAfter: 2 * time.Second}}},
			rung: vm.RungCold, cost: 13200 * time.Millisecond, skipped: "fork: the guest's channel has ended; restore: ; revert: "},
		"listing the parents fails": {parent: "parent", snap: "clean", faults: []fake.Fault{{Op: vm.OpParents, Err: errors.New("timeout")}},
			rung: vm.RungRevert, cost: 3 * time.Second, skipped: "fork: timeout; restore: "},
		"a revert that leaves the mark": {snap: "clean", faults: []fake.Fault{{Op: vm.OpRevert, Guest: fake.Guest{Dirty: "old"}}},
			rung: vm.RungCold, cost: 13100 * time.Millisecond, skipped: "fork: ; restore: ; revert: machine is not clean"},
		"a revert that fails": {snap: "clean", faults: []fake.Fault{{Op: vm.OpRevert, Err: errors.New("not supported yet")}},
			rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: ; restore: ; revert: not supported yet"},
		"a slow rollback": {snap: "clean", faults: []fake.Fault{{Op: vm.OpRevert, Delay: time.Minute}}, rung: vm.RungRevert, cost: 63 * time.Second, skipped: "fork: ; restore: "},
		"an input that cannot be ejected": {snap: "clean", faults: []fake.Fault{{Op: vm.OpEject, Err: errors.New("in use")}},
			rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: ; restore: ; revert: in use"},

		"beside one that is halted":          {config: fake.Config{Halts: true}, parent: "parent", rung: vm.RungFork, cost: time.Second},
		"beside one that is halted, by boot": {config: fake.Config{Halts: true}, rung: vm.RungCold, cost: 10 * time.Second, skipped: "fork: ; restore: ; revert: "},
		"no place beside one that is halted": {config: fake.Config{Halts: true, Capacity: 1}, parent: "parent", rung: vm.RungFork, cost: 1100 * time.Millisecond},
		"one that cannot be halted": {config: fake.Config{Halts: true}, parent: "parent", faults: []fake.Fault{{Op: vm.OpHalt, Err: errors.ErrUnsupported}},
			rung: vm.RungFork, cost: 1100 * time.Millisecond},
		"a fork that fails beside one that is halted": {config: fake.Config{Halts: true}, parent: "parent", snap: "clean", faults: []fake.Fault{{Op: vm.OpFork, Err: errors.New("no memory")}},
			rung: vm.RungCold, cost: 10100 * time.Millisecond, skipped: "fork: no memory; restore: ; revert: the machine was destroyed for the rung before"},
		"a fork that is not clean beside one that is halted": {config: fake.Config{Halts: true}, parent: "parent", faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Dirty: "old"}}},
			rung: vm.RungCold, cost: 11100 * time.Millisecond, skipped: "fork: machine is not clean; restore: ; revert: no snapshot"},
		"one that is halted and stays": {config: fake.Config{Halts: true}, parent: "parent", faults: []fake.Fault{{Op: vm.OpDestroy, Machine: "old", Err: errors.New("device busy")}},
			err: errAny, skipped: "fork: old: it could not be destroyed: vm: destroy old (fake): device busy", left: "old"},
		"a host that is lost beside one that is halted": {config: fake.Config{Halts: true}, parent: "parent", faults: []fake.Fault{{Op: vm.OpFork, Err: vm.ErrHostLost, Times: 1}},
			err: vm.ErrHostLost, skipped: "fork: host lost"},
		"neither goes": {config: fake.Config{Halts: true}, rungs: []vm.Rung{vm.RungCold}, faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Fail: true}}, {Op: vm.OpDestroy, Machine: "old", Err: errors.New("device busy")}},
			err: errAny, skipped: "cold: device busy", left: "old"},

		"a busy host stops it": {parent: "parent", snap: "clean", faults: []fake.Fault{{Op: vm.OpFork, Err: vm.ErrBusy}}, err: vm.ErrBusy, skipped: "fork: busy"},
		"a lost host stops it": {parent: "parent", snap: "clean", faults: []fake.Fault{{Op: vm.OpParents, Err: vm.ErrHostLost}}, err: vm.ErrHostLost, skipped: "fork: host lost", left: "old"},
		"nothing works": {rungs: []vm.Rung{vm.RungRevert, vm.RungCold}, snap: "clean", faults: []fake.Fault{{Op: vm.OpRevert, Err: errors.New("no")}, {Op: vm.OpStart, Guest: fake.Guest{Fail: true}}},
			err: errAny, skipped: "revert: no; cold: the boot failed"},
		"the old one cannot be destroyed": {faults: []fake.Fault{{Op: vm.OpDestroy, Machine: "old", Err: errors.New("device busy")}},
			err: errAny, skipped: "fork: ; restore: ; revert: ; cold: old: it could not be destroyed: vm: destroy old (fake): device busy", left: "old"},
		"the new one cannot be destroyed": {parent: "parent", faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Dirty: "old"}}, {Op: vm.OpDestroy, Machine: "new", Err: errors.New("device busy")}},
			err: vm.ErrDirty, skipped: "fork: device busy", left: "new"},
		"a rung that is none":    {rungs: []vm.Rung{vm.RungNone}, err: errAny, left: "old"},
		"a rung named twice":     {rungs: []vm.Rung{vm.RungCold, vm.RungCold}, err: errAny, left: "old"},
		"a rung that is no rung": {rungs: []vm.Rung{99}, err: errAny, left: "old"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c.config.Times = ladderTimes
				d := fake.New(c.config)
				h := d.Hypervisor()
				defer h.Close()
				m := used(t, d)
				if c.fresh {
					require.NoError(t, m.Destroy(t.Context()))
					m = nil
				}
				h.Inject(c.faults...)
				began := time.Now()
				s := spec("new")
				r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Rungs: c.rungs, Parent: c.parent, Snapshot: c.snap})
				require.Equal(t, r.Cost, time.Since(began))
				var want []string
				if c.skipped != "" {
					want = strings.Split(c.skipped, "; ")
				}
				require.Len(t, r.Skipped, len(want), "%v", r.Skipped)
				for i, w := range want {
					rung, reason, _ := strings.Cut(w, ": ")
					require.Equal(t, rung, r.Skipped[i].Rung.String())
					require.ErrorContains(t, r.Skipped[i].Err, reason)
				}
				h.Heal()
				if c.err != nil {
					require.Error(t, err)
					if c.err != errAny {
						require.ErrorIs(t, err, c.err)
					}
					require.Equal(t, vm.RungNone, r.Rung)
					if c.left == "" {
						require.Nil(t, r.Machine)
						require.Zero(t, h.Count(), "nothing is left")
						return
					}
					require.Equal(t, vm.ID(c.left), r.Machine.ID())
					require.Equal(t, 1, h.Count())
					return
				}
				require.NoError(t, err)
				require.Equal(t, c.rung, r.Rung)
				require.Equal(t, c.cost, r.Cost)
				require.Equal(t, 1, h.Count(), "one machine for one slot")
				require.NoError(t, vm.ProveClean(t.Context(), r.Machine))
				if c.rung == vm.RungRevert {
					require.Equal(t, vm.ID("old"), r.Machine.ID())
				} else {
					require.Equal(t, vm.ID("new"), r.Machine.ID())
				}
			})
		})
	}
}

var errAny = errors.New("any error")

func TestLadderNeverHasTwoMachinesForOneSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: ladderTimes, Capacity: 1, Faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Dirty: "x"}}}})
		defer d.Close()
		m := used(t, d)
		r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: spec("new"), Parent: "parent"})
		require.NoError(t, err)
		require.Equal(t, vm.RungCold, r.Rung)
		require.Equal(t, 1, d.Hypervisor().Peak())
	})
}

func TestLadderThatIsCancelledLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	// A boot under way takes 10.1 s; cancel it at many moments.
	for at := 50 * time.Millisecond; at < 11*time.Second; at += 700 * time.Millisecond {
		t.Run(at.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := fake.New(fake.Config{Times: ladderTimes})
				defer d.Hypervisor().Close()
				m := used(t, d)
				ctx, cancel := context.WithTimeout(t.Context(), at)
				defer cancel()
				r, err := vm.Renew(ctx, m, vm.Policy{Driver: d, Spec: spec("new")})
				if err == nil {
					require.Equal(t, 1, d.Hypervisor().Count())
					return
				}
				require.ErrorIs(t, err, context.DeadlineExceeded)
				if at < ladderTimes.Destroy {
					require.NoError(t, r.Machine.Destroy(t.Context()), "the old one is not gone yet")
				} else {
					require.Nil(t, r.Machine)
				}
				require.Zero(t, d.Hypervisor().Count())
			})
		})
	}
}

func TestRevertThatLeavesTheMachineOffIsStarted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: ladderTimes})
		defer d.Close()
		m := used(t, d)
		off := vm.InterceptMachine(m, vm.Interceptor{Call: func(ctx context.Context, op string, _ vm.ID, _ any, do func(context.Context) error) error {
			err := do(ctx)
			if op == vm.OpRevert && err == nil {
				err = m.Kill(ctx)
			}
			return err
		}})
		r, err := vm.Renew(t.Context(), off, vm.Policy{Driver: d, Spec: spec("new"), Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert}})
		require.NoError(t, err)
		require.Equal(t, 13*time.Second, r.Cost, "reverted, and booted")
		require.NoError(t, vm.ProveClean(t.Context(), r.Machine))
	})
}

func TestRevertOneAfterTheOtherWhileTheChannelComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: ladderTimes})
		defer d.Close()
		m := used(t, d)
		msgr, _ := vm.As[vm.Messenger](m)
		var before *vm.Channel
		for range 10 {
			_, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: spec("new"), Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert}})
			require.NoError(t, err)
			ch, err := msgr.Channel(t.Context())
			require.NoError(t, err)
			if before != nil {
				require.NotSame(t, before, ch)
				<-before.Done()
			}
			before = ch
			end, err := vm.Run(t.Context(), m, vm.RunOptions{})
			require.NoError(t, err)
			require.Equal(t, vm.EndDone, end.Kind)
		}
		// Two at once: one is refused, none is half done.
		s, _ := vm.As[vm.Snapshotter](m)
		first := make(chan error, 1)
		go func() { first <- s.Revert(t.Context(), "clean") }()
		time.Sleep(time.Second)
		require.ErrorIs(t, s.Revert(t.Context(), "clean"), vm.ErrState)
		require.NoError(t, <-first)
		require.NoError(t, vm.ProveClean(t.Context(), m))
	})
}

func TestInputsAreEjectedByARevert(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var in vm.Image
		d := fake.New(fake.Config{Job: func(_ context.Context, j *fake.Job) error { in = j.Input(1); return nil }})
		defer d.Close()
		m := used(t, d)
		a, _ := vm.As[vm.Attacher](m)
		require.NoError(t, a.Insert(t.Context(), 1, image{}))
		_, err := vm.Run(t.Context(), m, vm.RunOptions{})
		require.NoError(t, err)
		require.NotNil(t, in)
		_, err = vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: spec("old"), Snapshot: "clean"})
		require.NoError(t, err)
		_, err = vm.Run(t.Context(), m, vm.RunOptions{})
		require.NoError(t, err)
		require.Nil(t, in)
	})
}

// image is an input of no bytes.
type image struct{}

func (image) ReadAt([]byte, int64) (int, error) { return 0, errors.New("empty") }
func (image) Size() int64                       { return 0 }
func (image) Digest() string                    { return "sha256:0" }

func TestProofOfCleanSeesEachWayOfBeingDirty(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config fake.Config
		do     func(t *testing.T, d *fake.Driver, m vm.Machine)
		err    error
		text   string
	}{
		"clean":  {},
		"a mark": {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Dirty: "job 7"}}}}, err: vm.ErrDirty, text: `it bears the mark "job 7"`},
		"a command since": {do: func(t *testing.T, _ *fake.Driver, m vm.Machine) {
			_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
			require.NoError(t, err)
		}, err: vm.ErrDirty, text: "1 jobs, commands or copies were started since it was ready"},
		"another incarnation": {do: func(t *testing.T, _ *fake.Driver, m vm.Machine) {
			o, _ := vm.As[vm.Owned](m)
			require.NoError(t, o.SetOwner(t.Context(), vm.Owner{Incarnation: "other"}))
		}, err: vm.ErrDirty, text: `the guest is incarnation "inc-m1", the machine "other"`},
		"it answers nothing":     {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Deaf: true}}}}, err: context.DeadlineExceeded, text: "no answer from the guest"},
		"it says nothing":        {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Silent: true}}}}, err: context.DeadlineExceeded, text: "no hello from the guest"},
		"it does not run":        {do: func(t *testing.T, d *fake.Driver, _ vm.Machine) { require.NoError(t, d.Hypervisor().Crash("m1")) }, err: vm.ErrState},
		"it cannot be looked at": {config: fake.Config{Faults: []fake.Fault{{Op: vm.OpInfo, Err: vm.ErrHostLost}}}, err: vm.ErrHostLost},
		"there is no channel":    {config: fake.Config{Without: vm.CanMessage}, err: errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := fake.New(c.config)
				defer d.Close()
				m := boot(t, d, "m1")
				if c.do != nil {
					c.do(t, d, m)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := vm.ProveClean(ctx, m)
				require.ErrorIs(t, err, c.err)
				if c.text != "" {
					require.ErrorContains(t, err, c.text)
				}
			})
		})
	}
}
