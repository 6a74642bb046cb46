package vmtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

var jobChecks = []check{
	{
		name: "run",
		rule: "Run starts the machine where necessary, runs the job on its disk and ends with EndDone; afterwards the machine goes on and takes another job.",
		need: vm.CanMessage | vm.CanAttach,
		job:  true,
		do: func(e *env) {
			m, _ := e.create()
			for range 2 {
				body, err := e.h.(Jobber).Job(e, m, false)
				e.must(err, "Harness.Job")
				end, err := vm.Run(e, m, vm.RunOptions{Go: body})
				e.ok(err, "Run")
				want(e, end.Kind, vm.EndDone, "the end of the run")
				want(e, e.info(m).State, vm.StateRunning, "the state after the run")
			}
		},
	},
	{
		name: "run-cancelled",
		rule: "A job whose context ends is asked to end, and Run answers with the context's error; the machine takes another job when the guest did end it.",
		need: vm.CanMessage | vm.CanAttach,
		job:  true,
		do: func(e *env) {
			m, _ := e.create()
			body, err := e.h.(Jobber).Job(e, m, true)
			e.must(err, "Harness.Job")
			e.must(m.Start(e), "Start")
			ready(e, m)
			short, cancel := context.WithTimeout(e, 300*time.Millisecond)
			defer cancel()
			end, err := vm.Run(short, m, vm.RunOptions{Go: body, Grace: time.Minute})
			e.is(err, context.DeadlineExceeded, "Run whose context ended")
			want(e, end.Kind, vm.EndDone, "the end of a run that was cancelled")
		},
	},
	{
		name: "run-killed",
		rule: "A machine that is killed from outside in the middle of a job ends the run as EndKilled, without an error.",
		need: vm.CanMessage | vm.CanAttach,
		job:  true,
		do: func(e *env) {
			m, _ := e.boot()
			ready(e, m)
			body, err := e.h.(Jobber).Job(e, m, true)
			e.must(err, "Harness.Job")
			type outcome struct {
				end vm.End
				err error
			}
			ended := make(chan outcome, 1)
			c := channel(e, m)
			go func() {
				end, err := vm.Run(e, m, vm.RunOptions{Go: body})
				ended <- outcome{end, err}
			}()
			for c.Stats().Opened == 0 && e.sleep(10*time.Millisecond) {
			}
			other, err := e.d.Open(e, m.ID())
			e.must(err, "Open")
			e.must(other.Kill(e), "Kill")
			o := <-ended
			e.ok(o.err, "Run")
			want(e, o.end.Kind, vm.EndKilled, "the end of a run whose machine was killed")
		},
	},
}

var renewChecks = []check{
	{
		name: "renew-cold",
		rule: "Renew by a cold boot makes a clean machine from nothing, and from one that was used, which is gone afterwards.",
		need: vm.CanMessage,
		do: func(e *env) {
			policy := func() vm.Policy { return vm.Policy{Driver: e.d, Spec: e.spec(), Rungs: []vm.Rung{vm.RungCold}} }
			r, err := vm.Renew(e, nil, policy())
			e.must(err, "Renew from nothing")
			used := r.Machine
			use(e, used)
			r, err = vm.Renew(e, used, policy())
			e.must(err, "Renew of a machine that was used")
			want(e, r.Rung, vm.RungCold, "the rung")
			e.ok(vm.ProveClean(e, r.Machine), "ProveClean afterwards")
			e.absent(used.ID())
		},
	},
	{
		name: "fork",
		rule: "Save makes a parent (ErrExists for a name in use) and leaves the machine stopped; Parents lists it; Fork makes running machines from it that are clean, know their own incarnation and share nothing; an unknown parent is ErrNotFound; DropParent is idempotent and leaves the forked machines alone.",
		need: vm.CanMessage | vm.CanSave | vm.CanFork,
		do: func(e *env) {
			f := as[vm.Forker](e, e.d)
			if r := f.Rung(); r != vm.RungFork && r != vm.RungRestore {
				e.errorf("Rung is %v, want fork or restore", r)
			}
			m, s := e.boot()
			e.must(vm.ProveClean(e, m), "ProveClean of the machine to save")
			parent := "vmtest-" + s.Name
			_, err := f.Fork(e, parent, e.spec())
			e.is(err, vm.ErrNotFound, "Fork of an unknown parent")
			e.parents = append(e.parents, parent)
			e.must(as[vm.Saver](e, m).Save(e, parent), "Save")
			want(e, e.info(m).State, vm.StateStopped, "the state after Save")
			parents, err := f.Parents(e)
			e.ok(err, "Parents")
			if !strings.Contains(fmt.Sprintf("%q", parents), fmt.Sprintf("%q", parent)) {
				e.errorf("Parents answers %q, without %q", parents, parent)
			}
			again, _ := e.boot()
			e.must(vm.ProveClean(e, again), "ProveClean of another machine")
			e.is(as[vm.Saver](e, again).Save(e, parent), vm.ErrExists, "Save under a name in use")

			one, two := e.spec(), e.spec()
			a, err := f.Fork(e, parent, one)
			e.must(err, "Fork")
			other := e.open()
			fb := as[vm.Forker](e, other)
			c, err := fb.Fork(e, parent, two)
			e.must(err, "Fork by another driver")
			_, err = f.Fork(e, parent, one)
			e.is(err, vm.ErrExists, "Fork under a name that exists")
			want(e, e.info(a).State, vm.StateRunning, "the state after Fork")
			e.ok(vm.ProveClean(e, a), "ProveClean of a forked machine")
			use(e, a)
			e.ok(vm.ProveClean(e, c), "ProveClean of the other, after the first was used")
			want(e, e.info(a).Owner, one.Owner, "the ownership of a forked machine")
			want(e, e.info(c).Owner, two.Owner, "the ownership of a forked machine")
			e.ok(f.DropParent(e, parent), "DropParent")
			e.ok(f.DropParent(e, parent), "DropParent again")
			use(e, c)
			_, err = f.Fork(e, parent, e.spec())
			e.is(err, vm.ErrNotFound, "Fork of a parent that was dropped")
		},
	},
}

