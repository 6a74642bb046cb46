package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_SHAREDPOOL") == "1" {
		main()
	}
	os.Exit(m.Run())
}

func TestHarnessesShareTheSlots(t *testing.T) {
	t.Parallel()
	const harnesses, jobs, slots = 3, 3, 2
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	require.NoError(t, os.Mkdir(inside, 0o700))
	counts := filepath.Join(dir, "counts")
	// Each job says how many are at work while it is.
	command := fmt.Sprintf("mkdir %[1]s/$$ && sleep 0.1 && ls %[1]s | wc -l >> %[2]s && rmdir %[1]s/$$", inside, counts)
	var all []*exec.Cmd
	var outs []*bytes.Buffer
	for range harnesses {
		c := exec.CommandContext(t.Context(), os.Args[0], "-store", filepath.Join(dir, "leases.db"), "-machines", filepath.Join(dir, "machines"),
			"-slots", fmt.Sprint(slots), "-jobs", fmt.Sprint(jobs), "-command", command)
		c.Env = append(os.Environ(), "BULLPEN_TEST_SHAREDPOOL=1", "TMPDIR="+dir)
		out := new(bytes.Buffer)
		c.Stdout, c.Stderr = out, out
		require.NoError(t, c.Start())
		all, outs = append(all, c), append(outs, out)
	}
	for i, c := range all {
		assert.NoError(t, c.Wait(), outs[i].String())
		assert.Contains(t, outs[i].String(), fmt.Sprintf("%d passed", jobs))
	}
	text, err := os.ReadFile(counts)
	require.NoError(t, err)
	seen := strings.Fields(string(text))
	assert.Len(t, seen, harnesses*jobs)
	for _, n := range seen {
		assert.Contains(t, []string{"1", "2"}, n, "jobs at work at once, with %d slots", slots)
	}
}
