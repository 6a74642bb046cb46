package junit_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/junit"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "make it with: go test ./result/junit -update")
	assert.Equal(t, string(want), string(got))
}

// sample has each status, each kind of earlier attempt, and texts that XML does
// not like.
func sample() *result.Report {
	var r result.Report
	at := func(machine string, s result.Status, message, output string) result.Attempt {
		return result.Attempt{Status: s, Message: message, Machine: machine, Output: result.Output{Head: []byte(output)}}
	}
	r.Add(
		result.Case{Suite: "install", Name: "deb", Status: result.Passed, Start: noon, Duration: 1500 * time.Millisecond, Output: result.Output{Head: []byte("ok\r\n")}, Properties: map[string]string{"machine": "vm-1", "template": "debian"}},
		result.Case{Suite: "install", Name: "rpm <&\">", Status: result.Failed, Message: "exit 2\nsecond \x1b[31mline\x00\xff ]]> end", Start: noon.Add(-time.Second), Duration: 1499600 * time.Microsecond, Output: result.Output{Head: []byte("a\x07b"), Tail: []byte("c\uffffd"), Cut: 7}},
		result.Case{Name: "alone", Status: result.TimedOut, Message: "no end after 10s", Duration: 10 * time.Second, Metrics: map[string]float64{"ops": 12.5}, Artifacts: []result.Artifact{{Path: "log", File: "/t/log"}, {Path: "core"}}},
		result.Case{Suite: "install", Name: "error", Status: result.Errored, Message: "no machine"},
		result.Case{Suite: "install", Name: "aborted", Status: result.Aborted, Message: "interrupted"},
		result.Case{Suite: "install", Name: "blocked", Status: result.Blocked, Message: "rpm failed"},
		result.Case{Suite: "install", Name: "skipped", Status: result.Skipped},
		result.Case{Suite: "again", Name: "flaky", Attempts: []result.Attempt{at("vm-1", result.Errored, "lost", "boot"), at("vm-2", result.Failed, "exit 1", "bad"), at("vm-3", result.Passed, "", "")}},
		result.Case{Suite: "again", Name: "hopeless", Attempts: []result.Attempt{at("vm-1", result.Failed, "exit 1", "one"), at("vm-2", result.Errored, "lost", ""), at("vm-3", result.Failed, "exit 3", "")}},
	)
	return &r
}

func TestTheWholeDocumentIsAsExpected(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, junit.Write(&b, sample(), &junit.Options{Name: "nightly", HostName: "ci-3", Properties: map[string]string{"run": "4711"}}))
	golden(t, "sample.xml", b.Bytes())
}

func TestAnEmptyReportIsAValidDocument(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, junit.Write(&b, &result.Report{}, nil))
	golden(t, "empty.xml", b.Bytes())
}

// parsed is the reader's side, written apart from the writer's.
type parsed struct {
	Tests    int     `xml:"tests,attr"`
	Failures int     `xml:"failures,attr"`
	Errors   int     `xml:"errors,attr"`
	Skipped  int     `xml:"skipped,attr"`
	Time     string  `xml:"time,attr"`
	Suites   []suite `xml:"testsuite"`
}

type suite struct {
	Name     string `xml:"name,attr"`
	Tests    int    `xml:"tests,attr"`
	Failures int    `xml:"failures,attr"`
	Errors   int    `xml:"errors,attr"`
	Skipped  int    `xml:"skipped,attr"`
	Time     string `xml:"time,attr"`
	Cases    []struct {
		Name          string     `xml:"name,attr"`
		Time          string     `xml:"time,attr"`
		Failure       *string    `xml:"failure"`
		Error         *string    `xml:"error"`
		Skipped       *string    `xml:"skipped"`
		Out           string     `xml:"system-out"`
		FlakyFailures []struct{} `xml:"flakyFailure"`
		RerunFailures []struct{} `xml:"rerunFailure"`
	} `xml:"testcase"`
}

func parse(t require.TestingT, text []byte) parsed {
	var p parsed
	decoder := xml.NewDecoder(bytes.NewReader(text))
	require.NoError(t, decoder.Decode(&p), "%s", text)
	_, err := decoder.Token()
	for err == nil {
		_, err = decoder.Token()
	}
	require.ErrorIs(t, err, io.EOF)
	return p
}

