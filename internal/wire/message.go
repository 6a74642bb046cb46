package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Kind is what a frame says. Kinds from Message up are a job's own and mean
// nothing to this package.
type Kind uint8

// The kinds. G is sent by guests, H by hosts.
const (
	KindHello    Kind = 1 // G: Hello, repeated until answered
	KindWelcome  Kind = 2 // H: Welcome
	KindRefused  Kind = 3 // H: Fault; the guest powers off
	KindReady    Kind = 4 // G: Ready
	KindPing     Kind = 5 // H: any body, at most 64 bytes
	KindPong     Kind = 6 // G: the same body
	KindPowerOff Kind = 7 // H: end in an orderly way

	KindGo     Kind = 16 // H: start the job; the body is the job's own
	KindDone   Kind = 17 // G: Done: the job has ended and its records are on the disk
	KindCancel Kind = 18 // H: Cancel
	KindFault  Kind = 19 // G: Fault: the stream cannot do what was asked; it is over

	KindExec   Kind = 24 // H: Exec
	KindStdin  Kind = 25 // H: bytes; an empty body closes the input
	KindStdout Kind = 26 // G: bytes
	KindStderr Kind = 27 // G: bytes
	KindExit   Kind = 28 // G: Exit
	KindWindow Kind = 29 // both: Window

	KindPut    Kind = 32 // H: Copy: take a file or a tree as tar in Data
	KindGet    Kind = 33 // H: Copy: send a file or a tree as tar in Data
	KindData   Kind = 34 // both: bytes; an empty body ends the copy
	KindCopied Kind = 35 // G: Copied

	KindMessage Kind = 64 // G: the first of the job's own kinds
)

// Version of the protocol. A guest that speaks another major version is refused.
const Version = 1

// InitialWindow is how many bytes of Stdin, Stdout, Stderr and Data bodies may
// be under way on a stream, in each direction, before Window grants more.
const InitialWindow = 256 << 10

// Hello is the guest's first word.
type Hello struct {
	Version     int    `json:"version"`
	Secret      string `json:"secret"`      // of this boot, from where the driver put it
	Incarnation string `json:"incarnation"` // likewise
	Boot        string `json:"boot"`        // chosen by the agent at its start
	Agent       string `json:"agent"`       // program and version, for people
}

// Welcome is the host's answer.
type Welcome struct {
	Version     int               `json:"version"`
	Machine     string            `json:"machine"`
	HostName    string            `json:"hostname"`
	MachineID   string            `json:"machine_id"` // 32 hexadecimal digits
	Incarnation string            `json:"incarnation"`
	Entropy     []byte            `json:"entropy"` // 64 bytes, new for each welcome
	Clock       time.Time         `json:"clock"`   // the host's wall clock
	Properties  map[string]string `json:"properties,omitempty"`
	// Keepalive is how long the agent goes on without a word from the host
	// before it powers the guest off; zero: for ever.
	Keepalive time.Duration `json:"keepalive"`
}

// Ready is the guest's word that it can work, with what it knows of its own
// cleanness.
type Ready struct {
	// Dirty is empty on a machine that has run nothing since its known state,
	// else it says what marked it: the mark lives on the guest's root, so a
	// rollback that did not happen is seen.
	Dirty string `json:"dirty,omitempty"`
	// Jobs is how many jobs, commands and copies this boot has seen.
	Jobs    int               `json:"jobs"`
	Details map[string]string `json:"details,omitempty"` // kernel, agent's uid, ...
}

// Done ends a job's stream.
type Done struct {
	// Complete: the completion record is on the disk and synced.
	Complete bool `json:"complete"`
	// Error says why the job could not be run or recorded; it is never a
	// step's own failure.
	Error string `json:"error,omitempty"`
}

// Cancel asks a job or a command to end.
type Cancel struct {
	Kill bool `json:"kill"` // false: interrupt; true: kill now
}

// Fault says why something is refused.
type Fault struct {
	Error string `json:"error"`
}

// Exec starts a command.
type Exec struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env,omitempty"` // KEY=value, over the agent's own
	Dir   string   `json:"dir,omitempty"`
	Stdin bool     `json:"stdin"` // Stdin frames follow
}

// Exit ends a command's stream.
type Exit struct {
	Code   int    `json:"code"`             // -1 when a signal ended it
	Signal string `json:"signal,omitempty"` // the signal's name
	Error  string `json:"error,omitempty"`  // why it could not be started
}

// Window grants more bytes.
type Window struct {
	Bytes int64 `json:"bytes"`
}

// Copy asks for a copy as a tar stream in Data frames, ended by an empty one.
// Put: Path is a folder, made when it is missing, and the entries are laid out
// below it. Get: of a folder, the entries relative to it; of a file, one entry
// with its base name.
type Copy struct {
	Path string `json:"path"`
	// MaxBytes bounds what Get may send and Put may take, in bytes of the tar
	// stream; zero: no bound.
	MaxBytes int64 `json:"max_bytes,omitempty"`
}

// Copied ends a copy's stream. Of a Get it comes behind the empty Data frame;
// with an Error it may come at any time.
type Copied struct {
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"` // of the files' content
	Error string `json:"error,omitempty"`
}

// Encode marshals a message; it fails only for what JSON cannot carry, which
// no message of this package contains.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("bug: wire: %T cannot be encoded: %v", v, err))
	}
	return b
}

// Decode unmarshals a body and names the kind in its error.
func Decode(k Kind, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("wire: kind %d: %w", k, err)
	}
	return nil
}
