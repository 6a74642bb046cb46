package html_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/html"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

func sample() *result.Report {
	var r result.Report
	r.Add(
		result.Case{Suite: "install", Name: "deb", Status: result.Passed, Start: noon, Duration: 1500 * time.Millisecond, Output: result.Output{Head: []byte("ok\tfine\r\n")}, Properties: map[string]string{"machine": "vm-1", "template": "debian"}},
		result.Case{Suite: "install", Name: "rpm <script>alert(1)</script>", Status: result.Failed, ExitCode: 2, Message: "exit 2\nsecond \x1b[31mline", Output: result.Output{Head: []byte("</pre><script>\xff"), Tail: []byte("end"), Cut: 7}, Metrics: map[string]float64{"ops": 1.5}, Artifacts: []result.Artifact{{Path: "log", File: "/t/log", Size: 3}, {Path: "core", Size: 9}}},
		result.Case{Name: "late", Status: result.TimedOut, Message: "no end after 10s", Duration: 10 * time.Second},
		result.Case{Suite: "again", Name: "flaky", Attempts: []result.Attempt{
			{Status: result.Errored, Message: "lost", Machine: "vm-1", Output: result.Output{Head: []byte("boot")}},
			{Status: result.Failed, Message: "exit 1", Host: "h2", Phases: result.Phases{Queued: time.Second, Run: time.Minute}}, {Status: result.Passed},
		}},
	)
	return &r
}

func render(t *testing.T, o *html.Options) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, html.Write(&b, sample(), o))
	return b.String()
}

func TestThePageIsAsExpected(t *testing.T) {
	got := render(t, &html.Options{Title: "nightly & more", Properties: map[string]string{"run": "4711"}})
	path := filepath.Join("testdata", "sample.html")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestThePageNeedsNothingElseAndTakesNoMarkupFromGuests(t *testing.T) {
	got := render(t, nil)
	assert.NotContains(t, got, "<script")
	assert.NotContains(t, got, "\x1b")
	assert.NotRegexp(t, regexp.MustCompile(`(src|href)=|https?://|url\(`), got)
	assert.Contains(t, got, "<title>Test report</title>")
	assert.Contains(t, got, "rpm &lt;script&gt;alert(1)&lt;/script&gt;")
}

func TestWhatDidNotPassComesFirst(t *testing.T) {
	got := render(t, nil)
	var places []int
	for _, name := range []string{"install/rpm", "late", "again/flaky", "install/deb"} {
		places = append(places, strings.Index(got, ">"+name))
	}
	assert.IsIncreasing(t, places)
	assert.Greater(t, places[0], 0)
}

func TestOutputOfPassedCasesCanBeLeftOut(t *testing.T) {
	assert.Contains(t, render(t, nil), "ok\tfine\n")
	assert.NotContains(t, render(t, &html.Options{NoOutput: true}), "ok\tfine")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteFileReplacesTheFileAndErrorsAreReported(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, html.WriteFile(path, sample(), nil))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, render(t, nil), string(got))
	require.ErrorContains(t, html.Write(broken{}, sample(), nil), "html: disk full")
	require.ErrorContains(t, html.WriteFile(filepath.Join(path, "below"), sample(), nil), "html: write ")
}

func ExampleWriteFile() {
	var report result.Report
	report.Add(result.Case{Suite: "install", Name: "deb", Status: result.Passed})
	if err := html.WriteFile(filepath.Join(os.TempDir(), "bullpen-example.html"), &report, &html.Options{Title: "nightly"}); err != nil {
		panic(err)
	}
}
