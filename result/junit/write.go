package junit

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
	"github.com/bullpen-vm/bullpen/result"
)

// Options is what an encoding may be told; nil and the zero value are the
// defaults.
type Options struct {
	// Name is the name of all suites together.
	Name string
	// Suite is the name of the suite of cases that have none; empty: Name, or
	// else "tests".
	Suite string
	// Properties are written into each suite: the run's id, its description.
	Properties map[string]string
	// HostName is the host that ran the harness.
	HostName string
	// NoOutput leaves out what the tests wrote, where they passed.
	NoOutput bool
}

// Write writes the report as one XML document. Cases that are added while it
// writes are in it as a whole or not at all.
func Write(w io.Writer, r *result.Report, o *Options) error {
	if o == nil {
		o = &Options{}
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(document(r.All(), o)); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	return nil
}

// WriteFile writes the report into the file at path, with mode 0644. The file
// is synced and replaced as a whole: a reader never sees half a document.
func WriteFile(path string, r *result.Report, o *Options) error {
	if err := atomicfile.Write(path, 0o644, func(w io.Writer) error { return Write(w, r, o) }); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	return nil
}

// document groups the cases into suites and adds them up, so that every total
// is the sum of what is written below it, rounding included.
func document(cases iter.Seq[result.Case], o *Options) *suites {
	all := &suites{Name: clean(o.Name)}
	index := make(map[string]*suite)
	fallback := o.Suite
	if fallback == "" {
		fallback = o.Name
	}
	if fallback == "" {
		fallback = "tests"
	}
	shared := properties(o.Properties)
	for c := range cases {
		name := c.Suite
		if name == "" {
			name = fallback
		}
		s := index[name]
		if s == nil {
			s = &suite{Name: clean(name), HostName: clean(o.HostName), Properties: shared}
			index[name] = s
			all.Suites = append(all.Suites, s)
		}
		s.Cases = append(s.Cases, testCase(&c, s.Name, o))
		s.count(&c)
	}
	for _, s := range all.Suites {
		all.add(s.totals)
	}
	return all
}

func testCase(c *result.Case, suiteName string, o *Options) *testcase {
	t := &testcase{Name: clean(c.Name), Class: suiteName, Time: seconds(c.Duration).String()}
	t.Properties = facts(c)
	because := func() *problem {
		return &problem{Message: result.Shorten(c.Message, 200), Type: string(c.Status), Text: clean(c.Message)}
	}
	switch c.Status {
	case result.Failed, result.TimedOut:
		t.Failure = because()
	case result.Errored, result.Aborted:
		t.Error = because()
	case result.Blocked:
		t.Skipped = &skipped{Message: result.Shorten("blocked: "+c.Message, 200)}
	case result.Skipped:
		t.Skipped = &skipped{Message: result.Shorten(c.Message, 200)}
	}
	for _, a := range undecided(c) {
		r := &rerun{Message: result.Shorten(a.Message, 200), Type: string(a.Status), Trace: clean(a.Message), Out: clean(a.Output.String())}
		switch bad := a.Status.Bad(); {
		case c.Status == result.Passed && bad:
			t.FlakyFailures = append(t.FlakyFailures, r)
		case c.Status == result.Passed:
			t.FlakyErrors = append(t.FlakyErrors, r)
		case bad:
			t.RerunFailures = append(t.RerunFailures, r)
		default:
			t.RerunErrors = append(t.RerunErrors, r)
		}
	}
	if !o.NoOutput || c.Status != result.Passed {
		t.Out = clean(c.Output.String())
	}
	return t
}

// undecided gives the bad attempts but the one that the case's own element
// stands for, which is the last one with the case's status.
func undecided(c *result.Case) []result.Attempt {
	decided := -1
	for i, a := range c.Attempts {
		if a.Status == c.Status {
			decided = i
		}
	}
	var rest []result.Attempt
	for i, a := range c.Attempts {
		if i != decided && (a.Status.Bad() || a.Status == result.Errored || a.Status == result.Aborted) {
			rest = append(rest, a)
		}
	}
	return rest
}

// facts are the properties of a case, and what Surefire has no word for.
func facts(c *result.Case) *propertyList {
	list := &propertyList{Properties: make([]property, 0, len(c.Properties)+1)}
	add := func(name, value string) {
		list.Properties = append(list.Properties, property{clean(name), clean(value)})
	}
	for name, value := range c.Properties {
		add(name, value)
	}
	if machine := c.Machine(); machine != "" && c.Properties["machine"] == "" {
		add("machine", machine)
	}
	if len(c.Attempts) > 1 {
		add("attempts", strconv.Itoa(len(c.Attempts)))
	}
	if c.Flaky {
		add("flaky", "true")
	}
	for name, v := range c.Metrics {
		add("metric."+name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	for i, a := range c.Artifacts {
		place := a.File
		if place == "" {
			place = a.Path
		}
		add("artifact."+strconv.Itoa(i+1), place)
	}
	return list.sorted()
}

func properties(facts map[string]string) *propertyList {
	list := &propertyList{}
	for name, value := range facts {
		list.Properties = append(list.Properties, property{clean(name), clean(value)})
	}
	return list.sorted()
}

// sorted gives the list by name, and nil for an empty one.
func (l *propertyList) sorted() *propertyList {
	if len(l.Properties) == 0 {
		return nil
	}
	slices.SortFunc(l.Properties, func(a, b property) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	return l
}

// count adds one case to the suite's totals.
func (s *suite) count(c *result.Case) {
	n := totals{Tests: 1, Time: seconds(c.Duration)}
	switch c.Status {
	case result.Failed, result.TimedOut:
		n.Failures = 1
	case result.Errored, result.Aborted:
		n.Errors = 1
	case result.Skipped, result.Blocked:
		n.Skipped = 1
	}
	s.add(n)
	if !c.Start.IsZero() && (s.first.IsZero() || c.Start.Before(s.first)) {
		s.first = c.Start
		s.Timestamp = c.Start.UTC().Format("2006-01-02T15:04:05")
	}
}

// seconds rounds to what is written, so that sums agree with their parts.
func seconds(d time.Duration) millis { return millis(max(d, 0).Round(time.Millisecond)) }
