package result_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
)

func full() result.Case {
	return result.Case{
		Suite: "pkg", Name: "a\nb", Status: result.Passed, Message: "m\x00", Start: noon, Duration: time.Second + 1, ExitCode: 3, Flaky: true,
		Output:     result.Output{Head: []byte("text\x1b"), Tail: []byte("\xff\xfe"), Cut: 9},
		Artifacts:  []result.Artifact{{Path: "p", File: "/f", Size: 4, Digest: "sha256:00"}},
		Properties: map[string]string{"machine": "m1"},
		Metrics:    map[string]float64{"x": 1.5, "nan": math.Inf(1)},
		Attempts: []result.Attempt{
			{Number: 1, Status: result.Failed, Message: "bad", Machine: "m0", Host: "h", Start: noon, Duration: 3, Phases: result.Phases{Queued: 1, Placed: 2, Boot: 3, Run: 4, Read: 5, Rollback: 6}, Output: result.Output{Head: []byte("o")}},
			{Number: 2, Status: result.Passed, Machine: "m1", Start: noon.Add(time.Hour), Duration: time.Second},
		},
	}
}

func TestJSONLinesKeepEverything(t *testing.T) {
	var r result.Report
	want := full()
	r.Add(want, result.Case{Name: "plain", Status: result.Skipped})
	var b bytes.Buffer
	require.NoError(t, r.WriteJSONLines(&b))
	assert.Equal(t, 2, strings.Count(b.String(), "\n"))
	got, err := result.ReadJSONLines(&b)
	require.NoError(t, err)
	require.Len(t, got, 2)
	assert.Equal(t, want, got[0])
	assert.Equal(t, r.Cases(), got)
}

func TestJSONLinesAreReadableByOthers(t *testing.T) {
	text, err := result.EncodeJSON(result.Case{Suite: "s", Name: "n", Status: result.TimedOut, Duration: time.Second, Output: result.Output{Head: []byte("hi\n")}})
	require.NoError(t, err)
	assert.JSONEq(t, `{"v":1,"suite":"s","name":"n","status":"timed out","duration_ns":1000000000,"output":{"head":"hi\n"}}`, string(text))
}

func TestReadJSONLinesStopsAtDamageAndGivesWhatWasBefore(t *testing.T) {
	good := `{"v":1,"name":"a","status":"passed"}`
	for _, row := range []struct{ text, problem string }{
		{good + "\n\n" + good[:20], "line 3: result: decode case: unexpected end"},
		{good + "\n" + `{"v":2,"name":"a","status":"passed"}`, "line 2: result: decode case: version is 2, want 1 to 1"},
		{good + "\n" + `{"name":"a","status":"passed"}`, "version is 0"},
		{good + "\n" + `{"v":1,"name":"a","status":"fine"}`, `status "fine" is not one of`},
		{good + "\n" + `{"v":1,"name":"a","status":"passed","metrics":{"x":"many"}}`, `is no number`},
		{good + "\n" + `{"v":1,"name":"a","status":"passed","output":{"cut":-1}}`, `cut is -1 bytes`},
	} {
		cases, err := result.ReadJSONLines(strings.NewReader(row.text))
		require.ErrorContains(t, err, row.problem)
		assert.Len(t, cases, 1)
	}
	cases, err := result.ReadJSONLines(strings.NewReader(""))
	require.NoError(t, err)
	assert.Empty(t, cases)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }
func (broken) Read([]byte) (int, error)  { return 0, errors.New("gone") }

func TestJSONLinesReportTheErrorsOfTheirStreams(t *testing.T) {
	var r result.Report
	r.Add(full())
	require.ErrorContains(t, r.WriteJSONLines(broken{}), "disk full")
	_, err := result.ReadJSONLines(broken{})
	require.ErrorContains(t, err, "gone")
	var odd result.Report
	odd.Add(result.Case{Name: "old", Status: result.Passed, Start: time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)})
	require.ErrorContains(t, odd.WriteJSONLines(&bytes.Buffer{}), `encode case "old"`)
}

func FuzzDecodeJSON(f *testing.F) {
	text, err := result.EncodeJSON(full())
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"v":1,"name":"a","status":"passed","metrics":{"x":"NaN","y":"+Inf","z":-1e9}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := result.DecodeJSON(text)
		if err != nil {
			return
		}
		var r result.Report
		r.Add(c)
		_ = r.String()
		again, err := result.EncodeJSON(c)
		require.NoError(t, err)
		_, err = result.DecodeJSON(again)
		require.NoError(t, err)
	})
}
