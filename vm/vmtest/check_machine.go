package vmtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

var machineChecks = []check{
	{
		name: "start",
		rule: "Start returns when the hypervisor runs the machine. Starting one that runs is ErrState and changes nothing.",
		do: func(e *env) {
			m, _ := e.boot()
			want(e, e.info(m).State, vm.StateRunning, "the state after Start")
			e.is(m.Start(e), vm.ErrState, "Start of a machine that runs")
			want(e, e.info(m).State, vm.StateRunning, "the state after the second Start")
		},
	},
	{
		name: "start-race",
		rule: "Changes of state that overlap are ErrState: of several Starts at once exactly one succeeds, also through handles of another driver.",
		do: func(e *env) {
			m, _ := e.create()
			other, err := e.open().Open(e, m.ID())
			e.must(err, "Open by another driver")
			handles := []vm.Machine{m, other, m, other}
			won := 0
			for _, err := range together(len(handles), func(i int) error { return handles[i].Start(e) }) {
				switch {
				case err == nil:
					won++
				case !errors.Is(err, vm.ErrState):
					e.errorf("a Start that lost: got %s, want %q", quote(err), vm.ErrState)
				}
			}
			want(e, won, 1, "the number of Starts that succeeded")
			want(e, e.info(m).State, vm.StateRunning, "the state afterwards")
		},
	},
	{
		name: "start-ended-context",
		rule: "Start with a context that has ended answers an error, and the machine does not run.",
		do: func(e *env) {
			m, _ := e.create()
			if m.Start(ended(e)) == nil {
				e.errorf("Start with an ended context: got no error")
			}
			if s := e.info(m).State; s == vm.StateRunning || s == vm.StateStarting {
				e.errorf("the machine is %v afterwards, want it not to run", s)
			}
			e.ok(m.Start(e), "Start afterwards")
		},
	},
	{
		name: "start-again",
		rule: "A machine that ran and ended can be started again.",
		do: func(e *env) {
			m, _ := e.boot()
			e.must(m.Kill(e), "Kill")
			e.ok(m.Start(e), "Start after Kill")
			want(e, e.info(m).State, vm.StateRunning, "the state afterwards")
		},
	},
	{
		name: "kill",
		rule: "Kill ends a machine at once and returns when it does not run any more; its end is EndKilled, its state stopped. Killing one that does not run is no error.",
		do: func(e *env) {
			m, _ := e.create()
			e.ok(m.Kill(e), "Kill of a machine that never ran")
			want(e, e.info(m).State, vm.StateDefined, "the state after that")
			e.must(m.Start(e), "Start")
			e.ok(m.Kill(e), "Kill")
			i := e.info(m)
			want(e, i.State, vm.StateStopped, "the state after Kill")
			if i.End == nil || i.End.Kind != vm.EndKilled {
				e.errorf("Info.End after Kill is %+v, want kind %v", i.End, vm.EndKilled)
			}
			e.ok(m.Kill(e), "Kill again")
		},
	},
	{
		name: "stop",
		rule: "Stop asks the guest to power off and returns; the machine ends as EndPoweredOff, its state stopped. Stopping one that does not run is no error.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.create()
			e.ok(m.Stop(e), "Stop of a machine that never ran")
			e.must(m.Start(e), "Start")
			ready(e, m)
			e.must(m.Stop(e), "Stop")
			e.state(m, vm.StateStopped)
			if i := e.info(m); i.End == nil || i.End.Kind != vm.EndPoweredOff {
				e.errorf("Info.End after Stop is %+v, want kind %v", i.End, vm.EndPoweredOff)
			}
			e.ok(m.Stop(e), "Stop again")
		},
	},
	{
		name: "destroy",
		rule: "Destroy removes a machine in any state with all that was made for it. Afterwards it is not listed, not found, and cannot be used.",
		do: func(e *env) {
			defined, _ := e.create()
			running, _ := e.boot()
			killed, _ := e.boot()
			e.must(killed.Kill(e), "Kill")
			for _, m := range []vm.Machine{defined, running, killed} {
				e.ok(m.Destroy(e), "Destroy")
				e.absent(m.ID())
				_, err := m.Info(e)
				e.is(err, vm.ErrNotFound, "Info of a machine that is gone")
				e.is(m.Start(e), vm.ErrNotFound, "Start of a machine that is gone")
			}
		},
	},
	{
		name: "destroy-idempotent",
		rule: "Destroy may be called again, at once and by others, also when the machine is gone: no error.",
		do: func(e *env) {
			m, _ := e.boot()
			other, err := e.open().Open(e, m.ID())
			e.must(err, "Open by another driver")
			handles := []vm.Machine{m, other, m, other}
			for _, err := range together(len(handles), func(i int) error { return handles[i].Destroy(e) }) {
				e.ok(err, "Destroy, several at once")
			}
			e.ok(m.Destroy(e), "Destroy of a machine that is gone")
			e.ok(other.Destroy(e), "Destroy by another driver of a machine that is gone")
		},
	},
	{
		name: "destroy-retry",
		rule: "Destroy may be called again after an error: one whose context had ended leaves nothing that a second one cannot remove.",
		do: func(e *env) {
			m, _ := e.boot()
			_ = m.Destroy(ended(e)) // it may have done it all the same
			e.ok(m.Destroy(e), "Destroy after one whose context had ended")
			e.absent(m.ID())
		},
	},
	{
		name: "isolation",
		rule: "A change to one machine leaves the others alone.",
		do: func(e *env) {
			a, _ := e.boot()
			b, s := e.boot()
			e.must(a.Kill(e), "Kill of the first")
			want(e, e.info(b).State, vm.StateRunning, "the second's state after the first was killed")
			e.must(a.Destroy(e), "Destroy of the first")
			i := e.info(b)
			want(e, i.State, vm.StateRunning, "the second's state after the first was destroyed")
			want(e, i.Owner, s.Owner, "the second's ownership after the first was destroyed")
		},
	},
}

