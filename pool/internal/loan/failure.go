package loan

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/bullpen-vm/bullpen/vm"
)

// Failure is an error on its way to another process. Nil is none.
type Failure struct {
	Text  string   `json:"text"`
	Codes []string `json:"codes,omitempty"`
	// Of a *vm.OpError, whose cause Text and Codes are then.
	Op      string `json:"op,omitempty"`
	Driver  string `json:"driver,omitempty"`
	ID      vm.ID  `json:"id,omitempty"`
	Console []byte `json:"console,omitempty"`
}

// Code is an error that both ends know, under a name.
type Code struct {
	Name string
	Err  error
}

var known = []Code{
	{"vm busy", vm.ErrBusy}, {"vm not found", vm.ErrNotFound}, {"vm exists", vm.ErrExists}, {"vm state", vm.ErrState},
	{"vm too large", vm.ErrTooLarge}, {"vm closed", vm.ErrClosed}, {"vm host lost", vm.ErrHostLost}, {"vm dirty", vm.ErrDirty},
	{"vm refused", vm.ErrRefused}, {"vm channel ended", vm.ErrChannelEnded}, {"vm fault", vm.ErrFault},
	{"unsupported", errors.ErrUnsupported}, {"canceled", context.Canceled}, {"deadline", context.DeadlineExceeded},
	{"eof", io.EOF}, {"not exist", fs.ErrNotExist},
}

// Tell makes a Failure of an error; more are codes beside those that every
// process knows.
func Tell(err error, more []Code) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Text: err.Error()}
	if oe, ok := err.(*vm.OpError); ok { //nolint:errorlint // what wraps one has more to say
		f.Op, f.Driver, f.ID, f.Console = oe.Op, oe.Driver, oe.ID, oe.Console
		f.Text = oe.Err.Error()
	}
	for _, codes := range [][]Code{known, more} {
		for _, c := range codes {
			if errors.Is(err, c.Err) {
				f.Codes = append(f.Codes, c.Name)
			}
		}
	}
	return f
}

// Err makes the error again: with the same text, and the same of the codes in
// it. A code that this process does not know is left out.
func (f *Failure) Err(more []Code) error {
	if f == nil {
		return nil
	}
	t := &told{text: f.Text}
	for _, name := range f.Codes {
		for _, codes := range [][]Code{known, more} {
			for _, c := range codes {
				if c.Name == name {
					t.is = append(t.is, c.Err)
				}
			}
		}
	}
	if f.Op == "" {
		return t
	}
	return &vm.OpError{Op: f.Op, Driver: f.Driver, ID: f.ID, Err: t, Console: f.Console}
}

type told struct {
	text string
	is   []error
}

func (t *told) Error() string   { return t.text }
func (t *told) Unwrap() []error { return t.is }
