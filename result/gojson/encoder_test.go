package gojson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/gojson"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

func sample() *result.Report {
	var r result.Report
	r.Add(
		result.Case{Suite: "install", Name: "deb on 12", Status: result.Passed, Start: noon, Duration: 1500 * time.Millisecond, Output: result.Output{Head: []byte("one\ntwo")}},
		result.Case{Name: "alone", Status: result.TimedOut, Message: "no end after 10s\nkilled\n", Duration: 10 * time.Second},
		result.Case{Suite: "install", Name: "rpm/\x1b", Status: result.Failed, Message: "exit 2", Start: noon.Add(time.Second), Duration: time.Second},
		result.Case{Suite: "install", Name: "blocked", Status: result.Blocked, Message: "rpm failed"},
		result.Case{Suite: "again", Name: "flaky", Attempts: []result.Attempt{{Status: result.Errored, Message: "lost", Machine: "vm-1"}, {Status: result.Failed, Message: "exit 1"}, {Status: result.Passed}}},
		result.Case{Suite: "again", Name: "plain", Status: result.Passed},
	)
	return &r
}

func TestTheLinesAreAsExpected(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, gojson.Write(&b, sample(), nil))
	path := filepath.Join("testdata", "sample.jsonl")
	if *update {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), b.String())
}

type event struct {
	Time                          time.Time
	Action, Package, Test, Output string
	Elapsed                       float64
}

// consume reads lines as a tool would: each test runs, then ends once, each
// package starts first and ends last.
func consume(t *testing.T, text []byte) (tests, packages map[string]string, outputs map[string]string) {
	t.Helper()
	tests, packages, outputs = map[string]string{}, map[string]string{}, map[string]string{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	for decoder.More() {
		var e event
		require.NoError(t, decoder.Decode(&e))
		key := e.Package + " " + e.Test
		switch e.Action {
		case "start":
			require.NotContains(t, packages, e.Package)
			packages[e.Package] = "open"
		case "run":
			require.Equal(t, "open", packages[e.Package])
			require.NotContains(t, tests, key)
			tests[key] = "open"
		case "output":
			require.True(t, strings.HasSuffix(e.Output, "\n"))
			require.Equal(t, 1, strings.Count(e.Output, "\n"))
			outputs[key] += e.Output
		case "pass", "fail", "skip":
			if e.Test == "" {
				require.Equal(t, "open", packages[e.Package])
				packages[e.Package] = e.Action
				continue
			}
			require.Equal(t, "open", tests[key])
			tests[key] = e.Action
		default:
			t.Fatalf("unknown action %q", e.Action)
		}
	}
	return tests, packages, outputs
}

func TestAConsumerSeesEachTestOnceWithItsVerdict(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, gojson.Write(&b, sample(), &gojson.Options{Package: "other"}))
	tests, packages, outputs := consume(t, b.Bytes())
	assert.Equal(t, map[string]string{
		"install deb_on_12": "pass", "other alone": "fail", `install rpm/\x1b`: "fail", "install blocked": "skip", "again flaky": "pass", "again plain": "pass",
	}, tests)
	assert.Equal(t, map[string]string{"install": "fail", "other": "fail", "again": "pass"}, packages)
	assert.Equal(t, "=== RUN   other\n", strings.ReplaceAll(outputs["other alone"][:16], "alone", "other"))
	assert.Contains(t, outputs["other alone"], "    timed out: no end after 10s\n    killed\n")
	assert.Contains(t, outputs["again flaky"], "    attempt 1 errored on vm-1: lost\n    attempt 2 failed: exit 1\n    attempt 3 passed\n    flaky\n")
	assert.Contains(t, outputs["install deb_on_12"], "one\ntwo\n--- PASS: deb_on_12 (1.50s)\n")
	assert.Equal(t, "FAIL\nFAIL\tinstall\t2.500s\n", outputs["install "])
}

