package libvirt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// The names in a machine's folder; see the package documentation.
const (
	specFile    = "spec.json"
	secretFile  = "secret"
	runFile     = "run.json"
	endFile     = "end.json"
	opLock      = "op.lock"
	channelLock = "channel.lock"
	placeLock   = "place.lock"
	consoleFile = "console.log"
)

func jobDiskFile(n int) string   { return fmt.Sprintf("job-%d", n) }
func inputFile(place int) string { return fmt.Sprintf("input-%d", place) }
func diskFile(n int) string      { return fmt.Sprintf("disk-%d", n) }

// specRecord is what is kept of a vm.Spec; its secret is in a file of its own.
type specRecord struct {
	Version     int               `json:"version"`
	Name        string            `json:"name"`
	UUID        string            `json:"uuid"`
	Incarnation string            `json:"incarnation"`
	Template    string            `json:"template,omitempty"`
	Created     time.Time         `json:"created"`
	JobDisks    []int64           `json:"job_disks,omitempty"`
	Inputs      int               `json:"inputs,omitempty"`
	InputSize   int64             `json:"input_size,omitempty"`
	Console     string            `json:"console"`               // absolute; empty on another computer
	FarConsole  string            `json:"far_console,omitempty"` // the volume there
	Socket      string            `json:"socket"`                // absolute
	Properties  map[string]string `json:"properties,omitempty"`
	OnExit      vm.OnExit         `json:"on_exit"`
	Disks       int               `json:"disks,omitempty"` // beside job disks and inputs, that may be written
}

const specVersion = 1

// runRecord says that the machine was started.
type runRecord struct {
	Boot    string    `json:"boot"` // of this start
	Started time.Time `json:"started"`
	Harness int       `json:"harness"` // process id, for people
	// Saved is the incarnation that the guest's memory knows when it is a
	// parent's, and Secret what it says then.
	Saved  string `json:"saved,omitempty"`
	Secret string `json:"secret,omitempty"`
}

// endRecord is how a run ended: libvirt forgets it when its daemon ends.
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

// writeRecord replaces a file, for good.
func writeRecord(path string, v any) error { return hostdir.WriteRecord(path, v, true) }

// writeBrief replaces a file, for what no computer's restart has to outlive.
func writeBrief(path string, v any) error { return hostdir.WriteRecord(path, v, false) }

func readRecord(path string, v any) error { return hostdir.ReadRecord(path, v) }

// readSpec reads a machine's record; vm.ErrNotFound when it has no folder.
func readSpec(dir, name string) (specRecord, error) {
	var s specRecord
	path := filepath.Join(dir, specFile)
	err := readRecord(path, &s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("%w: no %s", vm.ErrNotFound, path)
	case err == nil && (s.Version != specVersion || s.Name != name):
		err = fmt.Errorf("%s is of version %d and machine %q, want %d and %q", path, s.Version, s.Name, specVersion, name)
	}
	return s, err
}

// readRun gives the last start; nil when it was never started.
func readRun(dir string) (*runRecord, error) {
	var r runRecord
	err := readRecord(filepath.Join(dir, runFile), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return &r, err
}

// readEnd gives the end of that start; nil when it is not recorded.
func readEnd(dir, boot string) (*endRecord, error) {
	var e endRecord
	err := readRecord(filepath.Join(dir, endFile), &e)
	if errors.Is(err, fs.ErrNotExist) || err == nil && e.Boot != boot {
		return nil, nil
	}
	return &e, err
}

// removeAll removes files that may be gone.
func removeAll(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
