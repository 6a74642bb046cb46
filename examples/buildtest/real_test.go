//go:build cgo && (libvirt || libvirt_dlopen)

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/result"
)

func TestOnRealMachinesBuildersRunBesideABatchQueue(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines")
	}
	need.Thing(t, "libvirt")
	need.Thing(t, "qemu")
	need.Thing(t, "kernel")
	dir, err := os.MkdirTemp("", "bt") // short, for sockets' paths are
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // after the machines
	site, builders := parsed(t, strings.Replace(both, "machines: 2", "machines: 2\n      ready: 2", 1), `
buildspecs:
  build: {executor: machine.small, run: "here; uname -r; echo $FROM"}
  test: {executor: machine.small, run: "here; exit 3", needs: [{build: {state: PASS}}]}
  simulate: {executor: batch.queue, run: "here", needs: [{test: {returncode: [3, 4]}}]}
  never: {executor: machine.small, run: "here", needs: [{test: {state: PASS}}]}
`)
	e := executors(t, site, Options{Machines: machines.Options{Driver: "libvirt", URI: "qemu:///embed?root=" + filepath.Join(dir, "libvirt"), Dir: dir}})
	valid, err := e.Run(t.Context(), builders)
	require.NoError(t, err)
	assert.Len(t, valid, 3)
	assert.Equal(t, map[string]string{
		"build": "COMPLETE PASS 0", "test": "COMPLETE FAIL 3", "simulate": "COMPLETE PASS 0", "never": "SKIPPED  -1",
	}, states(builders))
	assert.Regexp(t, `^machine build\n\d+\.\d+.*\nbefore\n$`, of(builders, "build").Output)
	assert.Equal(t, "batch simulate lab\n", of(builders, "simulate").Output)
	assert.Equal(t, 1, e.Report().Counts()[result.Blocked])
	for _, b := range builders {
		t.Log(b, b.Where, b.Duration)
	}
}
