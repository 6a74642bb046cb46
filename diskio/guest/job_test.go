package guest

import (
	"io"
	"testing"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestAJobRunsWithItsFilesEnvironmentAndArtifacts(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	ready := h.welcome(wire.Welcome{Properties: map[string]string{"template-name": "debian"}})
	require.Empty(t, ready.Dirty)
	require.Zero(t, ready.Jobs)
	res := h.run(1, diskio.Part{ID: "pkg/a", Job: diskio.Job{
		Steps: append(diskio.Commands(
			`sh bin/x; echo "$BULLPEN_TEMPLATE_NAME $BULLPEN_TASK $K $FROM"`,
			`mkdir -p $BULLPEN_OUT/d && echo hi >$BULLPEN_OUT/d/f && echo kept >log; exit 3`,
			`echo never`), diskio.Step{Argv: []string{"cat", "x"}, Dir: "bin", Always: true}),
		Files:   []diskio.File{{Path: "bin/x", Mode: 0o755, Data: []byte("echo from x\n")}},
		Env:     map[string]string{"K": "v"},
		Before:  "FROM=before; export FROM",
		Collect: []string{"log", "absent"},
	}})
	require.NoError(t, res.Damage)
	require.True(t, res.Complete)
	p := res.Parts[0]
	require.Equal(t, "from x\ndebian pkg/a v before\n", string(p.Steps[0].Stdout))
	require.True(t, p.Steps[0].OK())
	require.Equal(t, 3, p.Steps[1].Exit)
	require.True(t, p.Steps[2].Skipped)
	require.Equal(t, "echo from x\n", string(p.Steps[3].Stdout), p.Steps[3])
	require.False(t, p.OK())
	require.Len(t, p.Artifacts, 2)
	f, err := res.Open("pkg/a", "d/f")
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "hi\n", string(b))
	require.True(t, exists(t, h.c.Mark))
	require.Positive(t, h.disks[1].syncs)
	require.Equal(t, 1, h.disks[1].closed)
}
