package runner_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestMain(m *testing.M) {
	local.Main()
	goleak.VerifyTestMain(m)
}

// machines makes a pool of local machines in a folder of the test's own.
func machines(t *testing.T, slots int, spec vm.Spec) *pool.Pool {
	t.Helper()
	driver, err := local.Open(local.Config{Root: filepath.Join(t.TempDir(), "machines")})
	require.NoError(t, err)
	p, err := pool.New(pool.Config{
		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: slots}},
		Templates: []pool.Template{{Name: "base", Spec: spec, Properties: map[string]string{"color": "blue"}}},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
		assert.NoError(t, driver.Close())
	})
	return p
}

func acquire(t *testing.T, p *pool.Pool) *pool.Guest {
	t.Helper()
	g, err := p.Acquire(t.Context(), pool.Want{Job: t.Name()})
	require.NoError(t, err)
	return g
}

// run runs one job on a machine of its own, and releases it as it should be.
func run(t *testing.T, j diskio.Job, o runner.Options) runner.Result {
	t.Helper()
	g := acquire(t, machines(t, 1, vm.Spec{}))
	r, err := runner.Run(t.Context(), g, j, o)
	require.NoError(t, err)
	require.NoError(t, g.Release(context.WithoutCancel(t.Context()), r.Release))
	return r
}

func TestAJobRunsWithItsFilesInputsAndArtifacts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, err := diskio.Pack(t.Context(), filepath.Join(dir, "words.img"),
		diskio.Tree{Files: []diskio.File{{Path: "deep/words.txt", Data: []byte("b\na\n")}}}, nil)
	require.NoError(t, err)
	defer image.Close()
	source := filepath.Join(dir, "source.txt")
	require.NoError(t, os.WriteFile(source, []byte("from the host\n"), 0o644))

	r := run(t, diskio.Job{
		Steps: diskio.Commands(
			"sort $BULLPEN_IN/words/deep/words.txt | tee $BULLPEN_OUT/sorted.txt",
			"cat given.txt; echo to stderr >&2",
			`echo "$COLOR $BULLPEN_COLOR $BULLPEN_ATTEMPT"; echo kept >extra/log`,
		),
		Files:   []diskio.File{{Path: "given.txt", Source: source}, {Path: "extra/empty"}},
		Inputs:  []diskio.Input{{Name: "words", Image: image}},
		Env:     map[string]string{"COLOR": "red"},
		Collect: []string{"extra"},
	}, runner.Options{Artifacts: filepath.Join(dir, "out")})
	require.Equal(t, result.Passed, r.Status, r.Message)
	assert.NoError(t, r.Infra)
	assert.NoError(t, r.Release)
	assert.Equal(t, "a\nb\n", string(r.Step(0).Stdout))
	assert.Equal(t, "from the host\n", string(r.Step(1).Stdout))
	assert.Equal(t, "to stderr\n", string(r.Step(1).Stderr))
	assert.Equal(t, "red blue 1\n", string(r.Step(2).Stdout))
	assert.False(t, r.Step(3).Started, "a step that is not there did not run")
	assert.Equal(t, vm.EndDone, r.End.Kind)
	assert.Positive(t, r.Phases.Run)

	kept := map[string]string{}
	for _, a := range r.Artifacts {
		text, err := os.ReadFile(a.File)
		require.NoError(t, err)
		kept[a.Path] = string(text)
	}
	assert.Equal(t, "a\nb\n", kept["sorted.txt"], kept)
	found := false
	for path, text := range kept {
		found = found || strings.HasSuffix(path, "extra/log") && text == "kept\n"
	}
	assert.True(t, found, "what Collect names is brought back: %v", kept)
}

func TestAJobThatFailsSkipsTheRestAndIsNoInfrastructureFailure(t *testing.T) {
	t.Parallel()
	steps := diskio.Commands("true", "exit 7", "echo never")
	steps = append(steps, diskio.Step{Name: "always", Argv: []string{"echo", "tidied"}, Always: true})
	r := run(t, diskio.Job{Steps: steps}, runner.Options{})
	assert.Equal(t, result.Failed, r.Status)
	assert.Equal(t, 7, r.Exit)
	assert.Contains(t, r.Message, "step 1 (exit 7) exited with code 7")
	assert.True(t, r.Step(2).Skipped)
	assert.Equal(t, "tidied\n", string(r.Step(3).Stdout))
	assert.NoError(t, r.Infra)
	assert.NoError(t, r.Release, "the machine is healthy")
}

func TestATimeoutInTheGuestIsATimeoutAndKeepsWhatWasWritten(t *testing.T) {
	t.Parallel()
	r := run(t, diskio.Job{Steps: diskio.Commands("echo begun; sleep 1000"), Timeout: 300 * time.Millisecond}, runner.Options{})
	assert.Equal(t, result.TimedOut, r.Status, r.Message)
	assert.Equal(t, "begun\n", string(r.Step(0).Stdout))
	assert.NoError(t, r.Infra)
	assert.NoError(t, r.Release)
}

