package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

const stream = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: broken\n"}
{"Action":"%s","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"coverage: 71.5%% of statements\n"}
{"Action":"%s","Package":"p","Elapsed":0.2}
`

func TestSummaryTellsWhatFailedAndWhatWasSkipped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, test, pkg string
		floor           float64
		code            int
		want            string
	}{
		{"a pass", "pass", "pass", 0, 0, "1 passed, 0 failed, 0 skipped"},
		{"a failure shows its output", "fail", "fail", 0, 1, "a_test.go:3: broken"},
		{"a skip says why", "skip", "pass", 0, 1, "skipped 1: broken"},
		{"coverage below the floor fails", "pass", "pass", 80, 1, "coverage of p is 71.5%, want 80% or more"},
		{"coverage above it passes", "pass", "pass", 70, 0, "1 passed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			in := strings.Replace(strings.Replace(stream, "%s", c.test, 1), "%s", c.pkg, 1)
			code := run(strings.NewReader(strings.ReplaceAll(in, "%%", "%")), &out, c.floor, "")
			assert.Equal(t, c.code, code, out.String())
			assert.Contains(t, out.String(), c.want)
		})
	}
}

func TestNoTestAtAllIsAFailure(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	assert.Equal(t, 1, run(strings.NewReader("go: downloading x\n"), &out, 0, ""))
	assert.Contains(t, out.String(), "no test ran")
}
