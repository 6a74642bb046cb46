package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing/fstest"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// channel gives a machine's channel.
func channel(e *env, m vm.Machine) *vm.Channel {
	c, err := as[vm.Messenger](e, m).Channel(e)
	e.must(err, "Channel")
	return c
}

// ready waits for the guest.
func ready(e *env, m vm.Machine) vm.Greeting {
	g, err := channel(e, m).Ready(e)
	e.must(err, "Ready")
	return g
}

// use makes the guest do something that leaves its mark.
func use(e *env, m vm.Machine) {
	exit, err := vm.Exec(e, m, vm.Command{Argv: []string{"true"}})
	e.must(err, "Exec of true")
	want(e, exit.Code, 0, "the exit code of true")
}

var channelChecks = []check{
	{
		name: "channel",
		rule: "There is one channel a boot: ErrState when the machine does not run, the same for all who ask while it does, ended when the machine has, a new one with another boot after the next start.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, s := e.create()
			_, err := as[vm.Messenger](e, m).Channel(e)
			e.is(err, vm.ErrState, "Channel of a machine that does not run")
			e.must(m.Start(e), "Start")
			c := channel(e, m)
			first := ready(e, m)
			if first.Dirty != "" || first.Jobs != 0 {
				e.errorf("a new machine's guest says dirty %q and %d jobs, want neither", first.Dirty, first.Jobs)
			}
			want(e, c.Incarnation(), s.Owner.Incarnation, "the channel's incarnation")
			want(e, ready(e, m).Boot, first.Boot, "the boot that a second Channel speaks with")
			_, err = c.Ping(e)
			e.ok(err, "Ping")
			e.must(m.Kill(e), "Kill")
			select {
			case <-c.Done():
			case <-e.Done():
				e.errorf("the channel has not ended though the machine was killed")
				return
			}
			e.must(m.Start(e), "Start again")
			if again := ready(e, m); again.Boot == first.Boot {
				e.errorf("the guest says the same boot %q after a new start", again.Boot)
			}
		},
	},
	{
		name: "clean",
		rule: "A new machine is proven clean, and one that was used never is, not even after a new start: the mark is on the guest's root.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			e.must(vm.ProveClean(e, m), "ProveClean of a new machine")
			use(e, m)
			e.is(vm.ProveClean(e, m), vm.ErrDirty, "ProveClean after a command")
			e.must(m.Kill(e), "Kill")
			e.must(m.Start(e), "Start again")
			e.is(vm.ProveClean(e, m), vm.ErrDirty, "ProveClean after a command and a new start")
		},
	},
	{
		name: "drained",
		rule: "The channel is always drained: a stream that nobody reads blocks neither other streams nor the guest's answers.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			ready(e, m)
			// A command whose output nobody takes.
			stdin := strings.NewReader(strings.Repeat("x", 4<<20))
			bctx, cancel := context.WithCancel(e)
			blocked := make(chan error, 1)
			go func() {
				_, err := vm.Exec(bctx, m, vm.Command{Argv: []string{"cat"}, Stdin: stdin, Stdout: stuck{bctx}})
				blocked <- err
			}()
			for range 3 {
				_, err := channel(e, m).Ping(e)
				e.ok(err, "Ping beside a stream that nobody reads")
				use(e, m)
			}
			cancel()
			if err := <-blocked; err == nil {
				e.errorf("Exec whose output nobody took: got no error")
			}
			use(e, m)
		},
	},
	{
		name: "exec",
		rule: "Exec runs a command in the guest: its output, its exit code, its environment and its input are right, one that is not there cannot be started, and the context's end kills it.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			var out bytes.Buffer
			exit, err := vm.Exec(e, m, vm.Command{Argv: []string{"echo", "two  words"}, Stdout: &out})
			e.must(err, "Exec of echo")
			want(e, exit, vm.Exit{}, "the exit of echo")
			want(e, out.String(), "two  words\n", "the output of echo")
			exit, err = vm.Exec(e, m, vm.Command{Argv: []string{"false"}})
			e.ok(err, "Exec of false")
			want(e, exit, vm.Exit{Code: 1}, "the exit of false")
			out.Reset()
			in := strings.Repeat("0123456789abcdef", 64<<10)
			_, err = vm.Exec(e, m, vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(in), Stdout: &out})
			e.ok(err, "Exec of cat")
			if out.String() != in {
				e.errorf("cat gave %d bytes, want the %d that it was sent", out.Len(), len(in))
			}
			out.Reset()
			_, err = vm.Exec(e, m, vm.Command{Argv: []string{"env"}, Env: []string{"VMTEST=a b"}, Stdout: &out})
			e.ok(err, "Exec of env")
			if !strings.Contains(out.String(), "VMTEST=a b\n") {
				e.errorf("the command's environment does not have what it was given: %q", out.String())
			}
			if _, err := vm.Exec(e, m, vm.Command{Argv: []string{"vmtest-no-such-program"}}); err == nil {
				e.errorf("Exec of a program that is not there: got no error")
			}
			short, cancel := context.WithTimeout(e, 200*time.Millisecond)
			defer cancel()
			_, err = vm.Exec(short, m, vm.Command{Argv: []string{"sleep", "1000"}})
			e.is(err, context.DeadlineExceeded, "Exec whose context ended")
			use(e, m)
		},
	},
	{
		name: "copy",
		rule: "What is copied to the guest comes back the same, and what is not there is an error.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			src := fstest.MapFS{
				"a/b/c.bin": {Data: bytes.Repeat([]byte{0, 1, 254, 255}, 100_000), Mode: 0o644},
				"run.sh":    {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
			}
			const dir = "/tmp/vmtest-copy"
			done, err := vm.CopyTo(e, m, dir, src, nil)
			e.must(err, "CopyTo")
			want(e, done, vm.Copied{Files: 2, Bytes: 400_010}, "what CopyTo says")
			var tree bytes.Buffer
			done, err = vm.CopyFrom(e, m, dir, &tree, nil)
			e.must(err, "CopyFrom")
			want(e, done, vm.Copied{Files: 2, Bytes: 400_010}, "what CopyFrom says")
			if err := sameTar(&tree, src); err != nil {
				e.errorf("CopyFrom of what was copied: %w", err)
			}
			var one bytes.Buffer
			_, err = vm.CopyFrom(e, m, dir+"/run.sh", &one, nil)
			e.must(err, "CopyFrom of one file")
			e.ok(sameTar(&one, fstest.MapFS{"run.sh": src["run.sh"]}), "CopyFrom of one file")
			if _, err := vm.CopyFrom(e, m, dir+"/nothing", &one, nil); err == nil {
				e.errorf("CopyFrom of what is not there: got no error")
			}
			_, err = vm.CopyFrom(e, m, dir, &one, &vm.CopyOptions{MaxBytes: 1000})
			if err == nil {
				e.errorf("CopyFrom of more than MaxBytes: got no error")
			}
		},
	},
}

// stuck is a writer that takes nothing until its context ends.
type stuck struct{ context.Context }

func (s stuck) Write([]byte) (int, error) {
	<-s.Done()
	return 0, context.Cause(s)
}

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