func TestACancelledRunIsAborted(t *testing.T) {
	t.Parallel()
	g := acquire(t, machines(t, 1, vm.Spec{}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := runner.Run(ctx, g, diskio.Job{Steps: diskio.Commands("sleep 1000")}, runner.Options{
		Progress: func(_ *pool.Guest, p diskio.Progress) {
			if p.What == "started" && p.Step == 0 {
				cancel()
			}
		},
	})
	require.NoError(t, err)
	assert.Equal(t, result.Aborted, r.Status, r.Message)
	assert.NoError(t, r.Infra)
	require.NoError(t, g.Release(t.Context(), r.Release))
}

func TestAMachineThatDiesHalfWayIsAnInfrastructureFailureWithItsPartsShown(t *testing.T) {
	t.Parallel()
	r := run(t, diskio.Job{Steps: diskio.Commands("echo first", `echo half; eval "$BULLPEN_CRASH"; sleep 1000`)}, runner.Options{})
	assert.Equal(t, result.Errored, r.Status)
	assert.True(t, r.Partial)
	require.Error(t, r.Infra)
	assert.True(t, pool.IsBroken(r.Release), "%v", r.Release)
	assert.Equal(t, vm.EndKilled, r.End.Kind)
	assert.Equal(t, "first\n", string(r.Step(0).Stdout), "what finished before is shown")
	assert.False(t, r.Step(1).OK())
	assert.Contains(t, r.Message, "was cut short")
}

func TestResultsThatDoNotFitAreErroredWithTheSizeThatIsNeeded(t *testing.T) {
	t.Parallel()
	g := acquire(t, machines(t, 1, vm.Spec{JobDisks: []int64{256 << 10}}))
	r, err := runner.Run(t.Context(), g, diskio.Job{Steps: diskio.Commands("head -c 1000000 /dev/zero >$BULLPEN_OUT/big")}, runner.Options{})
	require.NoError(t, err)
	assert.Equal(t, result.Errored, r.Status)
	assert.NoError(t, r.Infra, "another machine has no larger disk")
	var size int64
	_, after, ok := strings.Cut(r.Message, "a job disk of ")
	require.True(t, ok, r.Message)
	_, err = fmt.Sscanf(after, "%d", &size)
	require.NoError(t, err, r.Message)
	require.NoError(t, g.Release(t.Context(), r.Release))

	g = acquire(t, machines(t, 1, vm.Spec{JobDisks: []int64{(size + 4095) / 4096 * 4096}}))
	r, err = runner.Run(t.Context(), g, diskio.Job{Steps: diskio.Commands("head -c 1000000 /dev/zero >$BULLPEN_OUT/big")}, runner.Options{})
	require.NoError(t, err)
	assert.Equal(t, result.Passed, r.Status, "the size that was named is enough: %s", r.Message)
	require.NoError(t, g.Release(t.Context(), r.Release))
}

func TestBadJobsAreErroredNamedAndNotTriedElsewhere(t *testing.T) {
	t.Parallel()
	p := machines(t, 1, vm.Spec{})
	g := acquire(t, p)
	defer func() { assert.NoError(t, g.Release(context.WithoutCancel(t.Context()), nil)) }()
	ok := diskio.Commands("true")
	for _, c := range []struct {
		name string
		job  diskio.Job
		want string
	}{
		{"no steps", diskio.Job{}, "Steps"},
		{"an absolute path", diskio.Job{Steps: ok, Files: []diskio.File{{Path: "/etc/passwd"}}}, "/etc/passwd"},
		{"an escaping path", diskio.Job{Steps: ok, Files: []diskio.File{{Path: "../x"}}}, "../x"},
		{"a name twice", diskio.Job{Steps: ok, Files: []diskio.File{{Path: "x"}, {Path: "x"}}}, "x"},
		{"a negative timeout", diskio.Job{Steps: ok, Timeout: -1}, "Timeout"},
		{"a file that is not there", diskio.Job{Steps: ok, Files: []diskio.File{{Path: "x", Source: "/nowhere/x"}}}, "/nowhere/x"},
		{"more results than the disk holds", diskio.Job{Steps: ok, Results: 1 << 40}, "JobDisks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := runner.Run(t.Context(), g, c.job, runner.Options{})
			require.NoError(t, err)
			assert.Equal(t, result.Errored, r.Status)
			assert.NoError(t, r.Infra)
			assert.NoError(t, r.Release)
			assert.Contains(t, r.Message, c.want)
		})
	}
}

func TestAGuestThatWasReleasedRunsNothing(t *testing.T) {
	t.Parallel()
	g := acquire(t, machines(t, 1, vm.Spec{}))
	require.NoError(t, g.Release(t.Context(), nil))
	r, err := runner.Run(t.Context(), g, diskio.Job{Steps: diskio.Commands("true")}, runner.Options{})
	require.NoError(t, err)
	assert.NotEqual(t, result.Passed, r.Status)
	assert.True(t, errors.Is(r.Infra, pool.ErrReleased) || r.Status == result.Errored, "%+v", r)
}

func TestMoreOfTheOutputIsKeptWhereTheOptionsSayIt(t *testing.T) {
	t.Parallel()
	const size = diskio.DefaultOutputHead + diskio.DefaultOutputTail + 1000
	job := diskio.Job{Steps: diskio.Commands(fmt.Sprintf("head -c %d /dev/zero", size))}
	r := run(t, job, runner.Options{})
	assert.Positive(t, r.Step(0).StdoutCut)
	r = run(t, job, runner.Options{OutputHead: size})
	assert.Zero(t, r.Step(0).StdoutCut)
	assert.Len(t, r.Step(0).Stdout, size)
	r = run(t, job, runner.Options{OutputHead: 10, OutputTail: -1})
	assert.Len(t, r.Step(0).Stdout, 10)
	assert.EqualValues(t, size-10, r.Step(0).StdoutCut)
}
