package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/result"
)

// framedText writes ^V as @, which the texts below do not have otherwise.
func framedText(lines ...string) []byte {
	return []byte(strings.ReplaceAll(strings.Join(lines, "\n"), "@", "\x16"))
}

func TestWhoEndedTheBinaryIsToldByWhatItWrote(t *testing.T) {
	t.Parallel()
	failed, passed, late, blocked, skipped := result.Failed, result.Passed, result.TimedOut, result.Blocked, result.Skipped
	type want = map[string]result.Status
	for name, row := range map[string]struct {
		text  []byte
		asked string
		end   ending
		want  want
		again string
	}{
		"all end": {
			framedText("@=== RUN   A", "@--- PASS: A (0.00s)", "@=== NAME  ", "@=== RUN   B", "@--- FAIL: B (0.00s)", "@=== NAME  ", "@FAIL", ""),
			"A B", ending{exit: 1}, want{"A": passed, "B": failed}, "",
		},
		"lines without a mark are output": {
			framedText("@=== RUN   A", "=== RUN   B", "--- FAIL: A (0.00s)", "@--- PASS: A (0.00s)", "@PASS", ""),
			"A", ending{}, want{"A": passed}, "",
		},
		"a mark in the middle of a line begins a new one": {
			framedText("@=== RUN   A", "no newline@--- PASS: A (0.00s)", "@PASS"), "A", ending{}, want{"A": passed}, "",
		},
		"a panic is blamed on the one that is reported in front of it": {
			framedText("@=== RUN   W", "@=== PAUSE W", "@=== RUN   A", "@--- FAIL: A (0.00s)", "panic: boom", "", "goroutine 1", ""),
			"W A Z", ending{exit: 2}, want{"A": failed}, "W Z",
		},
		"a panic behind one that passed is of the one that runs": {
			framedText("@=== RUN   A", "@=== PAUSE A", "@=== RUN   B", "@=== PAUSE B", "@=== CONT  A", "@=== CONT  B", "@--- PASS: B (0.00s)", "panic: boom", ""),
			"A B", ending{exit: 2}, want{"A": failed, "B": passed}, "",
		},
		"an exit is blamed on the one that spoke last": {
			framedText("@=== RUN   A", "@--- PASS: A (0.00s)", "@=== NAME  ", "@=== RUN   B", "some words", ""),
			"A B C", ending{exit: 7}, want{"A": passed, "B": failed}, "C",
		},
		"an exit with zero in the middle of a test is no pass": {
			framedText("@=== RUN   A", ""), "A", ending{}, want{"A": failed}, "",
		},
		"the list of the timeout says who": {
			framedText("@=== RUN   A", "@=== PAUSE A", "@=== RUN   B", "@=== RUN   B/s", "panic: test timed out after 1s", "\trunning tests:", "\t\tB/s (1s)", "", "goroutine 1", "\t\tA (1s)", ""),
			"A B C", ending{exit: 2}, want{"B": late, "B/s": late}, "A C",
		},
		"a timeout outside of tests is the package's": {
			framedText("@=== RUN   A", "@--- PASS: A (0.00s)", "@PASS", "panic: test timed out after 1s", ""),
			"A B", ending{exit: 2}, want{"A": passed, wholePackage: late}, "B",
		},
		"a signal": {
			framedText("@=== RUN   A", ""), "A", ending{exit: -1, signal: "SIGKILL"}, want{"A": failed}, "",
		},
		"one that waits is not blamed": {
			framedText("@=== RUN   W", "@=== PAUSE W", "@=== NAME  ", "@=== RUN   A", "@--- PASS: A (0.00s)", "@=== NAME  ", "fatal error: x", ""),
			"W A", ending{exit: 2}, want{"A": passed, wholePackage: failed}, "W",
		},
		"nothing at all":            {nil, "A B", ending{exit: 2}, want{"A": blocked, "B": blocked, wholePackage: failed}, ""},
		"nothing, and that is fine": {nil, "A", ending{}, want{"A": skipped}, ""},
		"others than were asked for": {
			framedText("@=== RUN   X", ""), "A", ending{exit: 2}, want{"X": failed, "A": blocked, wholePackage: failed}, "",
		},
		"a subtest without an end": {
			framedText("@=== RUN   A", "@=== RUN   A/s", "@--- FAIL: A (0.00s)", "@FAIL", ""),
			"A", ending{exit: 1}, want{"A": failed, "A/s": blocked}, "",
		},
		"a bad exit although all passed": {
			framedText("@=== RUN   A", "@--- PASS: A (0.00s)", "@PASS", "words of main", ""),
			"A", ending{exit: 3}, want{"A": passed, wholePackage: failed}, "",
		},
		"FAIL: with words": {
			framedText("@FAIL: package testing must run tests", ""), "A", ending{exit: 1}, want{"A": blocked, wholePackage: failed}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verdicts, again := judge(readTranscript(row.text), strings.Fields(row.asked), row.end)
			got := want{}
			for _, v := range verdicts {
				got[v.name] = v.status
				assert.True(t, v.status == passed || v.message != "" || v.output.Size() > 0 || v.name == "B" || v.name == "A", "%s says nothing", v.name)
			}
			assert.Equal(t, row.want, got)
			assert.Equal(t, row.again, strings.Join(again, " "))
		})
	}
}

