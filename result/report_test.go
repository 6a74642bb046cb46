package result_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/result"
)

var noon = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

func one(t *testing.T, cases ...result.Case) result.Case {
	t.Helper()
	var r result.Report
	r.Add(cases...)
	got := r.Cases()
	require.Len(t, got, 1)
	return got[0]
}

func TestExitCodeTellsFailureFromABrokenEnvironmentAndNothingFromSuccess(t *testing.T) {
	for _, row := range []struct {
		statuses []result.Status
		code     int
	}{
		{nil, 2},
		{[]result.Status{result.Passed}, 0},
		{[]result.Status{result.Passed, result.Skipped, result.Blocked}, 0},
		{[]result.Status{result.Passed, result.Errored}, 2},
		{[]result.Status{result.Aborted, result.Passed}, 2},
		{[]result.Status{result.Errored, result.Failed}, 1},
		{[]result.Status{result.Errored, result.TimedOut}, 1},
		{[]result.Status{""}, 2},
		{[]result.Status{"ok"}, 2},
	} {
		var r result.Report
		for i, s := range row.statuses {
			r.Add(result.Case{Name: fmt.Sprint(i), Status: s})
		}
		assert.Equal(t, row.code, r.ExitCode(), "%v", row.statuses)
	}
}

func TestAPassAfterAFailureIsFlakyAndSaysSo(t *testing.T) {
	c := one(t, result.Case{Name: "a", Status: result.Failed, Message: "exit 3"}, result.Case{Name: "a", Status: result.Passed})
	assert.Equal(t, result.Passed, c.Status)
	assert.True(t, c.Flaky)
	require.Len(t, c.Attempts, 2)
	assert.Equal(t, []int{1, 2}, []int{c.Attempts[0].Number, c.Attempts[1].Number})

	var r result.Report
	r.Add(c)
	assert.Contains(t, r.String(), "flaky; attempt 1 failed: exit 3")
	assert.Contains(t, r.String(), "1 case: 1 passed; 1 flaky; 1 took more than one attempt")
	assert.Len(t, r.Flaky(), 1)
	assert.Equal(t, 0, r.ExitCode())
}

func TestAFailureAfterAPassIsAFailureAndFlaky(t *testing.T) {
	c := one(t, result.Case{Name: "a", Status: result.Passed}, result.Case{Name: "a", Status: result.TimedOut, Message: "10s"})
	assert.Equal(t, result.TimedOut, c.Status)
	assert.True(t, c.Flaky)
}

func TestAPassAfterALostMachineIsNotFlakyButTheTableSaysSo(t *testing.T) {
	var r result.Report
	r.Add(result.Case{Suite: "s", Name: "a", Status: result.Passed, Attempts: []result.Attempt{
		{Status: result.Errored, Message: "machine m1 was killed", Machine: "m1"}, {Status: result.Passed, Machine: "m2"},
	}})
	c := r.Cases()[0]
	assert.Equal(t, result.Passed, c.Status)
	assert.False(t, c.Flaky)
	assert.Regexp(t, `passed +- +m2 +2 +s/a +attempt 1 errored: machine m1 was killed`, r.String())
}

func TestATeardownErrorOverridesAPass(t *testing.T) {
	c := one(t, result.Case{Name: "a", Status: result.Passed}, result.Case{Name: "a", Status: result.Errored, Message: "rollback failed"})
	assert.Equal(t, result.Errored, c.Status)
	assert.Equal(t, "rollback failed", c.Message)
}

func TestAStatusBetterThanItsAttemptsIsNotBelieved(t *testing.T) {
	c := one(t, result.Case{Name: "a", Status: result.Passed, Message: "all well", Attempts: []result.Attempt{{Status: result.Failed, Message: "exit 1"}}})
	assert.Equal(t, result.Failed, c.Status)
	assert.Equal(t, "exit 1", c.Message)
	worse := one(t, result.Case{Name: "a", Status: result.Errored, Message: "teardown", Attempts: []result.Attempt{{Status: result.Passed}}})
	assert.Equal(t, result.Errored, worse.Status)
	assert.Equal(t, "teardown", worse.Message)
}

func TestAnUnknownStatusIsAnErrorAndNeverPasses(t *testing.T) {
	for _, c := range []result.Case{
		{Name: "a"},
		{Name: "a", Status: "PASSED"},
		{Name: "a", Status: "PASSED", Attempts: []result.Attempt{{Status: result.Passed}}},
		{Name: "a", Status: result.Passed, Attempts: []result.Attempt{{Status: "fine"}}},
	} {
		got := one(t, c)
		assert.Equal(t, result.Errored, got.Status)
		assert.Contains(t, got.Message, "is not one of passed, skipped")
	}
}

