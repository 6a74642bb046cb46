package local

import (
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// The names in a machine's folder; see the package documentation.
const (
	specFile    = "spec.json"
	ownerFile   = "owner.json"
	secretFile  = "secret"
	runFile     = "run.json"
	runLock     = "run.lock"
	endFile     = "end.json"
	opLock      = "op.lock"
	consoleFile = "console.log"
	guestRoot   = "root"
)

func jobDiskFile(n int) string   { return fmt.Sprintf("job-%d", n) }
func inputFile(place int) string { return fmt.Sprintf("input-%d", place) }

// specRecord is what is kept of a vm.Spec.
type specRecord struct {
	Version     int               `json:"version"`
	Name        string            `json:"name"`
	Template    string            `json:"template,omitempty"`
	Incarnation string            `json:"incarnation"`
	Mark        string            `json:"mark"` // of the machine's processes: random, so no other root has it
	Created     time.Time         `json:"created"`
	JobDisks    []int64           `json:"job_disks,omitempty"`
	Inputs      int               `json:"inputs,omitempty"`
	Console     string            `json:"console"` // absolute
	Properties  map[string]string `json:"properties,omitempty"`
}

const specVersion = 1

// runRecord is written by the keeper, first without the agent.
type runRecord struct {
	Boot    string    `json:"boot"`
	HostRun string    `json:"host_run"` // the kernel's boot id
	PIDs    string    `json:"pids"`     // the PID namespace
	Started time.Time `json:"started"`
	Harness int       `json:"harness"` // process id, for people
	Keeper  procID    `json:"keeper"`
	Agent   procID    `json:"agent,omitzero"`
}

// endRecord is written by the keeper as its last act, or by the driver when
// the keeper could not.
type endRecord struct {
	Boot   string     `json:"boot"`
	Kind   vm.EndKind `json:"kind"`
	Detail string     `json:"detail"`
	At     time.Time  `json:"at"`
}

// inputRecord stands beside an input.
type inputRecord struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// writeRecord replaces a file as a whole. It is synced first where it has to
// survive the computer's sudden end, which is only what List needs.
func writeRecord(path string, v any, sync bool) error { return hostdir.WriteRecord(path, v, sync) }

// readRecord reads a file whole; fs.ErrNotExist when there is none.
func readRecord(path string, v any) error { return hostdir.ReadRecord(path, v) }
