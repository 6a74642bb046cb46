package diskio

import (
	"io/fs"
	"time"
)

// Job is what one task does in a guest: steps that run one after the other,
// the files they work on, and what is brought back.
//
// In the guest, steps start in an empty work folder of the job's own
// ($BULLPEN_WORK) with Files laid out in it; inputs are below $BULLPEN_IN
// (real guests: /in), one folder per name; what the steps put below
// $BULLPEN_OUT comes back as artifacts.
type Job struct {
	// Steps run in order; the first that fails skips the rest, except those
	// with Always. At least one is required.
	Steps []Step
	// Files are carried on the job disk; for what is large or shared by many
	// jobs use Inputs.
	Files  []File
	Inputs []Input
	// Env is set for each step, over the guest's own environment. Keys are
	// [A-Za-z_][A-Za-z0-9_]*.
	Env map[string]string
	// Before is a shell script that is sourced in front of each step.
	Before string
	// Collect names files and folders to bring back besides $BULLPEN_OUT,
	// relative to the work folder. One that does not exist is no error.
	Collect []string
	// Timeout bounds all steps together, measured in the guest; zero: none.
	Timeout time.Duration
	// Results is how many bytes of results are expected at the most, so that
	// a disk of the right size can be chosen; zero: DefaultResults.
	Results int64
}

// DefaultResults is the room for results of a job that does not say, in bytes.
const DefaultResults = 16 << 20

// Step is one command. It fails when it cannot be started, exits with a code
// other than zero, is ended by a signal or runs out of time.
type Step struct {
	// Name is for people; empty: the command line, shortened.
	Name string
	Argv []string // at least the program; not a shell's line: see Commands
	Env  map[string]string
	// Dir is relative to the work folder; empty: the work folder itself.
	Dir     string
	Before  string        // sourced after the job's own Before
	Timeout time.Duration // zero: none but the job's
	Always  bool          // run also when a step before it has failed
}

// Commands makes one step of each shell command line, run by /bin/sh -c.
func Commands(lines ...string) []Step {
	steps := make([]Step, len(lines))
	for i, line := range lines {
		steps[i] = Step{Name: line, Argv: []string{"/bin/sh", "-c", line}}
	}
	return steps
}

// File is one file of a job. Exactly one of Data and Source counts: Source when
// it is not empty.
type File struct {
	Path   string      // relative to the work folder, with slashes
	Mode   fs.FileMode // permission bits; zero: 0644
	Data   []byte
	Source string // a file on the host, read when the job disk is written
}

// Input is a read-only input disk. Image may be shared by any number of jobs.
type Input struct {
	Name  string // the folder below $BULLPEN_IN: one path element
	Image *Image
}

// Part is one task's job within a batch that runs on one machine without a
// rollback in between. A failed step skips the rest of its part only.
type Part struct {
	ID  string // the task's
	Job Job
}