func TestTheCaseOfManyAttemptsTakesWhatTheDecidingOneKnew(t *testing.T) {
	c := one(t, result.Case{Name: "a", Attempts: []result.Attempt{
		{Status: result.Errored, Message: "lost", Start: noon, Phases: result.Phases{Run: time.Minute}},
		{Status: result.Failed, Message: "exit 4", Start: noon.Add(time.Hour), Phases: result.Phases{Run: time.Second}},
		{Status: result.Errored, Message: "lost again", Start: noon.Add(2 * time.Hour)},
	}})
	assert.Equal(t, result.Failed, c.Status)
	assert.Equal(t, "exit 4", c.Message)
	assert.Equal(t, noon.Add(time.Hour), c.Start)
	assert.Equal(t, time.Second, c.Duration)
}

func TestAddOfTheSameCaseMergesWhatItLeaves(t *testing.T) {
	first := result.Case{
		Name: "a", Status: result.Failed, Message: "exit 1", Output: result.Output{Head: []byte("bad")}, ExitCode: 1,
		Artifacts: []result.Artifact{{Path: "log", File: "/t/1/log"}}, Properties: map[string]string{"machine": "m1", "template": "deb"},
	}
	next := result.Case{
		Name: "a", Status: result.Passed, Output: result.Output{Head: []byte("good")},
		Artifacts: []result.Artifact{{Path: "log", File: "/t/2/log"}, {Path: "log", File: "/t/1/log"}}, Properties: map[string]string{"machine": "m2"},
	}
	c := one(t, first, next)
	assert.Equal(t, "good", c.Output.String())
	assert.Equal(t, "bad", c.Attempts[0].Output.String())
	assert.Zero(t, c.ExitCode)
	assert.Empty(t, c.Message)
	assert.Len(t, c.Artifacts, 2)
	assert.Equal(t, map[string]string{"machine": "m2", "template": "deb"}, c.Properties)
	assert.Equal(t, "m2", c.Machine())

	kept := one(t, first, result.Case{Name: "a", Status: result.Errored, Output: result.Output{Head: []byte("no boot")}})
	assert.Equal(t, result.Failed, kept.Status)
	assert.Equal(t, "bad", kept.Output.String())
	assert.Equal(t, "no boot", kept.Attempts[1].Output.String())
	assert.Equal(t, 1, kept.ExitCode)
}

func TestACaseInTheReportIsOutOfReachOfItsCaller(t *testing.T) {
	properties := map[string]string{"k": "v"}
	attempts := []result.Attempt{{Status: result.Passed}}
	var r result.Report
	r.Add(result.Case{Name: "a", Status: result.Passed, Properties: properties, Attempts: attempts})
	properties["k"], attempts[0].Status = "changed", result.Failed
	got := r.Cases()
	assert.Equal(t, "v", got[0].Properties["k"])
	got[0].Properties["k"], got[0].Attempts[0].Status = "changed", result.Failed
	again, ok := r.Case("", "a")
	require.True(t, ok)
	assert.Equal(t, "v", again.Properties["k"])
	assert.Equal(t, result.Passed, again.Attempts[0].Status)
	_, ok = r.Case("", "b")
	assert.False(t, ok)
	r.Add(result.Case{Name: "b", Status: result.Passed})
	for c := range r.All() {
		r.Add(result.Case{Name: "c", Status: result.Passed}) // not in what is walked
		assert.Equal(t, "a", c.Name)
		break
	}
	assert.Equal(t, 3, r.Len())
}

func TestReportIsSafeForConcurrentUse(t *testing.T) {
	var r result.Report
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 50 {
				r.Add(result.Case{Name: fmt.Sprint(i), Status: result.Passed, Properties: map[string]string{"g": fmt.Sprint(g)}})
				_ = r.ExitCode()
				if i%10 == 0 {
					_, _, _ = r.String(), r.Cases(), r.Counts()
				}
			}
		})
	}
	wait.Wait()
	assert.Equal(t, 50, r.Len())
	for _, c := range r.Cases() {
		assert.Len(t, c.Attempts, 8)
	}
	assert.Equal(t, map[result.Status]int{result.Passed: 50}, r.Counts())
}

