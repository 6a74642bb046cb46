package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/result"
)

// lines is what is printed; its first error stays, and is the command's in the
// end.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(l.w, format, args...); err != nil && l.err == nil {
		l.err = fmt.Errorf("print: %w", err)
	}
}

// progress prints what go test prints: packages as they end, in front of each
// what its failed tests wrote.
type progress struct {
	w       *lines
	verbose bool
	open    map[*pack]*openPack
}

// openPack is a package of which shards are still to end.
type openPack struct {
	shards, ran int
	took        time.Duration
	machines    map[string]bool
	counts      map[result.Status]int
}

func newProgress(w *lines, verbose bool) *progress {
	return &progress{w: w, verbose: verbose, open: map[*pack]*openPack{}}
}

// expect says that further shards of a package are to come.
func (p *progress) expect(of *pack, shards int) {
	if p.open[of] == nil {
		p.open[of] = &openPack{machines: map[string]bool{}, counts: map[result.Status]int{}}
	}
	p.open[of].shards += shards
}

// ended prints what a shard came to and, when it was the last one, the package's
// line.
func (p *progress) ended(of *pack, cases []result.Case, took time.Duration) {
	o := p.open[of]
	o.shards--
	o.ran++
	o.took += took
	for i := range cases {
		c := &cases[i]
		o.counts[c.Status]++
		if m := c.Machine(); m != "" {
			o.machines[m] = true
		}
		if p.verbose || c.Status.Bad() || c.Status == result.Errored {
			p.test(c)
		}
	}
	if o.shards > 0 {
		return
	}
	delete(p.open, of)
	word := "ok  "
	switch {
	case o.counts[result.Failed]+o.counts[result.TimedOut] > 0:
		word = "FAIL"
	case o.counts[result.Errored]+o.counts[result.Aborted] > 0:
		word = "ERR "
	}
	shards := ""
	if o.ran > 1 {
		shards = fmt.Sprintf("\t(%d shards on %d machines)", o.ran, len(o.machines))
	}
	p.w.printf("%s\t%s\t%.3fs%s\n", word, of.name, o.took.Seconds(), shards)
}

// test prints one test: its line, and what it wrote.
func (p *progress) test(c *result.Case) {
	word := map[result.Status]string{
		result.Passed: "PASS", result.Skipped: "SKIP", result.Failed: "FAIL", result.TimedOut: "TIMEOUT",
		result.Errored: "ERROR", result.Aborted: "ABORTED", result.Blocked: "BLOCKED",
	}[c.Status]
	p.w.printf("--- %s: %s (%.2fs)\n", word, c.Name, c.Duration.Seconds())
	out := c.Output.String()
	if c.Message != "" && !strings.Contains(out, c.Message) {
		p.w.printf("    %s\n", result.Shorten(c.Message, 300))
	}
	if out != "" {
		p.w.printf("%s\n", strings.TrimSuffix(out, "\n"))
	}
}

// none is a package without tests.
func (p *progress) none(of *pack) {
	what := "[no test files]"
	if of.binary != "" {
		what = "[no tests to run]"
	}
	p.w.printf("?   \t%s\t%s\n", of.name, what)
}

// broken is a package that cannot be built or listed.
func (p *progress) broken(of *pack) {
	p.w.printf("# %s\n%s\nFAIL\t%s [%s failed]\n", of.name, strings.TrimSuffix(of.output, "\n"), of.name, of.broken)
}

// summary is the last lines: what is bad once more, the counts.
func summary(w *lines, r *result.Report, machines int, took time.Duration) {
	for c := range r.All() {
		if c.Status.Bad() || c.Status == result.Errored || c.Flaky {
			flaky := ""
			if c.Flaky {
				flaky = " (flaky)"
			}
			w.printf("%s%s: %s %s: %s\n", c.Status, flaky, c.Suite, c.Name, result.Shorten(c.Message, 120))
		}
	}
	var counts []string
	for _, s := range result.Statuses() {
		if n := r.Counts()[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	w.printf("%d tests: %s in %v on %d machines\n", r.Len(), strings.Join(counts, ", "), took.Round(time.Millisecond), machines)
}
