package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
)

// Claim is a request that this slave has, and nobody else.
type Claim struct {
	Name   string // of the file, without .json
	Ticket string // the same in all attempts
	// Attempt is above one when slaves died over it.
	Attempt int
	Text    []byte
	Err     error // why the text could not be read

	spool *Spool
	path  string
}

// TicketKey is the member of an answer that has the claim's ticket.
const TicketKey = "ticket"

func (c *Claim) resultPath() string { return filepath.Join(c.spool.dir, c.Name+resultEnd) }

// answered reports whether the answer of an earlier attempt is there.
func (c *Claim) answered() bool {
	text, err := os.ReadFile(c.resultPath())
	if err != nil {
		return false
	}
	var answer map[string]json.RawMessage
	var ticket string
	return json.Unmarshal(text, &answer) == nil && json.Unmarshal(answer[TicketKey], &ticket) == nil && ticket == c.Ticket
}

// Answer writes the answer beside the request, whole and durable, and removes the
// request. An answer to an earlier request of that name is replaced. The answer
// must marshal to an object whose member TicketKey is the claim's ticket. It may
// be tried again after an error.
func (c *Claim) Answer(answer any) error {
	text, err := json.MarshalIndent(answer, "", " ")
	if err != nil {
		return fmt.Errorf("spool: answer %s: %w", c.Name, err)
	}
	err = atomicfile.Write(c.resultPath(), 0o644, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err == nil && !c.answered() {
		err = errors.New("bug: the answer does not bear the claim's ticket")
	}
	if err == nil {
		err = os.Remove(c.path)
	}
	if err != nil {
		return fmt.Errorf("spool: answer %s: %w", c.Name, err)
	}
	return nil
}
