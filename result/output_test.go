package result_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/result"
)

func TestOutputWriterKeepsBothEndsAndSaysWhatItCut(t *testing.T) {
	w := result.OutputWriter{Head: 4, Tail: 3}
	fmt.Fprint(&w, "0123")
	fmt.Fprint(&w, "456")
	o := w.Output()
	assert.Equal(t, "0123456", o.String())
	fmt.Fprint(&w, "7")
	fmt.Fprint(&w, "89")
	o = w.Output()
	assert.Equal(t, result.Output{Head: []byte("0123"), Tail: []byte("789"), Cut: 3}, o)
	assert.Equal(t, "0123\n[... 3 bytes cut ...]\n789", o.String())
	assert.EqualValues(t, 10, o.Size())
}

func TestTheZeroOutputWriterIsReadyAndBounded(t *testing.T) {
	var w result.OutputWriter
	for range 100 {
		n, err := w.Write([]byte(strings.Repeat("x", 10000)))
		require.NoError(t, err)
		require.Equal(t, 10000, n)
	}
	o := w.Output()
	assert.Len(t, o.Head, result.DefaultHead)
	assert.Len(t, o.Tail, result.DefaultTail)
	assert.EqualValues(t, 1000000, o.Size())
}

func TestARuneThatTheCutWentThroughCountsAsCut(t *testing.T) {
	o := result.Output{Head: []byte("ab\xc3"), Tail: []byte("\xbcc"), Cut: 5}
	assert.Equal(t, "ab\n[... 7 bytes cut ...]\nc", o.String())
	odd := result.Output{Head: []byte("ab\xff"), Tail: []byte("\xff\xffc"), Cut: 5}
	assert.Equal(t, "ab\xff\n[... 5 bytes cut ...]\n\xff\xffc", odd.String())
}

func TestModelOfOutputWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head, tail := rapid.IntRange(-1, 9).Draw(t, "head"), rapid.IntRange(-1, 9).Draw(t, "tail")
		w := result.OutputWriter{Head: head, Tail: tail}
		var all []byte
		for _, p := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 12)).Draw(t, "writes") {
			n, err := w.Write(p)
			require.NoError(t, err)
			require.Equal(t, len(p), n)
			all = append(all, p...)
			o := w.Output()
			require.EqualValues(t, len(all), o.Size())
			require.True(t, strings.HasPrefix(string(all), string(o.Head)))
			require.True(t, strings.HasSuffix(string(all), string(o.Tail)))
			bound := func(n, zero int) int {
				if n == 0 {
					return zero
				}
				return max(n, 0)
			}
			require.Len(t, o.Head, min(len(all), bound(head, result.DefaultHead)))
			require.Len(t, o.Tail, min(len(all)-len(o.Head), bound(tail, result.DefaultTail)))
			require.Equal(t, o.Size() == 0, o.Empty())
		}
	})
}

func TestOutputWriterKeepsEachWriteTogether(t *testing.T) {
	w := result.OutputWriter{Head: 10, Tail: 1 << 16}
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for range 200 {
				fmt.Fprintf(&w, "line of %d\n", g)
			}
		})
	}
	wait.Wait()
	lines := strings.Split(strings.TrimSpace(w.Output().String()), "\n")
	require.Len(t, lines, 800)
	for _, line := range lines {
		require.Regexp(t, `^line of [0-3]$`, line)
	}
}

func TestMeasureReadsNumbersOutOfTheOutput(t *testing.T) {
	o := result.Output{Head: []byte("ops 12.5 /s\nmem 3 KiB\nops 14 /s\n"), Tail: []byte("end 1e3 odd abc")}
	got, err := result.Measure(o,
		result.Metric{Name: "first", Pattern: regexp.MustCompile(`ops (\S+)`)},
		result.Metric{Name: "last", Pattern: regexp.MustCompile(`ops (\S+)`), Last: true},
		result.Metric{Name: "mem", Pattern: regexp.MustCompile(`(mem) (?P<value>\d+) KiB`), Scale: 1024},
		result.Metric{Name: "whole", Pattern: regexp.MustCompile(`1e3`)},
		result.Metric{Name: "none", Pattern: regexp.MustCompile(`nothing (\d)`)},
		result.Metric{Name: "odd", Pattern: regexp.MustCompile(`odd (\w+)`)},
		result.Metric{Name: "nil"},
	)
	require.ErrorContains(t, err, `Metric odd: "abc" is no number`)
	require.ErrorContains(t, err, `Metric "nil"`)
	assert.Equal(t, map[string]float64{"first": 12.5, "last": 14, "mem": 3072, "whole": 1000}, got)
}

func TestMeasureNeverMatchesAcrossTheCut(t *testing.T) {
	o := result.Output{Head: []byte("ops 12"), Tail: []byte("34\nops 9"), Cut: 1}
	got, err := result.Measure(o, result.Metric{Name: "n", Pattern: regexp.MustCompile(`ops (\d+)`)}, result.Metric{Name: "l", Last: true, Pattern: regexp.MustCompile(`ops (\d+)`)})
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"n": 12, "l": 9}, got)
	joined, err := result.Measure(result.Output{Head: []byte("ops 12"), Tail: []byte("34")}, result.Metric{Name: "n", Pattern: regexp.MustCompile(`ops (\d+)`)})
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"n": 1234}, joined)
}
