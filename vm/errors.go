package vm

import (
	"errors"
	"fmt"
)

// What can go wrong, to be tested with errors.Is. Refusal is not failure:
// ErrBusy means that nothing is wrong and the caller should try elsewhere or
// later.
var (
	ErrBusy     = errors.New("busy: not now, try elsewhere or later")
	ErrNotFound = errors.New("no such machine")
	ErrExists   = errors.New("machine exists")
	ErrState    = errors.New("not possible in this state")
	ErrTooLarge = errors.New("too large")
	ErrClosed   = errors.New("closed")
	// ErrHostLost: the hypervisor cannot be reached. The machines may live.
	ErrHostLost = errors.New("host lost")
	// ErrDirty: a machine that should be clean is not.
	ErrDirty = errors.New("machine is not clean")
	// ErrRefused: the guest's hello was wrong, unknown or a second one.
	ErrRefused = errors.New("hello refused")
	// ErrChannelEnded: the guest's channel has ended: the machine ended, or
	// its agent or the connection to it did.
	ErrChannelEnded = errors.New("the guest's channel has ended")
	// ErrFault: the guest refused what was asked of it.
	ErrFault = errors.New("refused by the guest")
)

// OpError is the error of every operation of a driver and of this package.
type OpError struct {
	Op      string // "create", "start", ...
	Driver  string // the HostID or the driver's name
	ID      ID     // the machine; empty for operations on the driver
	Err     error
	Console []byte // the tail of the console of a failed boot; see ConsoleTail
}

// Error is "vm: <op> <id> (<driver>): <err>", and the console's last lines
// below it where there are any.
func (e *OpError) Error() string {
	s := "vm: " + e.Op
	if e.ID != "" {
		s += " " + string(e.ID)
	}
	if e.Driver != "" {
		s += " (" + e.Driver + ")"
	}
	s = fmt.Sprintf("%s: %v", s, e.Err)
	if len(e.Console) > 0 {
		s += "; last console lines:\n" + indentTail(e.Console, 12)
	}
	return s
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// indentTail gives the last n lines, indented, with control characters made
// harmless: consoles are written by guests and read on terminals.
func indentTail(b []byte, n int) string {
	start := len(b)
	for start > 0 && n > 0 {
		start--
		if b[start] == '\n' && start != len(b)-1 {
			n--
			if n == 0 {
				start++
				break
			}
		}
	}
	out := []byte("    ")
	for i, c := range b[start:] {
		switch {
		case c == '\n':
			if start+i != len(b)-1 {
				out = append(out, "\n    "...)
			}
		case c == '\t' || c >= ' ' && c != 0x7f:
			out = append(out, c)
		case c == '\r':
		default:
			out = append(out, '?')
		}
	}
	return string(out)
}
