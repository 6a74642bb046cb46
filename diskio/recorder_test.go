package diskio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// output is what a scripted guest produces.
type outputScript struct {
	Out   []int // sizes of pieces of output, per step
	Files []int
}

func runScript(d *memDisk, ticket Ticket, script []outputScript) (*Recorder, error) {
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	if err != nil {
		return nil, err
	}
	r, err := NewRecorder(d, j, nil, "test", "boot")
	if err != nil {
		return nil, err
	}
	for i, p := range script {
		errs := []error{r.PartBegin(i)}
		for k, n := range p.Out {
			errs = append(errs, r.StepBegin(i, k), r.Output(i, k, Stdout, 0, bytes.Repeat([]byte("o"), n)),
				r.StepEnd(i, k, StepEnd{Stdout: int64(n)}))
		}
		for k, n := range p.Files {
			errs = append(errs, r.File(i, fmt.Sprintf("f%d", k), 0o644, int64(n), bytes.NewReader(bytes.Repeat([]byte("f"), n))))
		}
		if err := errors.Join(append(errs, r.PartEnd(i))...); err != nil {
			return r, err
		}
	}
	return r, r.Finish()
}

func TestResultsTooLargeForTheDiskSayWhatWouldHaveBeenEnough(t *testing.T) {
	t.Parallel()
	overflowed := 0
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) outputScript {
			return outputScript{
				Out:   rapid.SliceOfN(rapid.IntRange(0, 60_000), 1, 4).Draw(rt, "out"),
				Files: rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 5000), rapid.IntRange(0, 700_000)), 0, 4).Draw(rt, "files"),
			}
		}), 1, 4).Draw(rt, "script")
		var parts []Part
		for i, p := range script {
			parts = append(parts, Part{ID: fmt.Sprint(i), Job: Job{Steps: Commands(make([]string, len(p.Out))...),
				Results: rapid.Int64Range(1, 400_000).Draw(rt, "results")}})
		}
		size, err := JobSize(parts)
		require.NoError(rt, err)
		run := func(size int64) *Results {
			d := newMemDisk(size)
			ticket, err := WriteJob(t.Context(), d, size, parts, nil)
			require.NoError(rt, err)
			r, err := runScript(d, ticket, script)
			require.NoError(rt, err)
			res, err := ReadResults(t.Context(), d, size, ticket, nil)
			require.NoError(rt, err)
			require.Equal(rt, r.Needed(), res.Needed)
			for i, p := range res.Parts {
				require.True(rt, p.Ended)
				require.Equal(rt, p.Missed > 0, p.Partial)
				for k, s := range p.Steps {
					require.True(rt, s.Ended, "exit codes fit whatever the output")
					require.Equal(rt, int64(script[i].Out[k]), int64(len(s.Stdout))+s.StdoutCut)
				}
				require.Equal(rt, p.OK(), p.Missed == 0)
			}
			return res
		}
		res := run(size)
		if res.Needed == 0 {
			require.True(rt, res.Complete)
			require.NoError(rt, res.Damage)
			return
		}
		overflowed++
		require.False(rt, res.Complete)
		require.ErrorIs(rt, res.Damage, ErrLimit)
		require.ErrorContains(rt, res.Damage, fmt.Sprint(res.Needed))
		require.Greater(rt, res.Needed, size)
		again := run(res.Needed)
		require.True(rt, again.Complete, "the size that was named is enough: %v", again.Damage)
		for i, p := range again.Parts {
			require.Len(rt, p.Artifacts, len(script[i].Files))
		}
	})
	require.Positive(t, overflowed)
}

func TestResultsOfTheSizeThatWasAskedForFit(t *testing.T) {
	t.Parallel()
	// What a job says of its results is meant with what records cost.
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("x"), Results: 100_000}}}
	size, err := JobSize(parts)
	require.NoError(t, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	_, err = runScript(d, ticket, []outputScript{{Out: []int{40_000}, Files: []int{59_000}}})
	require.NoError(t, err)
	res, err := ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.True(t, res.Complete, res.Damage)
}

// newRun is a recorder on a job of one part with one step, past its step.
func newRun(t *testing.T, size int64, sync func() error) (*memDisk, Ticket, *Recorder) {
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("x")}}}
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, size, ticket.Nonce)
	require.NoError(t, err)
	r, err := NewRecorder(d, j, sync, "test", "boot")
	require.NoError(t, err)
	require.NoError(t, r.PartBegin(0))
	require.NoError(t, r.StepBegin(0, 0))
	require.NoError(t, r.StepEnd(0, 0, StepEnd{}))
	return d, ticket, r
}

