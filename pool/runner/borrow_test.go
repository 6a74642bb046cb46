package runner_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// The guest is another handle of the same, as a child process has it: its disks,
// inputs and channel go over the lender's socket.
func TestAJobRunsOnAGuestThatIsBorrowed(t *testing.T) {
	t.Parallel()
	image, err := diskio.Pack(t.Context(), filepath.Join(t.TempDir(), "words.img"),
		diskio.Tree{Files: []diskio.File{{Path: "words.txt", Data: []byte("b\na\n")}}}, nil)
	require.NoError(t, err)
	defer image.Close()
	own := acquire(t, machines(t, 1, vm.Spec{}))
	text, err := own.Handle(t.Context())
	require.NoError(t, err)
	g, err := pool.OpenHandle(t.Context(), text)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "out")
	r, err := runner.Run(t.Context(), g, diskio.Job{
		Steps:  diskio.Commands("sort $BULLPEN_IN/words/words.txt | tee $BULLPEN_OUT/sorted.txt", "exit 3"),
		Inputs: []diskio.Input{{Name: "words", Image: image}},
	}, runner.Options{Artifacts: out})
	require.NoError(t, err)
	require.NoError(t, r.Infra)
	require.Equal(t, result.Failed, r.Status, r.Message)
	require.Equal(t, 3, r.Exit)
	require.Equal(t, "a\nb\n", string(r.Step(0).Stdout))
	require.Equal(t, vm.EndDone, r.End.Kind)
	require.Equal(t, own.Token(), r.Token)
	require.Len(t, r.Artifacts, 1)
	require.NoError(t, g.Release(t.Context(), r.Release))
	require.NoError(t, own.Release(t.Context(), nil))
	r, err = runner.Run(t.Context(), g, diskio.Job{Steps: diskio.Commands("true")}, runner.Options{})
	require.NoError(t, err)
	require.ErrorIs(t, r.Infra, pool.ErrReleased)
}
