//go:build cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/result"
)

// The whole story in virtual machines: a slave, Debian's Python on an IO disk, a
// wheel's own tests, and a machine that is rolled back behind them.
func TestOnRealMachinesAWheelsTestsRunWithDebiansPython(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a minute")
	}
	for _, thing := range []string{"libvirt", "qemu", "kernel"} {
		need.Thing(t, thing)
	}
	need.Tool(t, "dpkg-deb")
	need.Thing(t, "apt-get", func(ctx context.Context) error {
		return exec.CommandContext(ctx, "apt-cache", "show", "python3-minimal").Run()
	})
	h := newHome(t, "[platform linux-debian]\n")
	h.write("pyti.ini", strings.Replace(h.read("pyti.ini"), "total_vms = 2", "total_vms = 1", 1))
	h.index.Add(rarfile("1.0"), colours)
	h.recipe("tests", "echo mine >/left",
		"python3 -m unittest -v rarfile.tests 2> $BULLPEN_OUT/log.txt && command -v python3")
	h.recipe("clean", "test ! -e /left")
	request := strings.Replace(ask("rarfile", "null", "tests", "null"), `"here"`, `"linux-debian"`, 1)
	dir, err := os.MkdirTemp("", "pyti") // a socket's path may not be long
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := h.start("slave", "-v", "--config", h.path("pyti.ini"), "-driver", "libvirt", "-uri", "qemu:///embed?root="+dir)
	h.drop("one", request)
	one := h.answer("one")
	require.Equal(t, result.Passed, one.Status, "%+v\n%s", one, p.errout)
	run := one.Runs[0]
	assert.Contains(t, *run.Files["log.txt"].Text, "Ran 2 tests")
	assert.Equal(t, "/usr/bin/python3\n", run.Commands[1].Stdout)
	h.drop("two", strings.Replace(request, "tests", "clean", 1))
	two := h.answer("two")
	require.Equal(t, result.Passed, two.Status, "the machine was not rolled back: %+v", two)
	t.Logf("first: %.1f s, in the machine %.1f s; second %.1f s", one.Seconds, run.Seconds, two.Seconds)
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, p.end(), p.errout.String())
	assert.Contains(t, p.out.String(), "ended, 2 requests answered")
}
