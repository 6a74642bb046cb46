package gojson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bullpen-vm/bullpen/result"
)

// ErrClosed is what Encode returns after Close.
var ErrClosed = errors.New("gojson: the encoder is closed")

// Options is what an encoder may be told; nil and the zero value are the
// defaults.
type Options struct {
	// Package is the package of cases without a suite; empty: "tests".
	Package string
}

// Event is one line: the fields of test2json, in its order.
type Event struct {
	Time    time.Time `json:",omitzero"`
	Action  string
	Package string   `json:",omitempty"`
	Test    string   `json:",omitempty"`
	Elapsed *float64 `json:",omitempty"` // seconds
	Output  *string  `json:",omitempty"`
}

// Encoder writes cases as they arrive. It is safe for concurrent use: the lines
// of one case stay together.
type Encoder struct {
	fallback string

	mu       sync.Mutex
	w        io.Writer
	err      error // the first; nothing is written after it
	closed   bool
	packages map[string]*pack
	order    []string
}

type pack struct {
	failed bool
	took   time.Duration
	last   time.Time
}

// Write writes the whole report. Cases of one suite need not be neighbours.
func Write(w io.Writer, r *result.Report, o *Options) error {
	e := NewEncoder(w, o)
	for c := range r.All() {
		if err := e.Encode(c); err != nil {
			return err
		}
	}
	return e.Close()
}

// NewEncoder gives an encoder that writes to w. Close it for the events that end
// the packages.
func NewEncoder(w io.Writer, o *Options) *Encoder {
	e := &Encoder{w: w, fallback: "tests", packages: make(map[string]*pack)}
	if o != nil && o.Package != "" {
		e.fallback = o.Package
	}
	return e
}

// Encode writes the events of one case: run, its output, and how it ended. It
// blocks on the writer; the first error of the writer is returned by this call
// and all later ones.
func (e *Encoder) Encode(c result.Case) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	name := c.Suite
	if name == "" {
		name = e.fallback
	}
	p := e.packages[name]
	if p == nil {
		p = &pack{}
		e.packages[name] = p
		e.order = append(e.order, name)
		e.emit(Event{Time: c.Start, Action: "start", Package: name})
	}
	action, word := verdict(c.Status)
	test := Rewrite(c.Name)
	var end time.Time
	if !c.Start.IsZero() {
		end = c.Start.Add(c.Duration)
	}
	elapsed := seconds(c.Duration)
	p.failed = p.failed || action == "fail"
	p.took += c.Duration
	if end.After(p.last) {
		p.last = end
	}

	e.emit(Event{Time: c.Start, Action: "run", Package: name, Test: test})
	e.output(c.Start, name, test, "=== RUN   "+test+"\n")
	e.output(end, name, test, c.Output.String())
	e.output(end, name, test, remarks(&c))
	e.output(end, name, test, fmt.Sprintf("--- %s: %s (%.2fs)\n", word, test, elapsed))
	e.emit(Event{Time: end, Action: action, Package: name, Test: test, Elapsed: &elapsed})
	return e.err
}

// Close ends all packages; the writer stays open. It is idempotent.
func (e *Encoder) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.err
	}
	e.closed = true
	for _, name := range e.order {
		p := e.packages[name]
		action, word, line := "pass", "PASS", "ok  "
		if p.failed {
			action, word, line = "fail", "FAIL", "FAIL"
		}
		elapsed := seconds(p.took)
		e.output(p.last, name, "", word+"\n")
		e.output(p.last, name, "", fmt.Sprintf("%s\t%s\t%.3fs\n", line, name, elapsed))
		e.emit(Event{Time: p.last, Action: action, Package: name, Elapsed: &elapsed})
	}
	return e.err
}

// verdict gives the action and the word of testing for a status. What is no
// status has failed.
func verdict(s result.Status) (action, word string) {
	switch s {
	case result.Passed:
		return "pass", "PASS"
	case result.Skipped, result.Blocked:
		return "skip", "SKIP"
	}
	return "fail", "FAIL"
}

// remarks are the lines that say what the format has no word for.
func remarks(c *result.Case) string {
	var b strings.Builder
	for _, a := range c.Attempts {
		if len(c.Attempts) == 1 {
			break
		}
		fmt.Fprintf(&b, "    attempt %d %s", a.Number, a.Status)
		if a.Machine != "" {
			fmt.Fprintf(&b, " on %s", result.Printable(a.Machine))
		}
		if a.Message != "" {
			fmt.Fprintf(&b, ": %s", result.Shorten(a.Message, 200))
		}
		b.WriteByte('\n')
	}
	if c.Flaky {
		b.WriteString("    flaky\n")
	}
	if c.Status != result.Passed || c.Message != "" {
		fmt.Fprintf(&b, "    %s", c.Status)
		if c.Message != "" {
			fmt.Fprintf(&b, ": %s", strings.ReplaceAll(strings.TrimRight(c.Message, "\n"), "\n", "\n    "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// output emits one event for each line of text; what has no end of line gets one.
func (e *Encoder) output(at time.Time, pack, test, text string) {
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			line += "\n"
		}
		e.emit(Event{Time: at, Action: "output", Package: pack, Test: test, Output: &line})
	}
}

func (e *Encoder) emit(v Event) {
	if e.err != nil {
		return
	}
	text, err := json.Marshal(v)
	if err == nil {
		_, err = e.w.Write(append(text, '\n'))
	}
	if err != nil {
		e.err = fmt.Errorf("gojson: %w", err)
	}
}

func seconds(d time.Duration) float64 { return max(d, 0).Round(time.Millisecond).Seconds() }

// Rewrite gives a case's name as testing would write it: blanks become _ and
// what is not printable a Go escape. A slash is kept: it means a subtest.
func Rewrite(name string) string {
	var b strings.Builder
	for _, c := range name {
		switch {
		case unicode.IsSpace(c):
			b.WriteByte('_')
		case !strconv.IsPrint(c):
			quoted := strconv.QuoteRune(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
