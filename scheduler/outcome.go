package scheduler

import (
	"fmt"
	"strconv"
	"time"
)

// Outcome is how a task ended, for good.
type Outcome[R any] struct {
	Task, Group string
	// Verdict is final. For a task that never gave one its status is blocked,
	// aborted or errored; for errored ones Infra says why, and wraps
	// ErrPoison, ErrPending, ErrRespawns, ErrImpossible, ErrLost where it was
	// that.
	Verdict Verdict
	// Result of the last attempt that gave one.
	Result R
	// Worker is the name of the last one that the task was given to.
	Worker string
	// Attempts, the oldest first; empty for a task that never ran.
	Attempts []Attempt[R]
	// Cause says, for people, why a task has no verdict of its own: which
	// dependency blocked it, what aborted it, why it was given up.
	Cause string
	// Queued is the time from when it could run to its last start; Duration
	// that of its last attempt.
	Queued, Duration time.Duration
}

// Attempt is one try of a task.
type Attempt[R any] struct {
	Worker   string
	Verdict  Verdict
	Result   R
	Start    time.Time
	Duration time.Duration
}

// explainEnd returns the text and the error for an end without a verdict.
func (m *machine) explainEnd(t int32, last error) (text string, infra error) {
	k := &m.tasks[t]
	if k.cold < 0 {
		return "", last
	}
	c := &m.loose[k.cold]
	name := m.ids[t]
	wrap := func(kind error, text string) error {
		if last != nil {
			return Infra(&OpError{Op: "run", Task: name, Err: fmt.Errorf("%w: %s: %w", kind, text, last)})
		}
		return Infra(&OpError{Op: "run", Task: name, Err: fmt.Errorf("%w: %s", kind, text)})
	}
	switch c.cause {
	case causeBlocked:
		return m.explainBlock(t, c.by, c.root), nil
	case causeAborted, causeMostFailures:
		return c.text, nil
	case causePending:
		text = "no worker for it within its pending limit of " + c.text
		return text, wrap(ErrPending, text)
	case causePoison:
		text = fmt.Sprintf("it was started and lost with its worker %d times", k.lost)
		return text, wrap(ErrPoison, text)
	case causeAttempts:
		text = fmt.Sprintf("the environment failed in all of its %d attempts: %s", k.tries, c.text)
		return text, wrap(ErrInfra, fmt.Sprintf("in all of %d attempts", k.tries))
	case causeBudget:
		text = fmt.Sprintf("the environment failed and the run's %d retries are used up: %s", m.retries, c.text)
		return text, wrap(ErrInfra, "the retries of the run are used up")
	case causeFinal:
		text = "the environment failed in a way that is not tried again: " + c.text
		return text, wrap(ErrInfra, "not tried again")
	case causeImpossible:
		text = "no worker can ever fit: " + c.text
		return text, wrap(ErrImpossible, c.text)
	case causeRespawns:
		text = fmt.Sprintf("workers failed %d times with no task ended between, last: %s", m.kinds[m.classes[k.class].kind].fails, c.text)
		return text, wrap(ErrRespawns, text)
	case causeStatus:
		text = "the worker ended it with the unknown status " + strconv.Quote(c.text)
		return text, wrap(ErrInfra, text)
	}
	return "", last
}

// explainBlock tells which dependency did not end as asked, and the first cause
// behind it.
func (m *machine) explainBlock(t, by, root int32) string {
	text := "needs " + m.ids[by]
	for e := m.tasks[t].pred; e >= 0; e = m.edges[e].nextIn {
		if m.edges[e].from == by && !m.edges[e].met {
			text += m.conds[m.edges[e].cond].String()
			break
		}
	}
	text += ", which " + m.ended(by)
	if root >= 0 && root != by {
		text += "; first cause: " + m.ids[root] + " " + m.ended(root)
	}
	return text
}

// ended says how a task ended: "failed (exit 3)".
func (m *machine) ended(t int32) string {
	s := m.tasks[t].status
	text := s.String()
	switch s {
	case statusBlocked, statusAborted, statusErrored, statusSkipped:
		text = "was " + text
	}
	if x := m.exit(t); x != 0 {
		text += " (exit " + strconv.Itoa(int(x)) + ")"
	}
	return text
}

// String says what a dependency asks for, behind "needs x".
func (c *condition) String() string {
	if c.ended {
		return " to have ended"
	}
	text := ""
	for i, w := range c.words {
		if i == 0 {
			text += " to be " + w
		} else {
			text += " or " + w
		}
	}
	for i, x := range c.exits {
		switch {
		case i > 0:
			text += " or " + strconv.Itoa(int(x))
		case text != "":
			text += " with exit " + strconv.Itoa(int(x))
		default:
			text += " to exit with " + strconv.Itoa(int(x))
		}
	}
	if text == "" {
		return " to pass"
	}
	return text
}
