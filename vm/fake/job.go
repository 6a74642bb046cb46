package fake

import (
	"context"
	"fmt"
	"io"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

// Job is what Config.Job is called with, in the guest, on each go. Its context
// ends when the host asks the job to end, and when the machine ends.
type Job struct {
	Machine vm.ID
	Boot    int    // how often the machine has booted
	Stream  uint32 // the channel's
	Go      []byte // the body of the go message
	b       *boot
	s       *stream
}

// Disk is reserved job disk n as the guest sees it; nil when there is none.
func (j *Job) Disk(n int) Disk {
	if n < 0 || n >= len(j.b.r.disks) {
		return nil
	}
	return j.b.r.disks[n]
}

// Disk is a job disk in the guest.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64 // bytes
}

// Input is what is in a place for inputs; nil: nothing.
func (j *Job) Input(place int) vm.Image {
	j.b.h.mu.Lock()
	defer j.b.h.mu.Unlock()
	return j.b.r.inputs[place]
}

// Send sends a message about the job; kinds start at 64.
func (j *Job) Send(kind uint8, body []byte) { j.s.a.send(j.s.id, wire.Kind(kind), body) }

// Print writes on the guest's console.
func (j *Job) Print(text string) {
	j.b.h.mu.Lock()
	defer j.b.h.mu.Unlock()
	j.b.r.print(text)
}

// Killed is closed when the host kills the job, and when the machine ends.
func (j *Job) Killed() <-chan struct{} { return j.s.killed }

// Ended is closed when the machine's run ends.
func (j *Job) Ended() <-chan struct{} { return j.b.ended }

// Crash ends the machine as a panicking kernel would.
func (j *Job) Crash(detail string) {
	j.b.finish(vm.End{Kind: vm.EndCrashed, Detail: detail})
}

// PowerOff ends the machine in an orderly way, without a word about the job.
func (j *Job) PowerOff() {
	j.b.finish(vm.End{Kind: vm.EndPoweredOff, Detail: "powered off by its job"})
}

// Hang heeds nothing until the machine ends.
func (j *Job) Hang() { <-j.b.ended }

// HangUp ends the guest's side of the channel, while the machine goes on.
func (j *Job) HangUp() { _ = j.s.a.line.Close() }

func (a *agent) job(s *stream, body []byte) (wire.Kind, any) {
	a.b.h.mu.Lock()
	n := a.b.r.boots
	a.b.h.mu.Unlock()
	if do := a.b.h.c.Job; do != nil {
		err := do(s.ctx, &Job{Machine: a.b.r.id, Boot: n, Stream: s.id, Go: body, b: a.b, s: s})
		if err != nil {
			return wire.KindDone, wire.Done{Error: err.Error()}
		}
	}
	return wire.KindDone, wire.Done{Complete: true}
}

// Call is what Config.Exec is called with, in the guest. Its context ends when
// the host kills the command, and when the machine ends.
type Call struct {
	Machine        vm.ID
	Argv, Env      []string
	Dir            string
	Stdin          io.Reader // never nil
	Stdout, Stderr io.Writer
	// Fail is set to say why the command could not be started.
	Fail string
}

func (a *agent) exec(s *stream, body []byte) (wire.Kind, any) {
	var e wire.Exec
	if err := wire.Decode(wire.KindExec, body, &e); err != nil {
		return wire.KindFault, wire.Fault{Error: err.Error()}
	}
	c := &Call{
		Machine: a.b.r.id, Argv: e.Argv, Env: e.Env, Dir: e.Dir, Stdin: s,
		Stdout: output{s, wire.KindStdout}, Stderr: output{s, wire.KindStderr},
	}
	if !e.Stdin {
		c.Stdin = io.LimitReader(s, 0)
	}
	exit := a.b.h.c.Exec(s.ctx, c)
	if c.Fail != "" {
		return wire.KindExit, wire.Exit{Code: -1, Error: c.Fail}
	}
	if s.ctx.Err() != nil && exit == (vm.Exit{}) {
		exit = vm.Exit{Code: -1, Signal: "killed"}
	}
	return wire.KindExit, wire.Exit{Code: exit.Code, Signal: exit.Signal}
}

// BuiltIn is the guest's commands when Config.Exec is nil: true, false, echo
// (its arguments), cat (its input), env, exit (a code), sleep (until it is
// killed). Others cannot be started.
func BuiltIn(ctx context.Context, c *Call) vm.Exit {
	switch name := c.Argv[0]; name {
	case "true":
	case "false":
		return vm.Exit{Code: 1}
	case "echo":
		for i, a := range c.Argv[1:] {
			if i > 0 {
				a = " " + a
			}
			fmt.Fprint(c.Stdout, a)
		}
		fmt.Fprintln(c.Stdout)
	case "cat":
		if _, err := io.Copy(c.Stdout, c.Stdin); err != nil {
			return vm.Exit{Code: 1}
		}
	case "env":
		for _, e := range c.Env {
			fmt.Fprintln(c.Stdout, e)
		}
	case "exit":
		code := 0
		if len(c.Argv) > 1 {
			_, _ = fmt.Sscan(c.Argv[1], &code) // zero when it is no number
		}
		return vm.Exit{Code: code}
	case "sleep":
		<-ctx.Done()
	default:
		c.Fail = fmt.Sprintf("%s: not found", name)
	}
	return vm.Exit{}
}