func TestOutputGoesToTheTestThatWroteIt(t *testing.T) {
	t.Parallel()
	r := readTranscript(framedText("first", "@=== RUN   A", "a1", "@=== RUN   A/s", "s1", "panic: printed", "@=== NAME  A", "a2", "@=== ATTR  A k v",
		"@--- PASS: A/s (1.50s)", "s2", "@--- PASS: A (2.00s)", "a3", "@=== NAME  ", "none", "@PASS", "last", ""))
	assert.Equal(t, "a1\na2\n=== ATTR  A k v\na3\n", r.byName["A"].output.Output().String())
	assert.Equal(t, "s1\npanic: printed\ns2\n", r.byName["A/s"].output.Output().String())
	assert.Equal(t, "first\nnone\nlast\n", r.rest.Output().String())
	assert.EqualValues(t, 1.5e9, r.byName["A/s"].took)
}

// FuzzTranscript holds what is true of every text: all that was asked for is in
// exactly one of the answers, passed only what the text says passed, and to run
// again is less than was asked for.
func FuzzTranscript(f *testing.F) {
	f.Add([]byte("\x16=== RUN   A\n\x16--- PASS: A (0.00s)\n\x16=== NAME  \nPASS\n"), 0, false, false)
	f.Add([]byte("\x16=== RUN   A\n\x16=== RUN   A/b\npanic: test timed out after 1s\n\trunning tests:\n\t\tA/b (1s)\n"), 2, false, false)
	f.Add([]byte("\x16=== RUN   B\n\x16=== PAUSE B\n\x16=== CONT  B\n\x16    --- SKIP: B (x\nfatal error: all\n\x16FAIL: x"), 1, true, false)
	f.Add([]byte("\x16=== RUN   (package)\n\x16=== RUN   A\n\x16=== RUN   A\n"), -1, false, true)
	f.Fuzz(func(t *testing.T, text []byte, exit int, signal, late bool) {
		asked := []string{"A", "B", "C"}
		e := ending{exit: exit, timedOut: late}
		if signal {
			e.signal = "SIGKILL"
		}
		verdicts, again := judge(readTranscript(text), asked, e)
		if len(again) >= len(asked) {
			t.Fatalf("all of %v again", again)
		}
		seen := map[string]int{}
		bad := false
		for _, v := range verdicts {
			seen[v.name]++
			bad = bad || v.status.Bad()
			if !v.status.Valid() {
				t.Errorf("%s has status %q", v.name, v.status)
			}
			if v.status == result.Passed && !strings.Contains(string(text), "--- PASS: "+v.name) {
				t.Errorf("%s passed without a word", v.name)
			}
		}
		for _, name := range again {
			seen[name]++
		}
		for _, name := range asked {
			if seen[name] != 1 {
				t.Errorf("%s is in %d answers", name, seen[name])
			}
		}
		if !bad && (exit != 0 || signal || late) {
			t.Errorf("nothing is bad, but %v", e)
		}
	})
}

func TestEachTestIsInOneShardInItsPlace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		machines := rapid.IntRange(1, 9).Draw(t, "machines")
		var packs []*pack
		took := map[string]int{}
		for i := range rapid.IntRange(0, 5).Draw(t, "packages") {
			p := &pack{name: string(rune('a' + i))}
			for j := range rapid.IntRange(0, 40).Draw(t, "tests") {
				name := "Test" + strings.Repeat("x", j)
				took[p.name+name] = rapid.IntRange(0, 20_000).Draw(t, "ms")
				p.tests = append(p.tests, name)
			}
			packs = append(packs, p)
		}
		shards := plan(packs, machines, func(suite, test string) time.Duration { return time.Duration(took[suite+test]) * time.Millisecond })
		got, ids := map[*pack][]string{}, map[string]bool{}
		for _, s := range shards {
			if len(s.tests) == 0 || ids[s.id] {
				t.Fatalf("shard %s has %d tests, or is there twice", s.id, len(s.tests))
			}
			ids[s.id] = true
			if s.whole != (len(s.tests) == len(s.pack.tests)) {
				t.Fatalf("%s: whole is %v", s.id, s.whole)
			}
			got[s.pack] = append(got[s.pack], s.tests...)
		}
		for _, p := range packs {
			if !slices.Equal(got[p], p.tests) {
				t.Fatalf("%s: %v, want %v", p.name, got[p], p.tests)
			}
		}
	})
}

func TestABigPackageIsCutAndASmallOneIsNot(t *testing.T) {
	t.Parallel()
	big, small := &pack{name: "big"}, &pack{name: "small"}
	for range 40 {
		big.tests = append(big.tests, "TestX")
		small.tests = append(small.tests, "TestY")
	}
	expect := func(suite, _ string) time.Duration {
		if suite == "big" {
			return 1000 * time.Millisecond
		}
		return time.Millisecond
	}
	shards := plan([]*pack{big, small}, 2, expect)
	assert.Len(t, shards, 9, "each of two machines has about 20 s to do; a quarter of that is five")
	assert.True(t, shards[8].whole)
	long := &pack{name: "long"}
	for range 3000 {
		long.tests = append(long.tests, "Test"+strings.Repeat("x", 96))
	}
	assert.Len(t, plan([]*pack{long}, 1, func(string, string) time.Duration { return 0 }), 3, "names are bounded by what fits into an argument")
}

func TestARunExpressionIsCutAtItsFirstFreeSlash(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string][2]string{
		"":             {"", ""},
		"A":            {"A", ""},
		"A/b/c":        {"A", "/b/c"},
		"A[/]b/c":      {"A[/]b", "/c"},
		"(A|B/x)/c":    {"(A|B/x)", "/c"},
		`A\(/b`:        {`A\(`, "/b"},
		"/b":           {"", "/b"},
		"[(]A/b":       {"[(]A", "/b"},
		`Test(A|B)$/x`: {"Test(A|B)$", "/x"},
	} {
		first, rest := splitRun(expr)
		assert.Equal(t, want, [2]string{first, rest}, expr)
	}
}
