package lease

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What can go wrong, to be tested with errors.Is.
var (
	// ErrLost: the right ended without being released. What it covered must
	// not be touched any more.
	ErrLost = errors.New("lease lost")
	// ErrReleased: the holder gave the right back.
	ErrReleased = errors.New("lease released")
	// ErrHeld: somebody else has it, and the call does not wait.
	ErrHeld = errors.New("not free")
	// ErrConflict: the stored record is another one than expected.
	ErrConflict = errors.New("record was changed by another")
	// ErrClosed: the Manager is closed.
	ErrClosed = errors.New("lease manager is closed")
)

// OpError is the error of the operations of this package.
type OpError struct {
	Op     string // "acquire", "raise", "check", ...
	Key    string
	Token  uint64        // of the lease that the operation is about; 0: none yet
	Holder Record        // who holds it; zero where that is not known
	Waited time.Duration // how long the call waited; 0: it did not
	Err    error
}

// Error names the key, the holder where there is one, the wait and the cause:
//
//	lease: host/h1/slot/0: held by TestUpgrade on ci-3 (pid 4711) since 12m3s, token 42: acquire: waited 1m0s: context deadline exceeded
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("lease: ")
	if e.Key != "" {
		b.WriteString(e.Key)
		b.WriteString(": ")
	}
	if !e.Holder.Zero() {
		b.WriteString(holderText(e.Holder, time.Now()))
		b.WriteString(": ")
	}
	b.WriteString(e.Op)
	if e.Token != 0 {
		fmt.Fprintf(&b, " (token %d)", e.Token)
	}
	if e.Waited > 0 {
		fmt.Fprintf(&b, ": waited %s", roundForPeople(e.Waited))
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// holderText says who holds r, for how long and under which token. Wall clocks
// of other machines may be anything, so a nonsensical age is given as a date.
func holderText(r Record, now time.Time) string {
	owner := r.Owner
	if owner == "" {
		owner = "somebody without a name"
	}
	if r.Note != "" {
		owner += " for " + r.Note
	}
	return fmt.Sprintf("held by %s since %s, token %d", owner, sinceText(r.Since, now), r.Token)
}

func sinceText(since, now time.Time) string {
	const mostAge = 10 * 365 * 24 * time.Hour
	age := now.Sub(since)
	if since.IsZero() {
		return "an unknown time"
	}
	if age < 0 || age > mostAge {
		return since.UTC().Format(time.RFC3339)
	}
	return roundForPeople(age).String()
}

func roundForPeople(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d
}

// ended gives the error of a context that is done, with its cause where that
// says more.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err { //nolint:errorlint // the same value, not the same kind
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
