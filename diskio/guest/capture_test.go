package guest

import (
	"bytes"
	"testing"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWhatIsKeptOfOutputIsItsHeadAndItsTail(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		head := rapid.IntRange(-1, 50).Draw(rt, "head")
		tail := rapid.IntRange(-1, 50).Draw(rt, "tail")
		parts := []diskio.Part{commands("a", "x")}
		d := &disk{b: make([]byte, 1<<20)}
		ticket, err := diskio.WriteJob(t.Context(), d, d.Size(), parts, &diskio.JobOptions{OutputHead: head, OutputTail: tail})
		require.NoError(rt, err)
		j, err := diskio.OpenJob(d, d.Size(), "")
		require.NoError(rt, err)
		rec, err := diskio.NewRecorder(d, j, nil, "", "")
		require.NoError(rt, err)
		require.NoError(rt, rec.PartBegin(0))
		require.NoError(rt, rec.StepBegin(0, 0))
		head, tail = j.OutputBounds()
		var all []byte
		c := newCapture(rec, 0, 0, diskio.Stdout, head, tail, func(s string) { require.LessOrEqual(rt, len(s), newsSize) })
		for i, n := range rapid.SliceOf(rapid.IntRange(0, 60)).Draw(rt, "writes") {
			b := bytes.Repeat([]byte{byte('a' + i%26)}, n)
			all = append(all, b...)
			_, err := c.Write(b)
			require.NoError(rt, err)
			if rapid.Bool().Draw(rt, "flush") {
				c.flush()
			}
			require.LessOrEqual(rt, len(c.ring), tail)
			require.LessOrEqual(rt, len(c.pending), head)
		}
		total := c.finish()
		require.Equal(rt, int64(len(all)), total)
		require.NoError(rt, rec.StepEnd(0, 0, diskio.StepEnd{Stdout: total}))
		require.NoError(rt, rec.PartEnd(0))
		require.NoError(rt, rec.Finish())
		res, err := diskio.ReadResults(t.Context(), d, d.Size(), ticket, nil)
		require.NoError(rt, err)
		require.True(rt, res.Complete, "%v", res.Damage)
		s := res.Parts[0].Steps[0]
		want := all
		if cut := len(all) - head - tail; cut > 0 {
			want = append(bytes.Clone(all[:head]), all[len(all)-tail:]...)
			require.Equal(rt, int64(cut), s.StdoutCut)
			require.Equal(rt, head, s.StdoutHead)
		} else {
			require.Zero(rt, s.StdoutCut)
		}
		require.Equal(rt, string(want), string(s.Stdout))
	})
}
