package vmtest

import (
	"bytes"
	"context"
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
		rule: "A new machine is proven clean, and one that was used never is, not even after a new start: the mark is on the guest's root. Where that is memory (Forgetter), a new start makes the machine clean.",
		need: vm.CanMessage,
		do: func(e *env) {
			m, _ := e.boot()
			e.must(vm.ProveClean(e, m), "ProveClean of a new machine")
			use(e, m)
			e.is(vm.ProveClean(e, m), vm.ErrDirty, "ProveClean after a command")
			e.must(m.Kill(e), "Kill")
			e.must(m.Start(e), "Start again")
			if f, ok := e.h.(Forgetter); ok && f.Forgets() {
				e.ok(vm.ProveClean(e, m), "ProveClean after a new start of a guest whose root is memory")
				return
			}
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
