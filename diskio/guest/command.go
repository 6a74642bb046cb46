package guest

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// runCommand runs one command over the channel.
func (a *Agent) runCommand(st *stream, body []byte) {
	var e wire.Exec
	if err := wire.Decode(wire.KindExec, body, &e); err != nil {
		st.fault(err)
		return
	}
	if len(e.Argv) == 0 || e.Argv[0] == "" {
		st.fault(fmt.Errorf("exec: Argv is empty, want at least the program's name"))
		return
	}
	exit, err := a.command(st, e)
	if err != nil {
		exit = wire.Exit{Code: -1, Error: err.Error()}
	}
	st.last(wire.KindExit, exit)
}

func (a *Agent) command(st *stream, e wire.Exec) (wire.Exit, error) {
	dir := e.Dir
	if dir == "" {
		dir = a.c.WorkDir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return wire.Exit{}, err
		}
	}
	var pipes [6]*os.File // in, out, err: reader and writer
	defer func() {
		for _, f := range pipes {
			if f != nil {
				_ = f.Close() // all is copied, or the command is dead
			}
		}
	}()
	for i := range 3 {
		if i == 0 && !e.Stdin {
			continue
		}
		var err error
		if pipes[2*i], pipes[2*i+1], err = os.Pipe(); err != nil {
			return wire.Exit{}, err
		}
	}
	env := dedup(append(slices.Clone(a.c.Environ), e.Env...))
	proc, err := a.startProcess(e.Argv, env, dir, pipes[0], pipes[3], pipes[5])
	if err != nil {
		return wire.Exit{}, err
	}
	for _, i := range [...]int{0, 3, 5} { // the command's ends
		if pipes[i] != nil {
			_ = pipes[i].Close() // the command has its own
			pipes[i] = nil
		}
	}
	var copies sync.WaitGroup
	copies.Go(func() { a.forward(writer{st, wire.KindStdout}, pipes[2]) })
	copies.Go(func() { a.forward(writer{st, wire.KindStderr}, pipes[4]) })
	fed := make(chan struct{})
	if e.Stdin {
		go func() { // ends when the stream is cancelled, which close does below
			defer close(fed)
			_, _ = io.Copy(pipes[1], st) // a command need not read its input
			_ = pipes[1].Close()
		}()
	} else {
		close(fed)
	}
	a.supervise(proc, limits{interrupted: st.interrupted, killed: st.killed, context: st.context})
	exit, signal, err := a.finish(proc)
	deadline := time.Now().Add(a.c.WaitDelay)
	for _, i := range [...]int{2, 4} {
		if derr := pipes[i].SetReadDeadline(deadline); derr != nil {
			a.log.Warn("pipe without a deadline", "err", derr)
		}
	}
	// A killed command's host may have stopped reading.
	killed := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-killed:
		case <-st.killed:
			t := time.AfterFunc(a.c.WaitDelay, func() { st.cancel(errCancelled) })
			<-killed
			t.Stop()
		}
	})
	copies.Wait()
	close(killed)
	watch.Wait()
	if e.Stdin {
		st.cancel(errCancelled) // nobody reads the input any more
		_ = pipes[1].SetWriteDeadline(time.Now())
	}
	<-fed
	return wire.Exit{Code: exit, Signal: signal}, err
}

// forward copies a command's output. After an error of the channel it goes on
// reading, so that the command does not block; it is killed with the stream.
func (a *Agent) forward(to writer, from *os.File) {
	if _, err := io.Copy(to, struct{ io.Reader }{from}); err != nil && !os.IsTimeout(err) {
		a.log.Debug("output of a command", "err", err)
		_, _ = io.Copy(io.Discard, from)
	}
}
