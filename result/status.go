package result

import (
	"fmt"
	"slices"
	"strings"
)

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

// Statuses gives all statuses, worst last, in a new slice.
func Statuses() []Status {
	return []Status{Passed, Skipped, Blocked, Aborted, Errored, TimedOut, Failed}
}

// Rank is the place of the status in the order of Statuses, from zero; -1 when
// it is not one of them.
func (s Status) Rank() int {
	switch s {
	case Passed:
		return 0
	case Skipped:
		return 1
	case Blocked:
		return 2
	case Aborted:
		return 3
	case Errored:
		return 4
	case TimedOut:
		return 5
	case Failed:
		return 6
	}
	return -1
}

// Valid reports whether s is one of Statuses.
func (s Status) Valid() bool { return s.Rank() >= 0 }

// Worse reports whether s is worse than other. No status at all is better than
// any.
func (s Status) Worse(other Status) bool { return s.Rank() > other.Rank() }

// Own reports whether s is the test's own word about itself (passed, timed out
// or failed) and not something that happened to it.
func (s Status) Own() bool { return s == Passed || s == TimedOut || s == Failed }

// Bad reports whether s counts against the test itself: failed or timed out.
func (s Status) Bad() bool { return s == TimedOut || s == Failed }

// Parse gives the status that text names. Case does not matter, and '-' and '_'
// stand for the blank in "timed out". Anything else is an error that lists the
// statuses.
func Parse(text string) (Status, error) {
	s := Status(strings.NewReplacer("-", " ", "_", " ").Replace(strings.ToLower(strings.TrimSpace(text))))
	if s.Valid() {
		return s, nil
	}
	return "", fmt.Errorf("result: status %q is not one of %s", text, statusNames())
}

// Combine gives the verdict of a case whose earlier attempts came to first and
// whose next attempt came to next, by the rules in the package comment. An
// empty first is no attempt at all.
func Combine(first, next Status) Status {
	switch {
	case first == "":
		return next
	case next == "":
		return first
	case next.Own():
		return next
	case first.Bad():
		return first
	case first == Passed && (next == Skipped || next == Blocked):
		return first
	case next.Worse(first):
		return next
	}
	return first
}

func statusNames() string {
	names := make([]string, 0, 7)
	for _, s := range Statuses() {
		names = append(names, string(s))
	}
	return strings.Join(slices.Clip(names), ", ")
}
