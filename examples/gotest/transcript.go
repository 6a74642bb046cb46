package main

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/result"
)

// transcript is what a test binary wrote with -test.v=test2json, read by the
// rules of cmd/internal/test2json: a line that speaks of tests begins with ^V, so
// that no line that a test printed is taken for one, and a ^V begins a new line
// wherever it stands.
type transcript struct {
	tests  []*ran // tests and subtests, in the order in which they began
	byName map[string]*ran
	// current is the test that spoke last; nil: none in particular.
	current *ran
	turns   int
	// ended is the binary's own last word, "PASS" or "FAIL"; empty: it did not
	// come to it.
	ended string
	// crash is what stands behind the last framed line from "panic:" or
	// "fatal error:" on.
	crash []byte
	// running are those that the binary says were running when its timeout
	// ended it; timedOut: it says that it did.
	running  []string
	timedOut bool
	// rest is what no test wrote.
	rest result.OutputWriter
}

// ran is one test or subtest that was begun.
type ran struct {
	name   string
	status result.Status // empty: it has not ended
	paused bool
	took   time.Duration
	order  int // when it last went on
	output result.OutputWriter
}

// top is the name of the test that a subtest belongs to.
func top(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

const mark = 0x16 // ^V

// readTranscript reads all of it. Every text is a transcript: what is not
// understood is output.
func readTranscript(text []byte) *transcript {
	t := &transcript{byName: map[string]*ran{}}
	for len(text) > 0 {
		end := len(text)
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			end = i + 1
		}
		if i := bytes.IndexByte(text[1:end], mark); i >= 0 {
			end = i + 1
		}
		line := text[:end]
		text = text[end:]
		if line[0] != mark || !t.framed(strings.TrimRight(string(line[1:]), "\r\n")) {
			t.plain(line)
		}
	}
	t.readCrash()
	return t
}

// framed takes a line that begins with ^V; false: it means nothing.
func (t *transcript) framed(line string) bool {
	line = strings.TrimLeft(line, " ") // reports of subtests may be indented
	if line == "PASS" || line == "FAIL" || strings.HasPrefix(line, "FAIL: ") {
		t.settle()
		t.ended, t.current = line[:4], nil
		if len(line) > 4 {
			t.plain([]byte(line + "\n"))
		}
		return true
	}
	kind, rest, ok := strings.Cut(line, " ")
	if !ok || kind != "===" && kind != "---" {
		return false
	}
	action, name, _ := strings.Cut(rest, " ")
	if kind == "---" {
		word, ok := strings.CutSuffix(action, ":")
		return ok && t.report(word, name)
	}
	name = strings.TrimSpace(name)
	switch action {
	case "RUN":
		if name == "" || t.byName[name] != nil {
			return false
		}
		t.settle()
		r := &ran{name: name}
		t.tests, t.byName[name] = append(t.tests, r), r
		t.goOn(r)
	case "PAUSE", "CONT", "NAME":
		r := t.byName[name]
		if r == nil && name != "" {
			return false
		}
		t.settle()
		if t.goOn(r); r != nil {
			r.paused = action == "PAUSE"
		}
	case "ATTR", "ARTIFACTS":
		t.settle()
		t.plain([]byte(line + "\n"))
	default:
		return false
	}
	return true
}

func (t *transcript) goOn(r *ran) {
	if t.current = r; r != nil {
		t.turns++
		r.order = t.turns
	}
}

// report takes "--- PASS: TestA (0.01s)".
func (t *transcript) report(word, name string) bool {
	var status result.Status
	switch word {
	case "PASS":
		status = result.Passed
	case "FAIL":
		status = result.Failed
	case "SKIP":
		status = result.Skipped
	default:
		return false
	}
	name, seconds, _ := strings.Cut(name, " (")
	r := t.byName[name]
	if r == nil {
		return false
	}
	t.settle()
	if s, err := strconv.ParseFloat(strings.TrimSuffix(seconds, "s)"), 64); err == nil && s > 0 && s < 1e9 {
		r.took = time.Duration(s * float64(time.Second))
	}
	if r.status == "" || status.Worse(r.status) {
		r.status = status
	}
	t.goOn(r)
	return true
}

// plain takes a line of output.
func (t *transcript) plain(line []byte) {
	if t.crash != nil || bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) ||
		bytes.HasPrefix(line, []byte("SIG")) && bytes.Contains(line, []byte(": ")) {
		t.crash = append(t.crash, line...)
		return
	}
	t.say(line)
}

// say gives output to the test that speaks.
func (t *transcript) say(line []byte) {
	to := &t.rest
	if t.current != nil {
		to = &t.current.output
	}
	_, _ = to.Write(line) // never fails
}

// settle: what looked like a crash was not the end, so a test has printed it.
func (t *transcript) settle() {
	if t.crash != nil {
		t.say(t.crash)
		t.crash = nil
	}
}

// readCrash looks for the binary's own timeout: the line that says so and the
// list of what was running.
func (t *transcript) readCrash() {
	lines := strings.Split(string(t.crash), "\n")
	if !strings.HasPrefix(lines[0], "panic: test timed out after ") {
		return
	}
	t.timedOut = true
	for _, line := range lines[1:] {
		name, listed := strings.CutPrefix(line, "\t\t")
		if !listed && line != "\trunning tests:" {
			break
		}
		name, _, _ = strings.Cut(name, " (")
		if t.byName[name] != nil {
			t.running = append(t.running, name)
		}
	}
}
