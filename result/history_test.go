package result_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
)

// A process of its own that adds to a history: see
// TestManyProcessesAddAndCompactWithoutLosingALine.
func TestMain(m *testing.M) {
	if path := os.Getenv("BULLPEN_TEST_HISTORY"); path != "" {
		if err := addMany(path, os.Getenv("BULLPEN_TEST_WHO")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func addMany(path, who string) error {
	h, err := result.OpenHistory(result.HistoryConfig{Path: path, PerTest: 100, MostBytes: 1 << 20})
	if err != nil {
		return err
	}
	for i := range 40 {
		if err := h.Add(context.Background(), ran(who, i)); err != nil {
			return err
		}
		if i%10 == 5 {
			if err := h.Compact(context.Background()); err != nil {
				return err
			}
		}
	}
	return nil
}

func ran(name string, i int) result.Case {
	return result.Case{Suite: "s", Name: name, Status: result.Passed, Start: noon.Add(time.Duration(i) * time.Hour), Duration: time.Duration(i+1) * time.Second}
}

func open(t *testing.T, c result.HistoryConfig) *result.History {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "history")
	}
	h, err := result.OpenHistory(c)
	require.NoError(t, err)
	return h
}

func TestHistoryGivesEstimatesWithSpreadAndCount(t *testing.T) {
	h := open(t, result.HistoryConfig{Path: filepath.Join(t.TempDir(), "h")})
	_, ok := h.Estimate("s", "a")
	assert.False(t, ok)
	for _, d := range []int{10, 12, 11, 500, 9} {
		require.NoError(t, h.Add(t.Context(), result.Case{Suite: "s", Name: "a", Status: result.Passed, Duration: time.Duration(d) * time.Second}))
	}
	require.NoError(t, h.Add(t.Context(), result.Case{Suite: "s", Name: "a", Status: result.TimedOut, Duration: time.Hour}))
	got, ok := h.Estimate("s", "a")
	require.True(t, ok)
	assert.Equal(t, result.Estimate{Duration: 11 * time.Second, Spread: 1482600 * time.Microsecond, Count: 5}, got)
	_, ok = h.Estimate("", "a")
	assert.False(t, ok, "the suite is part of the name")
	assert.Equal(t, result.Flakiness{Runs: 6, Failures: 1, Flips: 1}, h.Flakiness("s", "a"))
}

func TestATestThatNeverPassedIsExpectedToTakeAsLongAsItsLongestTry(t *testing.T) {
	h := open(t, result.HistoryConfig{})
	require.NoError(t, h.Add(t.Context(), result.Case{Name: "a", Attempts: []result.Attempt{
		{Status: result.Failed, Duration: time.Second}, {Status: result.TimedOut, Duration: time.Minute}, {Status: result.Errored, Duration: time.Hour},
	}}))
	got, ok := h.Estimate("", "a")
	require.True(t, ok)
	assert.Equal(t, time.Minute, got.Duration)
	assert.Equal(t, 2, got.Count)
}

func TestWhatSaysNothingAboutTheTestIsNotRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path})
	for _, s := range []result.Status{result.Skipped, result.Blocked, result.Aborted, result.Errored, "odd"} {
		require.NoError(t, h.Add(t.Context(), result.Case{Name: "a", Status: s, Duration: time.Second}))
	}
	assert.Zero(t, h.Len())
	_, err := os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFlakinessTellsABrokenTestFromAFlakyOne(t *testing.T) {
	h := open(t, result.HistoryConfig{})
	for i := range 8 {
		flaky, broken := result.Passed, result.Passed
		if i%2 == 1 {
			flaky = result.Failed
		}
		if i > 3 {
			broken = result.Failed
		}
		require.NoError(t, h.Add(t.Context(), result.Case{Name: "flaky", Status: flaky}, result.Case{Name: "broken", Status: broken}))
	}
	require.NoError(t, h.Add(t.Context(), result.Case{Name: "retried", Attempts: []result.Attempt{{Status: result.Failed}, {Status: result.Passed}}}))
	assert.InDelta(t, 1, h.Flakiness("", "flaky").Rate(), 0)
	assert.InDelta(t, 1./7, h.Flakiness("", "broken").Rate(), 1e-9)
	assert.Equal(t, result.Flakiness{Runs: 2, Failures: 1, Flips: 1, Retried: 2}, h.Flakiness("", "retried"))
	assert.Zero(t, h.Flakiness("", "unknown").Rate())
}

func TestHistoryComesBackAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path})
	require.NoError(t, h.Add(t.Context(), result.Case{
		Suite: "s\n", Name: "a\x00 \xff", Status: result.Passed, Start: noon, Duration: 7, Properties: map[string]string{"machine": "m"},
	}, ran("b", 1)))
	again := open(t, result.HistoryConfig{Path: path})
	require.Equal(t, 2, again.Len())
	assert.Equal(t, h.Past("s", "b")[0].Duration, again.Past("s", "b")[0].Duration)
	p := again.Past("s\n", "a\x00 \ufffd")
	require.Len(t, p, 1)
	assert.True(t, p[0].Start.Equal(noon))
	assert.Equal(t, "m", p[0].Machine)
	assert.Equal(t, fmt.Sprintf("history %s: 2 tests, 2 records", path), again.String())
}

// Every byte of a small history is changed, and it is cut at every byte: what is
// read is always some of what was written, and the rest is counted as damage.
func TestDamageIsSkippedAndSaidAndNeverBelieved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path})
	for i := range 3 {
		require.NoError(t, h.Add(t.Context(), ran("a", i)))
	}
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	good := h.Past("s", "a")
	check := func(text []byte, least int) {
		require.NoError(t, os.WriteFile(path, text, 0o600))
		again := open(t, result.HistoryConfig{Path: path})
		require.LessOrEqual(t, again.Len(), 1)
		past := again.Past("s", "a")
		require.GreaterOrEqual(t, len(past), least)
		for _, p := range past {
			found := false
			for _, g := range good {
				found = found || g.Duration == p.Duration && g.Start.Equal(p.Start) && g.Status == p.Status
			}
			require.True(t, found, "%v", p)
		}
		if len(past) < len(good) && len(text) == len(whole) {
			require.Positive(t, again.Damaged())
		}
	}
	for i := range whole {
		for _, flip := range []byte{1, 0x80, 0xff} {
			text := bytes.Clone(whole)
			text[i] ^= flip
			check(text, 1)
		}
		check(whole[:i], strings.Count(string(whole[:i]), "\n"))
	}
}

func TestATornLineSpoilsNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path})
	require.NoError(t, h.Add(t.Context(), ran("a", 0), ran("a", 1)))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()-5))
	require.NoError(t, h.Add(t.Context(), ran("a", 2)))
	var log bytes.Buffer
	again := open(t, result.HistoryConfig{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	assert.Len(t, again.Past("s", "a"), 2)
	assert.Equal(t, 1, again.Damaged())
	assert.Contains(t, again.String(), "1 damaged lines skipped")
	assert.Contains(t, log.String(), "lines=1")
}

func TestHistoryIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path, PerTest: 3, MostBytes: 4000})
	for i := range 500 {
		require.NoError(t, h.Add(t.Context(), ran(fmt.Sprint(i%40), i)))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(4000))
	}
	again := open(t, result.HistoryConfig{Path: path, PerTest: 3})
	assert.Zero(t, again.Damaged())
	newest := again.Past("s", strconv.Itoa(499%40))
	require.NotEmpty(t, newest)
	assert.LessOrEqual(t, len(newest), 3)
	assert.Equal(t, 500*time.Second, newest[len(newest)-1].Duration)
	assert.LessOrEqual(t, h.Len(), 40)
}

func TestManyProcessesAddAndCompactWithoutLosingALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	self, err := os.Executable()
	require.NoError(t, err)
	var wait sync.WaitGroup
	for who := range 4 {
		wait.Go(func() {
			command := exec.CommandContext(t.Context(), self)
			command.Env = append(os.Environ(), "BULLPEN_TEST_HISTORY="+path, "BULLPEN_TEST_WHO="+strconv.Itoa(who))
			out, err := command.CombinedOutput()
			assert.NoError(t, err, "%s", out)
		})
	}
	wait.Wait()
	h := open(t, result.HistoryConfig{Path: path, PerTest: 100})
	assert.Zero(t, h.Damaged())
	for who := range 4 {
		past := h.Past("s", strconv.Itoa(who))
		require.Len(t, past, 40)
		for i, p := range past {
			require.Equal(t, time.Duration(i+1)*time.Second, p.Duration)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left beside the file")
}

func TestOneHistoryIsSafeForConcurrentUse(t *testing.T) {
	h := open(t, result.HistoryConfig{PerTest: 1000})
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for i := range 25 {
				assert.NoError(t, h.Add(context.Background(), ran(fmt.Sprint(g), i)))
				h.Estimate("s", "0")
			}
			assert.NoError(t, h.Compact(context.Background()))
		})
	}
	wait.Wait()
	require.Equal(t, 4, h.Len())
	require.NoError(t, h.Refresh())
	for g := range 4 {
		assert.Len(t, h.Past("s", fmt.Sprint(g)), 25)
	}
}

func TestAHeldLockEndsTheWaitWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	h := open(t, result.HistoryConfig{Path: path})
	require.NoError(t, h.Add(t.Context(), ran("a", 0)))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("the run is over"))
	err = h.Add(ctx, ran("a", 1))
	require.ErrorContains(t, err, "held by another process: the run is over")
	require.ErrorContains(t, h.Compact(ctx), "result: history: compact: lock "+path)
	assert.Len(t, h.Past("s", "a"), 1)
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
	require.NoError(t, h.Add(t.Context(), ran("a", 1)))
}

func TestOpenHistoryRefusesWhatItCannotUse(t *testing.T) {
	for want, c := range map[string]result.HistoryConfig{
		"result: HistoryConfig.Path is empty, want the path of a file": {},
		"result: HistoryConfig.PerTest is -1, want 0 or more":          {Path: "h", PerTest: -1},
		"result: HistoryConfig.MostBytes is -1, want 0 or more":        {Path: "h", MostBytes: -1},
	} {
		_, err := result.OpenHistory(c)
		require.EqualError(t, err, want)
	}
	_, err := result.OpenHistory(result.HistoryConfig{Path: t.TempDir()})
	require.ErrorContains(t, err, "result: history: read")
	h, err := result.OpenHistory(result.HistoryConfig{Path: filepath.Join(t.TempDir(), "none", "h")})
	require.NoError(t, err)
	require.ErrorIs(t, h.Add(t.Context(), ran("a", 1)), fs.ErrNotExist)
}

func TestEstimatesOfHostileDurationsDoNotOverflow(t *testing.T) {
	h := open(t, result.HistoryConfig{})
	for _, d := range []time.Duration{math.MaxInt64, math.MinInt64, math.MaxInt64, math.MaxInt64, -1, math.MinInt64} {
		require.NoError(t, h.Add(t.Context(), result.Case{Name: "a", Status: result.Passed, Duration: d}))
	}
	got, ok := h.Estimate("", "a")
	require.True(t, ok)
	assert.GreaterOrEqual(t, got.Spread, time.Duration(0))
	assert.Equal(t, 6, got.Count)
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1 00000000 {}\n\n"))
	dir := f.TempDir()
	h, err := result.OpenHistory(result.HistoryConfig{Path: filepath.Join(dir, "seed")})
	require.NoError(f, err)
	require.NoError(f, h.Add(f.Context(), ran("a", 1), result.Case{Name: "b", Status: result.Failed}))
	text, err := os.ReadFile(filepath.Join(dir, "seed"))
	require.NoError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "h")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		h := open(t, result.HistoryConfig{Path: path})
		before := h.Damaged()
		require.LessOrEqual(t, before, bytes.Count(text, []byte{'\n'})+1)
		require.NoError(t, h.Add(t.Context(), ran("new", 3)))
		again := open(t, result.HistoryConfig{Path: path})
		require.Equal(t, before, again.Damaged())
		require.NotEmpty(t, again.Past("s", "new"))
	})
}

func ExampleHistory() {
	dir, err := os.MkdirTemp("", "bullpen")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	h, err := result.OpenHistory(result.HistoryConfig{Path: filepath.Join(dir, "history")})
	if err != nil {
		panic(err)
	}
	for _, seconds := range []int{9, 11, 10} {
		c := result.Case{Suite: "install", Name: "deb", Status: result.Passed, Duration: time.Duration(seconds) * time.Second}
		if err := h.Add(context.Background(), c); err != nil {
			panic(err)
		}
	}
	e, known := h.Estimate("install", "deb")
	fmt.Println(e.Duration, e.Count, known)
	// Output:
	// 10s 3 true
}