var fenceChecks = []check{
	{
		name: "fence",
		rule: "Behind vm.Guard and vm.GuardMachine nothing gets through once the fence is lost: no capability, neither by a type assertion nor by As, nor what came back before.",
		do: func(e *env) {
			m, _ := e.boot()
			lost := errors.New("vmtest: the lease is lost")
			var held error
			fence := func() error { return held }
			seen := 0
			watched := vm.Intercept(e.d, vm.Interceptor{Call: func(ctx context.Context, _ string, _ vm.ID, _ any, do func(context.Context) error) error {
				seen++
				return do(ctx)
			}})
			d := vm.Guard(watched, fence)
			g, err := d.Open(e, m.ID())
			e.must(err, "Open through a guard whose fence holds")
			want(e, vm.Capabilities(g), vm.Capabilities(m), "the capabilities of the guarded machine")
			want(e, vm.Capabilities(d), vm.Capabilities(e.d), "the capabilities of the guarded driver")
			late := after(e, g)
			seen, held = 0, lost
			for _, t := range append(tries(e, d, g), late...) {
				e.is(t.do(), lost, "%s through the guard", t.name)
			}
			for _, t := range tries(e, d, vm.GuardMachine(m, fence)) {
				e.is(t.do(), lost, "%s through GuardMachine", t.name)
			}
			want(e, seen, 0, "the number of operations that got through")
			want(e, e.info(m).State, vm.StateRunning, "the machine's state afterwards")
		},
	},
}

// after are calls on what a machine gave out before the fence was lost.
func after(e *env, g vm.Machine) []try {
	var t []try
	if vm.Capabilities(g).Has(vm.CanAttach) {
		d := disk(e, g, 0)
		t = append(t,
			try{name: "ReadAt", do: func() error { _, err := d.ReadAt(make([]byte, 1), 0); return err }},
			try{name: "WriteAt", do: func() error { _, err := d.WriteAt([]byte{1}, 0); return err }},
			try{name: "Sync", do: func() error { return d.Sync(e) }},
		)
	}
	if vm.Capabilities(g).Has(vm.CanMessage) {
		ready(e, g)
		c := channel(e, g)
		s, err := c.Open(0)
		e.must(err, "Open of a stream")
		t = append(t,
			try{name: "Ready", do: func() error { _, err := c.Ready(e); return err }},
			try{name: "Ping", do: func() error { _, err := c.Ping(e); return err }},
			try{name: "PowerOff", do: func() error { return c.PowerOff(e) }},
			try{name: "Open of a stream", do: func() error { _, err := c.Open(0); return err }},
			try{name: "Send", do: func() error { return s.Send(e, 16, nil) }},
			try{name: "Recv", do: func() error { _, _, err := s.Recv(e); return err }},
			try{name: "Close of the channel", do: c.Close},
			try{name: "Run", do: func() error { _, err := vm.Run(e, g, vm.RunOptions{}); return err }},
			try{name: "Exec", do: func() error { _, err := vm.Exec(e, g, vm.Command{Argv: []string{"true"}}); return err }},
		)
	}
	return t
}
