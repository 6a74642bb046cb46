//go:build linux

package boot

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What needs a machine of its own (mounts, modules, clock, power) is tested in
// real guests, by vm/libvirt and examples/minimal. Here is what does not.

func TestParametersAreThoseOfBullpenOnTheCommandLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]map[string]string{
		"": {},
		"console=ttyS0 bullpen.secret=s3=cr bullpen.incarnation=i-1 quiet\n": {"secret": "s3=cr", "incarnation": "i-1"},
		"bullpen.flag notbullpen.x=1":                                        {"flag": ""},
	} {
		assert.Equal(t, want, parameters(line), line)
	}
}

func TestOnlyTheFirstProcessBoots(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, Run(t.Context(), Config{}), ErrNotInit)
}

// sys makes a folder like /sys with one attribute.
func sys(t *testing.T, file, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	return dir
}

func TestAPortIsFoundByItsNameNotItsNumber(t *testing.T) {
	t.Parallel()
	dir := sys(t, "class/virtio-ports/vport2p1/name", "bullpen.0\n")
	path, err := findPort(t.Context(), dir, "bullpen.0")
	require.NoError(t, err)
	assert.Equal(t, "/dev/vport2p1", path)

	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errors.New("enough"))
	defer cancel()
	_, err = findPort(ctx, dir, "bullpen.1")
	require.ErrorContains(t, err, `no virtio-serial port named "bullpen.1"`)
	require.ErrorContains(t, err, "enough")
}

func TestAPortThatComesLateIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made := make(chan error, 1)
	go func() {
		at := filepath.Join(dir, "class/virtio-ports/vport0p1")
		made <- errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "name"), []byte("bullpen.0"), 0o644))
	}()
	_, err := findPort(t.Context(), dir, "bullpen.0")
	require.NoError(t, err)
	require.NoError(t, <-made)
}

func TestADiskIsFoundByItsSerial(t *testing.T) {
	t.Parallel()
	dir := sys(t, "block/vdc/serial", "bullpen-job-0\n")
	path, err := findDisk(t.Context(), dir, "bullpen-job-0")
	require.NoError(t, err)
	assert.Equal(t, "/dev/vdc", path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = findDisk(ctx, dir, "bullpen-job-1")
	require.ErrorContains(t, err, `"bullpen-job-1"`)
}

// A port without a host answers end of file; a pipe without a writer does too.
func TestReadingAPortWaitsForAHost(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "port")
	require.NoError(t, os.WriteFile(name, nil, 0o644))
	p, err := openPort(t.Context(), name)
	require.NoError(t, err)
	read := make(chan string, 1)
	go func() {
		b := make([]byte, 5)
		n, _ := io.ReadFull(p, b)
		read <- string(b[:n])
	}()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString("hello")
	require.NoError(t, errors.Join(err, f.Close()))
	assert.Equal(t, "hello", <-read)

	ended := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, p.Close())
	assert.Error(t, <-ended, "Close ends a read that waits")
}

func TestNoModulesIsNoErrorAndOneThatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	require.NoError(t, loadModules(filepath.Join(t.TempDir(), "none")))
	list := filepath.Join(t.TempDir(), "modules")
	require.NoError(t, os.WriteFile(list, []byte("# first\n\n/nowhere/virtio.ko\n"), 0o644))
	require.ErrorContains(t, loadModules(list), "/nowhere/virtio.ko")
}

func TestTextOfTheKernelEndsAtItsZero(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "6.1", text([]int8{'6', '.', '1', 0, 'x'}))
	assert.Equal(t, "", text(nil))
}