func TestTheTableIsAlignedByRunesAndHarmless(t *testing.T) {
	var r result.Report
	r.Add(
		result.Case{Suite: "pkg", Name: "Überprüfung", Status: result.Passed, Duration: 1234 * time.Millisecond, Start: noon, Properties: map[string]string{"machine": "m1"}},
		result.Case{Suite: "pkg", Name: "evil\x1b[31m\n\u202e\xff", Status: result.Failed, Message: "\nexit 1 \x1b[2J" + strings.Repeat("x", 100) + "\nsecond line", Duration: 61 * time.Second, Start: noon.Add(time.Second)},
		result.Case{Name: "late", Status: result.TimedOut, Duration: 3*time.Hour + 4*time.Minute},
	)
	want := "" +
		"STATUS     DURATION  MACHINE  ATTEMPTS  NAME                          MESSAGE\n" +
		"passed     1.23s     m1       1         pkg/Überprüfung\n" +
		"failed     1m01s     -        1         pkg/evil\\x1b[31m\\n\\u202e\\xff  exit 1 \\x1b[2J" + strings.Repeat("x", 57) + "…\n" +
		"timed out  3h04m     -        1         late\n" +
		"3 cases: 1 failed, 1 timed out, 1 passed; 1m02s\n"
	assert.Equal(t, want, r.String())
	assert.Equal(t, result.Failed, r.Worst())
}

func TestAnEmptyReportSaysThatNothingWasRun(t *testing.T) {
	var r result.Report
	assert.Equal(t, "0 cases: nothing was run\n", r.String())
	assert.Equal(t, result.Status(""), r.Worst())
	assert.Equal(t, 2, r.ExitCode())
	assert.Zero(t, r.Elapsed())
}

func TestDurationsAreWrittenForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "-", 1: "<1ms", 850 * time.Millisecond: "850ms", 12340 * time.Millisecond: "12.34s", 185 * time.Second: "3m05s", 127 * time.Minute: "2h07m", -time.Second: "-1.00s",
	} {
		assert.Equal(t, want, result.FormatDuration(d))
	}
}

func TestPhasesAddUp(t *testing.T) {
	assert.Equal(t, 21*time.Second, result.Phases{Queued: time.Second, Placed: 2 * time.Second, Boot: 3 * time.Second, Run: 4 * time.Second, Read: 5 * time.Second, Rollback: 6 * time.Second}.Total())
}

// Whatever is added, in whatever pieces: each case is there once, with all its
// attempts, never passed when its last own word was a failure, and flaky if and
// only if its attempts disagree.
func TestModelOfMerging(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.SampledFrom(append(result.Statuses(), "", "odd"))
		var r result.Report
		seen := map[string][]result.Status{}
		var order []string
		for range rapid.IntRange(0, 12).Draw(t, "adds") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			attempts := rapid.SliceOfN(status, 0, 3).Draw(t, "attempts")
			c := result.Case{Name: name}
			if len(attempts) == 0 {
				c.Status = status.Draw(t, "status")
				attempts = []result.Status{c.Status}
			} else {
				for _, s := range attempts {
					c.Attempts = append(c.Attempts, result.Attempt{Status: s})
				}
			}
			if seen[name] == nil {
				order = append(order, name)
			}
			seen[name] = append(seen[name], attempts...)
			r.Add(c)
		}
		cases := r.Cases()
		require.Len(t, cases, len(order))
		worst := result.Status("")
		for i, c := range cases {
			require.Equal(t, order[i], c.Name)
			require.Len(t, c.Attempts, len(seen[c.Name]))
			var last result.Status
			var passed, bad bool
			for _, s := range seen[c.Name] {
				if s.Own() {
					last = s
				}
				passed, bad = passed || s == result.Passed, bad || s.Bad()
			}
			require.Equal(t, passed && bad, c.Flaky)
			switch {
			case last.Bad():
				require.Equal(t, last, c.Status)
			case last == "":
				require.NotEqual(t, result.Passed, c.Status)
			}
			if c.Status.Worse(worst) {
				worst = c.Status
			}
		}
		require.Equal(t, worst, r.Worst())
		var b strings.Builder
		require.NoError(t, r.WriteJSONLines(&b))
		back, err := result.ReadJSONLines(strings.NewReader(b.String()))
		require.NoError(t, err)
		var copied result.Report
		copied.Add(back...)
		require.Equal(t, r.String(), copied.String())
	})
}