var closeChecks = []check{
	{
		name: "close",
		rule: "Close is idempotent. Calls after it answer ErrClosed, also on machines.",
		do: func(e *env) {
			m, _ := e.create()
			e.ok(e.d.Close(), "Close")
			e.ok(e.d.Close(), "Close again")
			_, err := e.d.List(e)
			e.is(err, vm.ErrClosed, "List after Close")
			_, err = e.d.Open(e, m.ID())
			e.is(err, vm.ErrClosed, "Open after Close")
			_, err = e.d.Create(e, e.spec())
			e.is(err, vm.ErrClosed, "Create after Close")
			_, err = m.Info(e)
			e.is(err, vm.ErrClosed, "Info after Close")
			e.is(m.Start(e), vm.ErrClosed, "Start after Close")
		},
	},
	{
		name: "close-on-exit",
		rule: "Machines made with OnExit Die end when their driver is closed, those made with Survive go on.",
		do: func(e *env) {
			s := e.spec()
			s.OnExit = vm.Survive
			survivor, err := e.d.Create(e, s)
			if errors.Is(err, errors.ErrUnsupported) {
				s.OnExit = vm.Die // said so, and that is all it must do
				survivor, err = nil, nil
			}
			e.must(err, "Create with Survive")
			if survivor != nil {
				e.must(survivor.Start(e), "Start with Survive")
			}
			mortal, _ := e.boot()
			e.must(e.d.Close(), "Close")
			e.d = e.open()
			for id, runs := range map[vm.ID]bool{mortal.ID(): false, vm.ID(s.Name): survivor != nil} {
				if survivor == nil && id == vm.ID(s.Name) {
					continue
				}
				m, err := e.d.Open(e, id)
				if errors.Is(err, vm.ErrNotFound) && !runs {
					continue // ended, and cleaned up too
				}
				e.must(err, "Open of %s by another driver after Close", id)
				if state := e.info(m).State; (state == vm.StateRunning) != runs {
					e.errorf("%s is %v after its driver was closed; runs: want %v", id, state, runs)
				}
			}
		},
	},
}