func TestAFileThatCannotBeReadToItsEndIsRefusedAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	d, ticket, r := newRun(t, 1<<20, nil)
	broken := io.MultiReader(strings.NewReader("begin"), iotest.ErrReader(errors.New("bad sector")))
	require.NoError(t, r.File(0, "bad", 0o644, 100, broken))
	require.NoError(t, r.File(0, "good", 0o640, 4, strings.NewReader("good")))
	require.NoError(t, r.File(0, "shrunk", 0o640, 100, strings.NewReader("short")))
	require.NoError(t, r.File(0, "grown", 0o640, 4, strings.NewReader("more than four")))
	require.NoError(t, r.File(0, "../escape", 0o640, 4, strings.NewReader("more")))
	require.NoError(t, r.File(0, "latin-\xe9", 0o640, 4, strings.NewReader("more")))
	require.NoError(t, r.File(0, "empty", 0o640, 0, strings.NewReader("")))
	require.NoError(t, r.Refuse(0, "link", "is a symbolic link"))
	require.NoError(t, r.PartEnd(0))
	require.NoError(t, r.Finish())
	res, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.NoError(t, err)
	require.True(t, res.Complete, res.Damage)
	p := res.Parts[0]
	require.Len(t, p.Refused, 4)
	require.Equal(t, "bad", p.Refused[0].Path)
	require.Contains(t, p.Refused[0].Reason, "bad sector")
	require.Equal(t, "../escape", p.Refused[1].Path)
	require.Equal(t, "latin-?", p.Refused[2].Path)
	require.Equal(t, "link", p.Refused[3].Path)
	sizes := map[string]int64{}
	for _, a := range p.Artifacts {
		sizes[a.Path] = a.Size
		f, err := res.Open("a", a.Path)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, f)
		require.NoError(t, err)
		require.Equal(t, a.Size, n)
	}
	require.Equal(t, map[string]int64{"good": 4, "shrunk": 5, "grown": 4, "empty": 0}, sizes)
	dir := t.TempDir()
	require.NoError(t, res.ExtractArtifacts(t.Context(), "a", dir))
	require.Error(t, res.ExtractArtifacts(t.Context(), "a", dir), "nothing is overwritten")
	require.ErrorIs(t, res.ExtractArtifacts(t.Context(), "b", dir), fs.ErrNotExist)
}

func TestAFailedWriteOrSyncLeavesNoCompletion(t *testing.T) {
	t.Parallel()
	t.Run("write", func(t *testing.T) {
		t.Parallel()
		d, ticket, r := newRun(t, 1<<20, nil)
		fail := true
		r.w = writerAtFunc(func(p []byte, off int64) (int, error) {
			if fail {
				fail = false
				return 0, errors.New("bad sector")
			}
			return d.WriteAt(p, off)
		})
		require.ErrorContains(t, r.Output(0, 0, Stdout, 0, []byte("x")), "bad sector")
		require.Error(t, r.PartEnd(0))
		require.ErrorContains(t, r.Finish(), "bad sector")
		res, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
		require.NoError(t, err)
		require.False(t, res.Complete)
	})
	t.Run("sync", func(t *testing.T) {
		t.Parallel()
		d, ticket, r := newRun(t, 1<<20, func() error { return errors.New("the cache is gone") })
		require.NoError(t, r.PartEnd(0))
		require.ErrorContains(t, r.Finish(), "the cache is gone")
		res, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
		require.NoError(t, err)
		require.False(t, res.Complete, "what may not be down is not vouched for")
	})
}

func TestSyncCostsNothingWhenNothingIsNew(t *testing.T) {
	t.Parallel()
	n := 0
	_, _, r := newRun(t, 1<<20, func() error { n++; return nil })
	require.NoError(t, r.Sync())
	require.NoError(t, r.Sync())
	require.Equal(t, 1, n)
}

func TestTextsOfAnyKindFitIntoTheirRecords(t *testing.T) {
	t.Parallel()
	nasty := strings.Repeat("\x01\xff", 3000)
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("x")}}}
	d := newMemDisk(1 << 20)
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, d.Size(), "")
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, nasty, nasty)
	require.NoError(t, err)
	require.NoError(t, r.PartBegin(0))
	require.NoError(t, r.StepBegin(0, 0))
	require.NoError(t, r.StepEnd(0, 0, StepEnd{Error: nasty, Signal: nasty}))
	require.NoError(t, r.Refuse(0, nasty, nasty))
	require.NoError(t, r.File(0, strings.Repeat(strings.Repeat("\x01", 255)+"/", 15)+"x", 0o644, 1, strings.NewReader("x")))
	require.NoError(t, r.PartEnd(0))
	require.NoError(t, r.Finish())
	res, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.NoError(t, err)
	require.True(t, res.Complete, res.Damage)
	require.Len(t, res.Parts[0].Artifacts, 1)
}

func TestMoreRecordsThanTheJobHasAreRefusedByTheRecorder(t *testing.T) {
	t.Parallel()
	_, _, r := newRun(t, 1<<20, nil)
	var err error
	for range 10 {
		err = errors.Join(err, r.StepEnd(0, 0, StepEnd{}))
	}
	require.ErrorIs(t, err, ErrLimit)
}

func TestOutputThatIsCutSaysWhere(t *testing.T) {
	t.Parallel()
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("x")}}}
	d := newMemDisk(1 << 20)
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, d.Size(), "")
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, "", "")
	require.NoError(t, err)
	require.NoError(t, errors.Join(r.PartBegin(0), r.StepBegin(0, 0),
		r.Output(0, 0, Stdout, 0, []byte("begin")), r.Output(0, 0, Stderr, 0, []byte("all")), r.Output(0, 0, Stdout, 1000, []byte("end")),
		r.StepEnd(0, 0, StepEnd{Stdout: 1003, Stderr: 10}), r.PartEnd(0), r.Finish()))
	res, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.NoError(t, err)
	s := res.Parts[0].Steps[0]
	require.Equal(t, "beginend", string(s.Stdout))
	require.Equal(t, int64(995), s.StdoutCut)
	require.Equal(t, 5, s.StdoutHead)
	require.Equal(t, "all", string(s.Stderr))
	require.Equal(t, int64(7), s.StderrCut)
	require.Equal(t, 3, s.StderrHead)
}
