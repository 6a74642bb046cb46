package diskio

import (
	"encoding/json"
	"fmt"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// Go is what the harness says to a guest to start the job on a job disk: the
// body of the protocol's go message. Package vm carries it without reading it.
type Go struct {
	Disk   int       `json:"disk"`  // the reserved job disk
	Nonce  string    `json:"nonce"` // of the job on it; another one is refused
	Inputs []GoInput `json:"inputs,omitempty"`
}

// GoInput tells where an input is.
type GoInput struct {
	Name   string `json:"name"`
	Place  int    `json:"place"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Encode gives the message's body.
func (g Go) Encode() []byte { return wire.Encode(g) }

// DecodeGo reads a body.
func DecodeGo(body []byte) (Go, error) {
	var g Go
	if err := json.Unmarshal(body, &g); err != nil {
		return Go{}, fmt.Errorf("diskio: go message: %w", err)
	}
	return g, nil
}

// MessageProgress is the kind of the messages that a guest sends while a job
// runs; vm.RunOptions.Message is handed them. They are news for people: the
// truth is on the disk.
const MessageProgress = uint8(wire.KindMessage)

// Progress is the body of a MessageProgress.
type Progress struct {
	Part string `json:"part"`
	Step int    `json:"step"` // -1: the part as a whole
	// What is "started", "ended" or "output".
	What   string `json:"what"`
	Exit   int    `json:"exit,omitempty"`   // of ended
	Output string `json:"output,omitempty"` // of output: at most 4 KiB, and not all of it
}

// Encode gives the message's body.
func (p Progress) Encode() []byte { return wire.Encode(p) }

// DecodeProgress reads a body.
func DecodeProgress(body []byte) (Progress, error) {
	var p Progress
	if err := json.Unmarshal(body, &p); err != nil {
		return Progress{}, fmt.Errorf("diskio: progress message: %w", err)
	}
	return p, nil
}
