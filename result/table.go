package result

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// mostMessage is how many runes of a message the table shows.
const mostMessage = 72

// String is a table, one line a case (status, duration, machine, attempts,
// name, message), then a line of counts. What could harm a terminal or break a
// line is escaped, and messages are shortened to their first line.
func (r *Report) String() string {
	kept := r.snapshot()
	rows := [][]string{{"STATUS", "DURATION", "MACHINE", "ATTEMPTS", "NAME", "MESSAGE"}}
	for _, c := range kept {
		rows = append(rows, []string{
			string(c.Status), FormatDuration(c.Duration), orDash(Printable(c.Machine())), strconv.Itoa(len(c.Attempts)),
			orDash(Printable(c.FullName())), Shorten(remark(c), mostMessage),
		})
	}
	var b strings.Builder
	if len(kept) > 0 {
		writeColumns(&b, rows)
	}
	b.WriteString(r.Summary())
	b.WriteByte('\n')
	return b.String()
}

// Summary is one line without its end: how many cases there are, how many of
// each status, worst first, how many were flaky or took more than one attempt,
// and how long it all took.
func (r *Report) Summary() string {
	kept := r.snapshot()
	if len(kept) == 0 {
		return "0 cases: nothing was run"
	}
	var flaky, retried int
	counts := make(map[Status]int)
	for _, c := range kept {
		counts[c.Status]++
		if c.Flaky {
			flaky++
		}
		if len(c.Attempts) > 1 {
			retried++
		}
	}
	var parts []string
	order := Statuses()
	for i := len(order) - 1; i >= 0; i-- {
		if n := counts[order[i]]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, order[i]))
		}
	}
	noun := "cases"
	if len(kept) == 1 {
		noun = "case"
	}
	line := fmt.Sprintf("%d %s: %s", len(kept), noun, strings.Join(parts, ", "))
	if flaky > 0 {
		line += fmt.Sprintf("; %d flaky", flaky)
	}
	if retried > 0 {
		line += fmt.Sprintf("; %d took more than one attempt", retried)
	}
	if took := r.Elapsed(); took > 0 {
		line += "; " + FormatDuration(took)
	}
	return line
}

// remark is what the table says about a case: its message, and before it what a
// reader must not miss about its earlier attempts.
func remark(c *Case) string {
	var parts []string
	if c.Flaky {
		parts = append(parts, "flaky")
	}
	if c.Status == Passed || c.Flaky {
		for _, a := range c.Attempts {
			if a.Status != Passed && a.Status != c.Status {
				parts = append(parts, fmt.Sprintf("attempt %d %s: %s", a.Number, a.Status, firstLine(a.Message)))
				break
			}
		}
	}
	if c.Message != "" {
		parts = append(parts, firstLine(c.Message))
	}
	return strings.TrimSuffix(strings.Join(parts, "; "), ": ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimLeft(s, "\r\n"), "\n")
	return strings.TrimRight(line, "\r ")
}

// Printable gives text as one line that is safe to print: control characters,
// line ends, characters that change the direction of writing and invalid UTF-8
// are written as Go escapes, such as \x1b and \n.
func Printable(text string) string {
	if clean(text) {
		return text
	}
	var b strings.Builder
	for i, width := 0, 0; i < len(text); i += width { //nolint:wastedassign // the zero is the loop's first step
		var c rune
		c, width = utf8.DecodeRuneInString(text[i:])
		switch {
		case c == utf8.RuneError && width == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case strconv.IsPrint(c):
			b.WriteRune(c)
		default:
			quoted := strconv.QuoteRune(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

func clean(text string) bool {
	for _, c := range text {
		if c == utf8.RuneError || !strconv.IsPrint(c) {
			return false
		}
	}
	return true
}

// Shorten gives the first line of text, printable, in at most most runes; an
// ellipsis stands for what is left out.
func Shorten(text string, most int) string {
	line := Printable(firstLine(text))
	if utf8.RuneCountInString(line) <= most {
		return line
	}
	runes := []rune(line)
	return strings.TrimRight(string(runes[:max(most-1, 0)]), " ") + "…"
}

// FormatDuration writes d for a table: - for none, else with three or four
// digits of what matters: 850ms, 12.34s, 3m05s, 2h07m.
func FormatDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < 0:
		return "-" + FormatDuration(-d)
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	case d < time.Minute:
		return fmt.Sprintf("%d.%02ds", d/time.Second, d%time.Second/(10*time.Millisecond))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// writeColumns pads by runes; text/tabwriter would do so too, but it gives tabs
// and escapes in cells a meaning of its own.
func writeColumns(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var line strings.Builder
	for _, row := range rows {
		line.Reset()
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
}