func TestWhateverTheTextsHoldTheDocumentParsesAndItsTotalsAddUp(t *testing.T) {
	texts := rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "bytes")) + rapid.SampledFrom([]string{"", "]]>", "\ufffe", "\U0001F600", "<!--", "&amp;"}).Draw(t, "odd")
	})
	surefireTime := regexp.MustCompile(`^[0-9]+\.[0-9]{3}$`)
	rapid.Check(t, func(t *rapid.T) {
		var r result.Report
		for range rapid.IntRange(0, 6).Draw(t, "cases") {
			r.Add(result.Case{
				Suite: texts.Draw(t, "suite"), Name: texts.Draw(t, "name"), Message: texts.Draw(t, "message"),
				Status: rapid.SampledFrom(result.Statuses()).Draw(t, "status"), Duration: time.Duration(rapid.Int64Range(-1e9, 1e12).Draw(t, "duration")),
				Output: result.Output{Head: []byte(texts.Draw(t, "output"))}, Properties: map[string]string{texts.Draw(t, "key"): texts.Draw(t, "value")},
			})
		}
		var b bytes.Buffer
		require.NoError(t, junit.Write(&b, &r, &junit.Options{Name: texts.Draw(t, "all"), HostName: texts.Draw(t, "host")}))
		p := parse(t, b.Bytes())
		counts := r.Counts()
		require.Equal(t, r.Len(), p.Tests)
		require.Equal(t, counts[result.Failed]+counts[result.TimedOut], p.Failures)
		require.Equal(t, counts[result.Errored]+counts[result.Aborted], p.Errors)
		require.Equal(t, counts[result.Skipped]+counts[result.Blocked], p.Skipped)
		var sum parsed
		var all int64
		for _, s := range p.Suites {
			var failures, errors, skips int
			var took int64
			for _, c := range s.Cases {
				failures, errors, skips = failures+there(c.Failure), errors+there(c.Error), skips+there(c.Skipped)
				require.Regexp(t, surefireTime, c.Time)
				took += ms(t, c.Time)
			}
			require.Equal(t, []int{len(s.Cases), failures, errors, skips}, []int{s.Tests, s.Failures, s.Errors, s.Skipped})
			require.Equal(t, took, ms(t, s.Time))
			all += took
			sum.Tests += s.Tests
		}
		require.Equal(t, p.Tests, sum.Tests)
		require.Equal(t, all, ms(t, p.Time))
	})
}

func there(s *string) int {
	if s == nil {
		return 0
	}
	return 1
}

func ms(t require.TestingT, text string) int64 {
	n, err := strconv.ParseInt(strings.Replace(text, ".", "", 1), 10, 64)
	require.NoError(t, err)
	return n
}

func TestTextsComeBackAsTheyWereButForWhatXMLCannotCarry(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext\r\nwith <&>\"' ]]> in it": "plain\ttext\r\nwith <&>\"' ]]> in it",
		"\x1b[0m\x00\xff\ufffd\ufffe":          `\x1b[0m\x00\xff` + "\ufffd" + `\ufffe`,
	} {
		var r result.Report
		r.Add(result.Case{Name: "a", Status: result.Failed, Message: text, Output: result.Output{Head: []byte(text)}})
		var b bytes.Buffer
		require.NoError(t, junit.Write(&b, &r, nil))
		c := parse(t, b.Bytes()).Suites[0].Cases[0]
		assert.Equal(t, want, c.Out)
		assert.Equal(t, want, *c.Failure)
		assert.NotContains(t, b.String(), "CDATA")
	}
}

func TestAFlakyCaseIsAPassWithItsFailuresBesideIt(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, junit.Write(&b, sample(), nil))
	p := parse(t, b.Bytes())
	require.Len(t, p.Suites, 3)
	again := p.Suites[2]
	require.Equal(t, "again", again.Name)
	assert.Nil(t, again.Cases[0].Failure)
	assert.Len(t, again.Cases[0].FlakyFailures, 1)
	assert.NotNil(t, again.Cases[1].Failure)
	assert.Len(t, again.Cases[1].RerunFailures, 1)
	assert.Equal(t, 1, again.Failures)
}

func TestOutputOfPassedCasesCanBeLeftOut(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, junit.Write(&b, sample(), &junit.Options{NoOutput: true}))
	p := parse(t, b.Bytes())
	assert.Empty(t, p.Suites[0].Cases[0].Out)
	assert.NotEmpty(t, p.Suites[0].Cases[1].Out)
}

// limited fails after n bytes.
type limited int

func (l *limited) Write(p []byte) (int, error) {
	if *l -= limited(len(p)); *l < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestWriteReportsTheErrorsOfItsWriter(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, junit.Write(&b, sample(), nil))
	for _, n := range []int{0, 38, b.Len() / 2, b.Len() - 1} {
		l := limited(n)
		require.ErrorContains(t, junit.Write(&l, sample(), nil), "junit: disk full")
	}
}

func TestWriteFileReplacesTheFileAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "junit.xml")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	require.NoError(t, junit.WriteFile(path, sample(), nil))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, 9, parse(t, text).Tests)
	require.ErrorContains(t, junit.WriteFile(filepath.Join(path, "below"), sample(), nil), "junit: write ")
}

func ExampleWrite() {
	var report result.Report
	report.Add(result.Case{Suite: "install", Name: "deb", Status: result.Failed, Message: "exit 2", Duration: 1500 * time.Millisecond})
	if err := junit.Write(os.Stdout, &report, nil); err != nil {
		fmt.Println(err)
	}
	// Output:
	// <?xml version="1.0" encoding="UTF-8"?>
	// <testsuites tests="1" failures="1" errors="0" skipped="0" time="1.500">
	//   <testsuite name="install" tests="1" failures="1" errors="0" skipped="0" time="1.500">
	//     <testcase name="deb" classname="install" time="1.500">
	//       <failure message="exit 2" type="failed">exit 2</failure>
	//     </testcase>
	//   </testsuite>
	// </testsuites>
}
