package vm

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// Command is a command for Exec.
type Command struct {
	Argv []string // the program and its arguments; not a shell's line
	Env  []string // KEY=value, over the agent's own environment
	Dir  string   // in the guest; empty: the agent's
	// Stdin is read until its end; nil: the command gets none. A Read that
	// blocks is not waited for when the command has ended.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: dropped. They are written to one at a time.
}

// Exit is how a command ended.
type Exit struct {
	Code   int    // -1 when a signal ended it
	Signal string // its name
}

// OK reports whether the command ended with code 0.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == "" }

// String is "exit 1" or "signal killed".
func (e Exit) String() string {
	if e.Signal != "" {
		return "signal " + e.Signal
	}
	return fmt.Sprintf("exit %d", e.Code)
}

// Exec runs one command in the guest of a running machine and waits for its end.
// An exit code other than zero is not an error; a command that could not be
// started is. When the context ends the command is killed, and how it ended is
// not known. The machine needs a channel (Messenger), and counts as used from
// then on: ProveClean fails until it was renewed.
func Exec(ctx context.Context, m Machine, c Command) (Exit, error) {
	unknown := Exit{Code: -1}
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return unknown, &OpError{Op: OpExec, ID: m.ID(), Err: errors.New("Command.Argv is empty, want at least the program")}
	}
	s, err := openStream(ctx, m, OpExec)
	if err != nil {
		return unknown, err
	}
	defer s.Close()
	fail := func(err error) error { return &OpError{Op: OpExec, ID: m.ID(), Err: err} }
	ask := wire.Encode(wire.Exec{Argv: c.Argv, Env: c.Env, Dir: c.Dir, Stdin: c.Stdin != nil})
	if err := s.Send(ctx, uint8(wire.KindExec), ask); err != nil {
		return unknown, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.Stdin != nil {
		// It is not waited for: nothing can end a Read of the caller's.
		go feed(ctx, cancel, s, c.Stdin)
	}
	for {
		kind, body, err := s.Recv(ctx)
		if err != nil {
			return unknown, err
		}
		switch k := wire.Kind(kind); k {
		case wire.KindStdout, wire.KindStderr:
			w, name := c.Stdout, "Stdout"
			if k == wire.KindStderr {
				w, name = c.Stderr, "Stderr"
			}
			if w == nil {
				continue
			}
			if _, err := w.Write(body); err != nil {
				return unknown, fail(fmt.Errorf("Command.%s: %w", name, err))
			}
		case wire.KindExit:
			var e wire.Exit
			if err := wire.Decode(k, body, &e); err != nil {
				return unknown, fail(err)
			}
			if e.Error != "" {
				return unknown, fail(fmt.Errorf("%q was not started: %s", c.Argv[0], clip(e.Error)))
			}
			return Exit{Code: e.Code, Signal: clip(e.Signal)}, nil
		case wire.KindFault:
			return unknown, fail(fmt.Errorf("%w: %s", ErrFault, faultText(body)))
		}
	}
}

// feed sends a command's input. A command that does not take it ends it.
func feed(ctx context.Context, cancel context.CancelCauseFunc, s *Stream, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && s.Send(ctx, uint8(wire.KindStdin), append([]byte(nil), buf[:n]...)) != nil {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = s.Send(ctx, uint8(wire.KindStdin), nil) // the command's end says the rest
			return
		case err != nil:
			cancel(fmt.Errorf("Command.Stdin: %w", err))
			return
		}
	}
}

// openStream opens a stream to a guest that is ready.
func openStream(ctx context.Context, m Machine, op string) (*Stream, error) {
	msgr, err := need[Messenger](m, op, "", m.ID())
	if err != nil {
		return nil, err
	}
	ch, err := msgr.Channel(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := ch.Ready(ctx); err != nil {
		return nil, err
	}
	return ch.Open(0)
}
