// Command testsum reads `go test -json` on its standard input and prints one
// line a package, the output of each test that failed, why tests were skipped,
// and in the end a line of counts. It exits 1 when anything failed or nothing
// ran. CI uses it to tell how many tests ran and what they covered.
//
//	go test -json -cover ./... | go run ./internal/testsum [-floor 80]
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	floor := flag.Float64("floor", 0, "fail when a package's coverage is below this many percent")
	except := flag.String("except", "", "regular expression of packages that the floor does not hold for")
	flag.Parse()
	os.Exit(run(os.Stdin, os.Stdout, *floor, *except))
}

// event is a line of test2json; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, FailedBuild, ImportPath string
	Elapsed                                                float64
}

type summary struct {
	passed, failed, skipped int
	skips                   map[string]int
	outputs                 map[string][]string // by package and test, until it passed
	coverage                map[string]string
}

var (
	coverLine = regexp.MustCompile(`coverage: ([0-9.]+)% of statements`)
	skipLine  = regexp.MustCompile(`^\s+\S+_test\.go:\d+: (.*)|^\s+\S+\.go:\d+: (.*)`)
)

func run(r io.Reader, w io.Writer, floor float64, except string) int {
	var spared *regexp.Regexp
	if except != "" {
		var err error
		if spared, err = regexp.Compile(except); err != nil {
			fmt.Fprintf(w, "testsum: -except is %q: %v\n", except, err)
			return 2
		}
	}
	s := summary{skips: map[string]int{}, outputs: map[string][]string{}, coverage: map[string]string{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(w, lines.Text()) // what go itself says, such as a download
			continue
		}
		s.take(w, e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintf(w, "testsum: reading: %v\n", err)
		return 2
	}
	bad := s.failed > 0
	for _, p := range slices.Sorted(maps.Keys(s.coverage)) {
		c, err := strconv.ParseFloat(s.coverage[p], 64)
		if err != nil || floor == 0 || spared != nil && spared.MatchString(p) || c >= floor {
			continue
		}
		fmt.Fprintf(w, "coverage of %s is %s%%, want %g%% or more\n", p, s.coverage[p], floor)
		bad = true
	}
	for _, why := range slices.Sorted(maps.Keys(s.skips)) {
		fmt.Fprintf(w, "skipped %d: %s\n", s.skips[why], why)
	}
	if s.passed+s.failed == 0 {
		fmt.Fprintln(w, "testsum: no test ran")
		bad = true
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	if bad {
		return 1
	}
	return 0
}

func (s *summary) take(w io.Writer, e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		s.outputs[key] = append(s.outputs[key], e.Output)
		if m := coverLine.FindStringSubmatch(e.Output); m != nil && e.Test == "" {
			s.coverage[e.Package] = m[1]
		}
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "pass", "fail", "skip":
		s.end(w, e, key)
	}
}

func (s *summary) end(w io.Writer, e event, key string) {
	out := s.outputs[key]
	delete(s.outputs, key)
	if e.Action == "fail" {
		fmt.Fprintf(w, "--- FAIL %s\n%s", key, strings.Join(out, ""))
	}
	if e.Test == "" {
		if e.Action == "fail" {
			s.failed++ // also a package that did not build, or a TestMain that failed
		}
		if e.Action != "skip" {
			fmt.Fprintf(w, "%-4s %6.1fs %5s%% %s\n", e.Action, e.Elapsed, s.coverage[e.Package], e.Package)
		}
		return
	}
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
	case "skip":
		s.skipped++
		why := "no reason given"
		for _, line := range out {
			if m := skipLine.FindStringSubmatch(line); m != nil {
				why = strings.TrimSpace(m[1] + m[2])
			}
		}
		s.skips[why]++
	}
}
