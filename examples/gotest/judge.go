package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/result"
)

// wholePackage is the name of the case for what no test answers for: a binary
// that cannot be built, one that fails outside of its tests.
const wholePackage = "(package)"

// neverRun is the message of a test that the binary passed over.
const neverRun = "the binary did not run it"

// verdict is how one test or subtest went.
type verdict struct {
	name    string
	status  result.Status
	message string
	took    time.Duration
	output  result.Output
}

// ending is how the process of a test binary ended.
type ending struct {
	exit     int    // -1: no exit code
	signal   string // that ended it
	timedOut bool   // it was ended from outside, for its own timeout did not
}

func (e ending) String() string {
	switch {
	case e.timedOut:
		return "it did not end by its own timeout and was killed"
	case e.signal != "":
		return "it was ended by " + e.signal
	}
	return fmt.Sprintf("exit status %d", e.exit)
}

// judge says how each test went that the binary was asked to run, by what it
// wrote and how it ended. again are those that have no verdict because another
// test ended the binary: they are to be run again without it. They are fewer
// than were asked for, so that this comes to an end.
func judge(t *transcript, asked []string, e ending) (verdicts []verdict, again []string) {
	// A TestMain may run nothing and say so by its exit code alone.
	clean := (t.ended != "" || e.exit == 0 && !t.inTest()) && !e.timedOut && e.signal == ""
	blamed := map[string]bool{}
	if !clean {
		blamed = t.blame(e)
	}
	status, message := result.Failed, "the binary ended while this ran: "+t.why(e)
	if t.timedOut || e.timedOut {
		status, message = result.TimedOut, t.why(e)
	}
	bad := false
	topDone := map[string]bool{}
	for _, r := range t.tests {
		if blamed[top(r.name)] || r.status != "" {
			topDone[r.name] = true
		}
	}
	for _, r := range t.tests {
		if !topDone[top(r.name)] {
			continue // its whole test is run again
		}
		v := verdict{name: r.name, status: r.status, took: r.took}
		switch {
		case blamed[r.name]:
			t.dump(r, blamed)
			if v.message = message; v.status == "" {
				v.status = status
			}
		case v.status == "":
			v.status, v.message = result.Blocked, "it had not ended when its test did"
		}
		if (v.status == result.Failed || v.status == result.Skipped) && v.message == "" {
			if v.message = firstWords(r.output.Output()); v.message == "" {
				v.message = "it wrote nothing"
			}
		}
		v.output = r.output.Output()
		bad = bad || v.status.Bad()
		verdicts = append(verdicts, v)
	}
	missing := unsaid(asked, topDone)
	switch {
	case clean && (e.exit == 0 || bad):
		for _, name := range missing {
			verdicts = append(verdicts, verdict{name: name, status: result.Skipped, message: neverRun})
		}
		return verdicts, nil
	case !clean && len(blamed) > 0 && len(missing) < len(asked):
		return verdicts, missing
	}
	// Nobody is to blame but the binary.
	if !t.timedOut && !e.timedOut {
		status, message = result.Failed, "the binary failed outside of its tests: "+t.why(e)
	}
	_, _ = t.rest.Write(t.crash)
	whole := verdict{name: wholePackage, status: status, message: message, output: t.rest.Output()}
	if len(missing) < len(asked) {
		return append(verdicts, whole), missing
	}
	for _, name := range missing {
		verdicts = append(verdicts, verdict{name: name, status: result.Blocked, message: "not run: " + message})
	}
	return append(verdicts, whole), nil
}

// blame names those that ended the binary, with the tests that they are in: what
// was running when its time was up, else who spoke last, as go test does.
func (t *transcript) blame(e ending) map[string]bool {
	blamed := map[string]bool{}
	names := t.running
	if len(names) == 0 && !t.timedOut {
		var culprit *ran
		if c := t.current; c != nil && !c.paused && (c.status == "" || c.status == result.Failed && t.crash != nil) {
			culprit = c // a test that panics is reported as failed first
		}
		for _, r := range t.tests {
			if r.status != "" || r.paused {
				continue
			}
			if e.timedOut {
				names = append(names, r.name)
			} else if culprit == nil || culprit != t.current && r.order > culprit.order {
				culprit = r
			}
		}
		if culprit != nil && !e.timedOut {
			names = []string{culprit.name}
		}
	}
	for _, name := range names {
		for {
			blamed[name] = true
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
		}
	}
	return blamed
}

// dump gives what the binary wrote at its end to one of those that are blamed,
// the innermost.
func (t *transcript) dump(r *ran, blamed map[string]bool) {
	for name := range blamed {
		if strings.HasPrefix(name, r.name+"/") {
			return
		}
	}
	_, _ = r.output.Write(t.crash) // never fails
}

// inTest reports whether a test had begun and not ended.
func (t *transcript) inTest() bool {
	for _, r := range t.tests {
		if r.status == "" {
			return true
		}
	}
	return false
}

// why says in one line how the binary ended.
func (t *transcript) why(e ending) string {
	if line, _, _ := strings.Cut(string(t.crash), "\n"); line != "" {
		return result.Shorten(line, 200)
	}
	return e.String()
}

// unsaid are those tests that have no verdict.
func unsaid(asked []string, done map[string]bool) (names []string) {
	for _, name := range asked {
		if !done[name] {
			names = append(names, name)
		}
	}
	return names
}

// firstWords is the first line that a test wrote, for its message.
func firstWords(o result.Output) string {
	for line := range strings.Lines(string(o.Head)) {
		if line = strings.TrimSpace(line); line != "" {
			return result.Shorten(line, 200)
		}
	}
	return ""
}
