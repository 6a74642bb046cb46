//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
)

func TestAMachineBootsRunsAJobWithAnInputAndItsResultsAreRead(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	image, err := diskio.Pack(t.Context(), t.TempDir()+"/in.img", diskio.Tree{Files: []diskio.File{{Path: "words.txt", Data: []byte("warm\nclean\n")}}}, nil)
	require.NoError(t, err)
	defer image.Close()
	results := runJob(t, m, []diskio.Input{{Name: "words", Image: image}}, "cat $BULLPEN_IN/words/words.txt", "hostname; cat /etc/machine-id")
	steps := results.Parts[0].Steps
	require.Len(t, steps, 2)
	assert.Equal(t, "warm\nclean\n", string(steps[0].Stdout), "stderr %s", steps[0].Stderr)
	assert.Equal(t, string(m.ID())+"\n"+machineID(m.(*machine).incarnation)+"\n", string(steps[1].Stdout))

	// Another input in the same place: the guest must not see the old one.
	other, err := diskio.Pack(t.Context(), t.TempDir()+"/in.img", diskio.Tree{Files: []diskio.File{{Path: "words.txt", Data: bytes.Repeat([]byte("fair\n"), 10000)}}}, nil)
	require.NoError(t, err)
	defer other.Close()
	results = runJob(t, m, []diskio.Input{{Name: "words", Image: other}}, "wc -l <$BULLPEN_IN/words/words.txt")
	assert.Equal(t, "10000\n", string(results.Parts[0].Steps[0].Stdout), "stderr %s", results.Parts[0].Steps[0].Stderr)
}
