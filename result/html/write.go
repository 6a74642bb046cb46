package html

import (
	_ "embed" // the page's template
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
	"github.com/bullpen-vm/bullpen/result"
)

//go:embed page.tmpl
var page string

// Options is what a page may be told; nil and the zero value are the defaults.
type Options struct {
	// Title is the page's heading; empty: "Test report".
	Title string
	// Properties are shown at the top: the run's id, its description.
	Properties map[string]string
	// NoOutput leaves out what the tests wrote, where they passed.
	NoOutput bool
}

// Write writes the report as one page.
func Write(w io.Writer, r *result.Report, o *Options) error {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return fmt.Errorf("html: %w", err)
	}
	if err := t.Execute(w, newView(r, o)); err != nil {
		return fmt.Errorf("html: %w", err)
	}
	return nil
}

// WriteFile writes the page into the file at path, with mode 0644. The file is
// synced and replaced as a whole.
func WriteFile(path string, r *result.Report, o *Options) error {
	if err := atomicfile.Write(path, 0o644, func(w io.Writer) error { return Write(w, r, o) }); err != nil {
		return fmt.Errorf("html: %w", err)
	}
	return nil
}

type view struct {
	Title, Summary string
	Facts          []fact
	Cases          []caseView
}

type fact struct{ Name, Value string }

type caseView struct {
	Class, Status, Duration, Machine, Name, Short, Message string
	Flaky, Open                                            bool
	Attempts                                               []attemptView
	Facts                                                  []fact
	Outputs                                                []outputView
}

type attemptView struct {
	Number                                int
	Class, Status, Machine, Host, Message string
	Phases                                []string
}

type outputView struct {
	Name, Text string
	Open       bool
}

func newView(r *result.Report, o *Options) view {
	if o == nil {
		o = &Options{}
	}
	v := view{Title: o.Title, Summary: r.Summary(), Facts: facts(o.Properties)}
	if v.Title == "" {
		v.Title = "Test report"
	}
	cases := r.Cases()
	// Worst first; among equals as they came, but what was flaky before the rest.
	slices.SortStableFunc(cases, func(a, b result.Case) int {
		if by := b.Status.Rank() - a.Status.Rank(); by != 0 {
			return by
		}
		return boolean(b.Flaky) - boolean(a.Flaky)
	})
	for i := range cases {
		v.Cases = append(v.Cases, newCaseView(&cases[i], o))
	}
	return v
}

func newCaseView(c *result.Case, o *Options) caseView {
	bad := c.Status.Bad() || c.Status == result.Errored
	v := caseView{
		Class: class(c.Status), Status: string(c.Status), Duration: result.FormatDuration(c.Duration), Machine: printable(c.Machine()),
		Name: result.Printable(c.FullName()), Short: result.Shorten(c.Message, 100), Flaky: c.Flaky, Open: bad,
	}
	if strings.TrimSpace(c.Message) != v.Short {
		v.Message = lines(c.Message)
	}
	if len(c.Attempts) > 1 || len(c.Attempts) == 1 && c.Attempts[0].Phases != (result.Phases{}) {
		for _, a := range c.Attempts {
			p := a.Phases
			row := attemptView{Number: a.Number, Class: class(a.Status), Status: string(a.Status), Machine: printable(a.Machine), Host: printable(a.Host), Message: result.Shorten(a.Message, 200)}
			for _, d := range []time.Duration{p.Queued, p.Placed, p.Boot, a.Took(), p.Read, p.Rollback} {
				row.Phases = append(row.Phases, result.FormatDuration(d))
			}
			v.Attempts = append(v.Attempts, row)
		}
	}
	v.Facts = facts(c.Properties)
	if c.ExitCode != 0 {
		v.Facts = append(v.Facts, fact{"exit code", strconv.Itoa(c.ExitCode)})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Metrics)) {
		v.Facts = append(v.Facts, fact{result.Printable(name), strconv.FormatFloat(c.Metrics[name], 'g', -1, 64)})
	}
	for _, a := range c.Artifacts {
		place := a.File
		if place == "" {
			place = "not kept"
		}
		v.Facts = append(v.Facts, fact{"artifact " + result.Printable(a.Path), fmt.Sprintf("%s (%d bytes)", result.Printable(place), a.Size)})
	}
	if !c.Output.Empty() && (c.Status != result.Passed || !o.NoOutput) {
		v.Outputs = append(v.Outputs, outputView{"output", lines(c.Output.String()), bad})
	}
	for _, a := range c.Attempts {
		if !a.Output.Empty() {
			v.Outputs = append(v.Outputs, outputView{fmt.Sprintf("output of attempt %d", a.Number), lines(a.Output.String()), false})
		}
	}
	return v
}

func facts(m map[string]string) []fact {
	var list []fact
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fact{result.Printable(name), result.Printable(m[name])})
	}
	return list
}

// lines makes text printable line by line; tabs and ends of lines stay.
func lines(text string) string {
	rows := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, row := range rows {
		cells := strings.Split(row, "\t")
		for j := range cells {
			cells[j] = result.Printable(cells[j])
		}
		rows[i] = strings.Join(cells, "\t")
	}
	return strings.Join(rows, "\n")
}

func printable(text string) string {
	if text == "" {
		return "-"
	}
	return result.Printable(text)
}

func class(s result.Status) string { return strings.ReplaceAll(string(s), " ", "-") }

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}
