package diskio

import (
	"io/fs"
	"time"
)

// Results are what a guest recorded of a job. The completion record proves that
// the records are whole and in order, not that the guest is honest.
//
// It keeps the reader it was read from, for artifacts; output is in memory.
type Results struct {
	// Complete: the guest recorded everything, and its completion record over
	// all of it was verified. Without it every part is Partial.
	Complete bool
	// Parts are those of the job, in order, also those never begun.
	Parts []PartResult
	// Needed is above zero when the results did not fit: a disk of this size in
	// bytes would have been enough for them.
	Needed int64
	// Damage says why the results are not complete; nil when they are.
	Damage error
	// Fault is what the guest itself recorded as the reason why it could not
	// run the job to its end; empty: nothing.
	Fault string
	// Agent and Boot are what the guest said of itself.
	Agent, Boot string
	// Bytes and Records are how much was read and believed.
	Bytes   int64
	Records int

	src source
}

// PartResult is what is known of one part.
type PartResult struct {
	ID string
	// Started and Ended: the guest recorded so. Ended with Partial is a part
	// that was finished before a crash.
	Started, Ended bool
	// Partial: something may be missing. Such a part is never OK.
	Partial   bool
	Start     time.Time // the guest's clock
	Steps     []StepResult
	Artifacts []Artifact
	// Refused are files that were not brought back, and why: links, devices,
	// names that cannot be, files that could not be read.
	Refused []Refusal
	// Missed is how many bytes had no room on the disk; see Results.Needed.
	Missed int64
}

// OK tells that the part is whole and that all its steps are OK.
func (p PartResult) OK() bool {
	if p.Partial || !p.Started || !p.Ended || len(p.Steps) == 0 {
		return false
	}
	for _, s := range p.Steps {
		if !s.OK() {
			return false
		}
	}
	return true
}

// StepResult is what is known of one step.
type StepResult struct {
	Name string
	// Started and Ended: the guest recorded so. A skipped step has ended and
	// was not started.
	Started, Ended, Skipped, TimedOut bool
	Exit                              int    // -1: no exit code
	Signal                            string // that ended it, such as SIGKILL
	Error                             string // why it was not started, skipped or interrupted
	Start                             time.Time
	Duration                          time.Duration
	// Stdout and Stderr are the begin and the end of what the step wrote;
	// between them StdoutCut and StderrCut bytes are left out, at StdoutHead
	// and StderrHead.
	Stdout, Stderr         []byte
	StdoutCut, StderrCut   int64
	StdoutHead, StderrHead int
}

// OK tells that the step ran to its end and succeeded.
func (s StepResult) OK() bool {
	return s.Started && s.Ended && !s.Skipped && !s.TimedOut && s.Exit == 0 && s.Signal == "" && s.Error == ""
}

// Artifact is a file that was brought back; see Results.Open.
type Artifact struct {
	Path   string // relative, clean, with slashes
	Size   int64  // bytes
	Mode   fs.FileMode
	Digest string // "sha256:" and 64 hexadecimal digits

	chunks []extent
}

// extent is a place on the disk.
type extent struct{ off, size int64 }

// ReadOptions bound what is believed of a guest; nil and zero fields mean the
// defaults. What goes beyond is an ErrLimit in Results.Damage.
type ReadOptions struct {
	MaxRecords   int   // default 4 million
	MaxBytes     int64 // of all records; default the whole disk
	MaxOutput    int64 // of all steps' output in memory; default 256 MiB
	MaxArtifacts int   // files of all parts; default 1 million
}

const (
	defaultMaxRecords   = 4 << 20
	defaultMaxOutputSum = 256 << 20
	defaultMaxArtifacts = 1 << 20
)

func (o *ReadOptions) withDefaults(size int64) ReadOptions {
	var r ReadOptions
	if o != nil {
		r = *o
	}
	if r.MaxRecords <= 0 {
		r.MaxRecords = defaultMaxRecords
	}
	if r.MaxBytes <= 0 {
		r.MaxBytes = size
	}
	if r.MaxOutput <= 0 {
		r.MaxOutput = defaultMaxOutputSum
	}
	if r.MaxArtifacts <= 0 {
		r.MaxArtifacts = defaultMaxArtifacts
	}
	return r
}
