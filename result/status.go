package result

// Status is the verdict of a case. The zero value is not a verdict.
type Status string

// The statuses, worst last.
const (
	Passed   Status = "passed"
	Skipped  Status = "skipped"
	Blocked  Status = "blocked"   // a dependency did not do what was asked of it
	Aborted  Status = "aborted"   // the run was ended before or while it ran
	Errored  Status = "errored"   // the environment failed, not the test
	TimedOut Status = "timed out" // it ran out of its own time
	Failed   Status = "failed"
)
