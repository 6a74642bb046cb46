package scheduler

// The statuses of a verdict: package result's words, which this package does
// not import. Worst last.
const (
	Passed   = "passed"
	Skipped  = "skipped"
	Blocked  = "blocked"   // a dependency did not end as asked
	Aborted  = "aborted"   // the run ended before or while it ran
	Errored  = "errored"   // the environment failed, not the test
	TimedOut = "timed out" // it ran out of its own time
	Failed   = "failed"
)

// status is the machine's form of the words above.
type status uint8

const (
	statusNone status = iota
	statusPassed
	statusSkipped
	statusBlocked
	statusAborted
	statusErrored
	statusTimedOut
	statusFailed
	statuses // how many there are
)

var statusWords = [statuses]string{"", Passed, Skipped, Blocked, Aborted, Errored, TimedOut, Failed}

func (s status) String() string { return statusWords[s] }

// statusOf reads a word; statusNone for any that is not known.
func statusOf(word string) status {
	for i, w := range statusWords {
		if i > 0 && w == word {
			return status(i)
		}
	}
	return statusNone
}

// ran says whether a task with this status had an end of its own, and so an
// exit code.
func (s status) ran() bool {
	return s == statusPassed || s == statusFailed || s == statusTimedOut || s == statusSkipped
}
