package result

import (
	"maps"
	"slices"
	"time"
)

// Case is the result of one test. It is plain data: a Case is not safe for
// concurrent changes, and a Report keeps a copy of its own.
type Case struct {
	// Suite and Name together identify the case within a report.
	Suite, Name string
	// Status is the verdict over all attempts; see Report.Add for what an
	// empty or unknown one becomes.
	Status Status
	// Message says why, for people: best one line, any length.
	Message string
	// Start and Duration are those of the attempt that decided; zero: unknown.
	Start    time.Time
	Duration time.Duration
	// ExitCode is that of the step that decided, zero if there was none.
	ExitCode  int
	Output    Output
	Artifacts []Artifact
	// Properties are facts such as machine, template, host and token.
	Properties map[string]string
	// Attempts, in the order in which they were made. Report.Add makes one of
	// the case itself when there are none, and numbers them from one.
	Attempts []Attempt
	// Metrics are measured values by name.
	Metrics map[string]float64
	// Flaky: attempts of the same run both passed and failed or timed out.
	Flaky bool
}

// Attempt is one try at a case.
type Attempt struct {
	Number  int // from one
	Status  Status
	Message string
	// Machine and Host are where it ran; empty when it never got one.
	Machine, Host string
	Start         time.Time
	// Duration is how long the test itself took; zero: Phases.Run.
	Duration time.Duration
	Phases   Phases
	// Output of an attempt that did not decide; that of the one that did is in
	// the case.
	Output Output
}

// Took is how long the test itself took in this attempt: Duration, or else the
// run phase.
func (a Attempt) Took() time.Duration {
	if a.Duration != 0 {
		return a.Duration
	}
	return a.Phases.Run
}

// Phases are the parts of an attempt's time, each zero where it is not known.
type Phases struct {
	Queued   time.Duration // waiting to be chosen
	Placed   time.Duration // chosen, waiting for a machine
	Boot     time.Duration // from the machine's start to ready
	Run      time.Duration // from go to the guest's last word
	Read     time.Duration // reading the results off the disk
	Rollback time.Duration // bringing the machine back to its known state
}

// Total is the sum of all phases.
func (p Phases) Total() time.Duration {
	return p.Queued + p.Placed + p.Boot + p.Run + p.Read + p.Rollback
}

// Artifact is one file that a case left.
type Artifact struct {
	Path   string // where it was in the guest, with slashes
	File   string // where it is now, on the host; empty: not kept
	Size   int64  // in bytes
	Digest string // such as sha256:...; empty: not known
}

// Machine is where the deciding attempt ran: that of the last attempt that has
// one, or else the property "machine".
func (c *Case) Machine() string {
	for _, a := range slices.Backward(c.Attempts) {
		if a.Machine != "" {
			return a.Machine
		}
	}
	return c.Properties["machine"]
}

// FullName is the suite and the name with a slash between them, or the name
// alone when there is no suite.
func (c *Case) FullName() string {
	if c.Suite == "" {
		return c.Name
	}
	return c.Suite + "/" + c.Name
}

// clone copies all that a caller could change by mistake. The bytes of outputs
// are shared: nobody writes to them.
func (c Case) clone() Case {
	c.Artifacts = slices.Clone(c.Artifacts)
	c.Properties = maps.Clone(c.Properties)
	c.Attempts = slices.Clone(c.Attempts)
	c.Metrics = maps.Clone(c.Metrics)
	return c
}
