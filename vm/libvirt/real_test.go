//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// real: this test program can reach libvirt.
const real = true

// shared is what the tests of one program have in common: an embedded driver
// has one root a process.
var shared struct {
	once  sync.Once
	dir   string
	parts initramfs.Parts
	agent string
	guest initramfs.Guest
	err   error
}

func cleanup() {
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
}

// needClient skips where libvirt's library, or what it needs, is missing.
func needClient(t testing.TB) {
	t.Helper()
	need.Thing(t, "libvirt", func(context.Context) error {
		c, err := connect(context.Background(), new(sync.WaitGroup), "test:///default", func(event) {}, func(string) {})
		if err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if _, err := user.Lookup("libvirt-qemu"); err != nil {
				_ = c.Close()
				return fmt.Errorf("%w; provide it with: useradd --system --user-group --no-create-home libvirt-qemu", err)
			}
		}
		return c.Close()
	})
}

// testGuest gives a bootable guest, or skips.
func testGuest(t testing.TB) initramfs.Guest {
	t.Helper()
	need.Thing(t, "qemu")
	need.Thing(t, "kernel")
	needClient(t)
	prepareShared(t)
	return shared.guest
}

func prepareShared(t testing.TB) {
	t.Helper()
	shared.once.Do(func() {
		if g, ok := handedGuest(); ok {
			shared.guest = g
			return
		}
		// Short: sockets are in it.
		shared.dir, shared.err = os.MkdirTemp("", "bpl")
		if shared.err != nil {
			return
		}
		root := ""
		if k := os.Getenv("BULLPEN_KERNEL"); k != "" {
			root = filepath.Dir(filepath.Dir(k))
		}
		if shared.parts, shared.err = initramfs.Find(root); shared.err != nil {
			return
		}
		// Whoever may not use the module cache brings one.
		if shared.agent = os.Getenv("BULLPEN_AGENT"); shared.agent == "" {
			shared.agent = filepath.Join(shared.dir, "agent")
			build := exec.Command("go", "build", "-trimpath", "-ldflags=-s", "-o", shared.agent, "github.com/bullpen-vm/bullpen/examples/agent")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			var text []byte
			if text, shared.err = build.CombinedOutput(); shared.err != nil {
				shared.err = fmt.Errorf("%w: %s", shared.err, text)
				return
			}
		}
		shared.guest, shared.err = buildGuest()
	})
	require.NoError(t, shared.err)
}

// buildGuest makes a guest with more modules than the default ones.
func buildGuest(modules ...string) (initramfs.Guest, error) {
	return initramfs.Build(context.Background(), initramfs.Config{
		Parts: shared.parts, Agent: shared.agent, Dir: shared.dir, Modules: append(initramfs.DefaultModules(), modules...),
	})
}

// embedURI is that of this process's embedded driver.
func embedURI() string { return "qemu:///embed?root=" + filepath.Join(shared.dir, "e") }

// testConfig logs to the test.
func testConfig(t testing.TB, uri string) Config {
	return Config{URI: uri, ForceTCG: true, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil { // it panics after the test
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// openEmbed opens this process's embedded driver. A test that does is parallel
// to others: guests are on one processor each, and have machines of their own.
func openEmbed(t testing.TB) (*Driver, initramfs.Guest) {
	t.Helper()
	if p, ok := t.(*testing.T); ok {
		p.Parallel()
	}
	return openEmbedAlone(t)
}

// openEmbedAlone is openEmbed of a test that counts what there is in this process:
// no other runs at the same time.
func openEmbedAlone(t testing.TB) (*Driver, initramfs.Guest) {
	t.Helper()
	g := testGuest(t)
	d, err := Open(t.Context(), testConfig(t, embedURI()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d, g
}

// boot makes a running machine whose guest is ready.
func boot(t testing.TB, d *Driver, s vm.Spec) vm.Machine {
	t.Helper()
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, m.Destroy(ctx))
	})
	require.NoError(t, m.Start(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ch, err := m.(*machine).Channel(ctx)
	require.NoError(t, err)
	_, err = ch.Ready(ctx)
	require.NoError(t, err, consoleOf(m))
	return m
}

func consoleOf(m vm.Machine) string {
	b, err := m.(*machine).Console(context.Background(), vm.ConsoleTail)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// runJob runs shell lines on the machine and reads their results.
func runJob(t testing.TB, m vm.Machine, inputs []diskio.Input, lines ...string) *diskio.Results {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, ok := vm.As[vm.Attacher](m)
	require.True(t, ok)
	disk, err := a.JobDisk(ctx, 0)
	require.NoError(t, err)
	defer disk.Close()
	ticket, err := diskio.WriteJob(ctx, disk, disk.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands(lines...), Inputs: inputs}}}, nil)
	require.NoError(t, err)
	g := diskio.Go{Nonce: ticket.Nonce}
	require.NoError(t, disk.Sync(ctx))
	for place, in := range inputs {
		require.NoError(t, a.Insert(ctx, place, in.Image))
		g.Inputs = append(g.Inputs, diskio.GoInput{Name: in.Name, Place: place, Digest: in.Image.Digest(), Size: in.Image.Size()})
	}
	end, err := vm.Run(ctx, m, vm.RunOptions{Go: g.Encode()})
	require.NoError(t, err, consoleOf(m))
	require.Equal(t, vm.EndDone, end.Kind, "%+v", end)
	results, err := diskio.ReadResults(ctx, disk, disk.Size(), ticket, nil)
	require.NoError(t, err)
	require.True(t, results.Complete, "%v", results.Damage)
	return results
}

// newBareConnection connects without a driver.
func newBareConnection(uri string) (conn, error) {
	return newConnectionFor(context.Background(), uri, func(event) {}, func(string) {})
}

// newConnectionFor is how Open connects.
func newConnectionFor(ctx context.Context, uri string, sink func(event), closed func(string)) (conn, error) {
	return connect(ctx, new(sync.WaitGroup), uri, sink, closed)
}