var stateChecks = []check{
	{
		name: "wait",
		rule: "Wait blocks until the machine does not run and says how it ended, to all who wait; one that does not run answers at once with its last end. A context that ends first is an error.",
		need: vm.CanWait,
		do: func(e *env) {
			m, _ := e.create()
			w := as[vm.Waiter](e, m)
			_, err := w.Wait(e)
			e.ok(err, "Wait on a machine that never ran")
			e.must(m.Start(e), "Start")
			short, cancel := context.WithTimeout(e, 100*time.Millisecond)
			end, err := w.Wait(short)
			cancel()
			if err == nil {
				e.errorf("Wait on a machine that runs answered %v, want it to block until its context ends and answer that", end.Kind)
			}
			ends := make([]vm.End, 3)
			waiting := make(chan []error, 1)
			go func() {
				waiting <- together(len(ends), func(i int) (err error) {
					ends[i], err = w.Wait(e)
					return err
				})
			}()
			e.ok(m.Kill(e), "Kill")
			for i, err := range <-waiting {
				e.ok(err, "Wait")
				want(e, ends[i].Kind, vm.EndKilled, "the end of a machine that was killed")
			}
			end, err = w.Wait(e)
			e.ok(err, "Wait afterwards")
			want(e, end.Kind, vm.EndKilled, "the end told afterwards")
		},
	},
	{
		name: "wait-destroyed",
		rule: "Whoever waits for a machine that is destroyed is told of an end or of ErrNotFound, and does not wait for ever.",
		need: vm.CanWait,
		do: func(e *env) {
			m, _ := e.boot()
			w := as[vm.Waiter](e, m)
			told := make(chan error, 1)
			go func() {
				_, err := w.Wait(e)
				told <- err
			}()
			e.ok(m.Destroy(e), "Destroy")
			if err := <-told; err != nil {
				e.is(err, vm.ErrNotFound, "Wait while the machine was destroyed")
			}
		},
	},
	{
		name: "snapshot",
		rule: "Snapshot keeps a state under a name (ErrExists when it is in use), Snapshots lists them oldest first, Revert and DeleteSnapshot of an unknown name are ErrNotFound.",
		need: vm.CanSnapshot,
		do: func(e *env) {
			m, _ := e.boot()
			s := as[vm.Snapshotter](e, m)
			names, err := s.Snapshots(e)
			e.must(err, "Snapshots")
			want(e, len(names), 0, "the number of snapshots of a new machine")
			e.must(s.Snapshot(e, "zulu"), "Snapshot")
			e.must(s.Snapshot(e, "alpha"), "Snapshot")
			e.is(s.Snapshot(e, "zulu"), vm.ErrExists, "Snapshot of a name in use")
			names, err = s.Snapshots(e)
			e.ok(err, "Snapshots")
			if !slices.Equal(names, []string{"zulu", "alpha"}) {
				e.errorf("Snapshots answers %q, want zulu before alpha", names)
			}
			e.is(s.Revert(e, "nothing"), vm.ErrNotFound, "Revert to an unknown name")
			e.is(s.DeleteSnapshot(e, "nothing"), vm.ErrNotFound, "DeleteSnapshot of an unknown name")
			e.ok(s.DeleteSnapshot(e, "zulu"), "DeleteSnapshot")
			names, err = s.Snapshots(e)
			e.ok(err, "Snapshots")
			if !slices.Equal(names, []string{"alpha"}) {
				e.errorf("Snapshots answers %q after one of two was deleted, want alpha", names)
			}
			// Hypervisors refuse to remove a machine that has snapshots.
			e.ok(m.Destroy(e), "Destroy of a machine with a snapshot")
			e.absent(m.ID())
		},
	},
	{
		name: "revert",
		rule: "Revert brings the machine back to the snapshot's state in place, as often as one likes: the incarnation and the ownership stay, the guest says hello anew and bears no mark of what ran since.",
		need: vm.CanSnapshot | vm.CanMessage,
		do: func(e *env) {
			m, spec := e.boot()
			e.must(vm.ProveClean(e, m), "ProveClean of a new machine")
			s := as[vm.Snapshotter](e, m)
			e.must(s.Snapshot(e, "clean"), "Snapshot")
			for round := range 2 {
				use(e, m)
				e.is(vm.ProveClean(e, m), vm.ErrDirty, "ProveClean of a machine that was used")
				owner := spec.Owner
				if o, ok := vm.As[vm.Owned](m); ok {
					owner.Token = uint64(round) + 77 // whose it is by now
					e.must(o.SetOwner(e, owner), "SetOwner")
				}
				r, err := vm.Renew(e, m, vm.Policy{Driver: e.d, Spec: spec, Rungs: []vm.Rung{vm.RungRevert}, Snapshot: "clean"})
				e.must(err, "Renew by revert")
				want(e, r.Machine.ID(), m.ID(), "the machine's ID after the revert")
				i := e.info(m)
				want(e, i.State, vm.StateRunning, "the state after the revert")
				want(e, i.Owner, owner, "the ownership after the revert")
			}
		},
	},
	{
		name: "suspend",
		rule: "Suspend freezes a running machine, Resume thaws it, the guest goes on where it was. Neither is possible twice: ErrState.",
		need: vm.CanSuspend | vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			s := as[vm.Suspender](e, m)
			e.is(s.Resume(e), vm.ErrState, "Resume of a machine that runs")
			before := ready(e, m)
			e.must(s.Suspend(e), "Suspend")
			want(e, e.info(m).State, vm.StatePaused, "the state after Suspend")
			e.is(s.Suspend(e), vm.ErrState, "Suspend again")
			short, cancel := context.WithTimeout(e, 200*time.Millisecond)
			if _, err := channel(e, m).Ping(short); err == nil {
				e.errorf("the guest answers while it is suspended")
			}
			cancel()
			e.must(s.Resume(e), "Resume")
			want(e, e.info(m).State, vm.StateRunning, "the state after Resume")
			want(e, ready(e, m).Boot, before.Boot, "the guest's boot after Resume")
			_, err := channel(e, m).Ping(e)
			e.ok(err, "Ping after Resume")
			e.must(s.Suspend(e), "Suspend")
			e.ok(m.Kill(e), "Kill of a suspended machine")
			want(e, e.info(m).State, vm.StateStopped, "the state after Kill")
		},
	},
}