// The text of the events, given to test2json itself, has the same verdicts.
func TestTest2JSONReadsTheSameFromTheText(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command: run with one in PATH")
	}
	var r result.Report
	for i, s := range result.Statuses() {
		r.Add(result.Case{Suite: "p", Name: fmt.Sprintf("Test%d", i), Status: s, Duration: time.Second, Message: "why"})
	}
	var b bytes.Buffer
	require.NoError(t, gojson.Write(&b, &r, nil))
	tests, packages, outputs := consume(t, b.Bytes())
	for i, want := range []string{"pass", "skip", "skip", "fail", "fail", "fail", "fail"} {
		assert.Equal(t, want, tests[fmt.Sprintf("p Test%d", i)], "%s", result.Statuses()[i])
	}
	var text strings.Builder
	for i := range result.Statuses() {
		text.WriteString(outputs[fmt.Sprintf("p Test%d", i)])
	}
	text.WriteString(strings.SplitAfter(outputs["p "], "\n")[0])
	command := exec.CommandContext(t.Context(), tool, "tool", "test2json", "-p", "p")
	command.Stdin = strings.NewReader(text.String())
	out, err := command.Output()
	require.NoError(t, err)
	theirs, theirPackages, _ := consume(t, out)
	assert.Equal(t, tests, theirs)
	assert.Equal(t, packages, theirPackages)
}

type limited int

func (l *limited) Write(p []byte) (int, error) {
	if *l -= limited(len(p)); *l < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestTheFirstErrorOfTheWriterStays(t *testing.T) {
	l := limited(100)
	e := gojson.NewEncoder(&l, nil)
	require.ErrorContains(t, e.Encode(result.Case{Name: "a", Status: result.Passed}), "gojson: disk full")
	l = 1 << 20
	require.ErrorContains(t, e.Encode(result.Case{Name: "b", Status: result.Passed}), "disk full")
	require.ErrorContains(t, e.Close(), "disk full")
	l = 10
	require.ErrorContains(t, gojson.Write(&l, sample(), nil), "disk full")
}

func TestEncodeAfterCloseIsRefusedAndCloseIsIdempotent(t *testing.T) {
	var b bytes.Buffer
	e := gojson.NewEncoder(&b, nil)
	require.NoError(t, e.Encode(result.Case{Name: "a", Status: result.Passed}))
	require.NoError(t, e.Close())
	n := b.Len()
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Encode(result.Case{Name: "b"}), gojson.ErrClosed)
	assert.Equal(t, n, b.Len())
}

func TestTheLinesOfOneCaseStayTogether(t *testing.T) {
	var b bytes.Buffer
	e := gojson.NewEncoder(&b, nil)
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			_ = e.Encode(result.Case{Name: fmt.Sprint(i), Status: result.Passed, Output: result.Output{Head: []byte("x\ny\nz\n")}})
		})
	}
	wait.Wait()
	require.NoError(t, e.Close())
	tests, _, _ := consume(t, b.Bytes())
	assert.Len(t, tests, 20)
	lines := strings.Split(b.String(), "\n")[1:]
	for i := 0; i+7 <= 20*7; i += 7 {
		assert.Contains(t, lines[i], `"run"`)
		assert.Contains(t, lines[i+6], `"pass"`)
	}
}

func ExampleWrite() {
	var report result.Report
	report.Add(result.Case{Suite: "install", Name: "deb", Status: result.Failed, Message: "exit 2", Duration: 1500 * time.Millisecond})
	if err := gojson.Write(os.Stdout, &report, nil); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"Action":"start","Package":"install"}
	// {"Action":"run","Package":"install","Test":"deb"}
	// {"Action":"output","Package":"install","Test":"deb","Output":"=== RUN   deb\n"}
	// {"Action":"output","Package":"install","Test":"deb","Output":"    failed: exit 2\n"}
	// {"Action":"output","Package":"install","Test":"deb","Output":"--- FAIL: deb (1.50s)\n"}
	// {"Action":"fail","Package":"install","Test":"deb","Elapsed":1.5}
	// {"Action":"output","Package":"install","Output":"FAIL\n"}
	// {"Action":"output","Package":"install","Output":"FAIL\tinstall\t1.500s\n"}
	// {"Action":"fail","Package":"install","Elapsed":1.5}
}
