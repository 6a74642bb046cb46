package local

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

func exited(code int) syscall.WaitStatus             { return syscall.WaitStatus(code << 8) }
func signaled(sig syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(sig) }

func TestTheEndOfAnAgentIsToldAsWhatItWas(t *testing.T) {
	t.Parallel()
	for st, want := range map[syscall.WaitStatus]vm.EndKind{
		exited(exitPoweredOff): vm.EndPoweredOff, exited(exitChannel): vm.EndKilled, exited(exitRefused): vm.EndPoweredOff,
		exited(exitKeepalive): vm.EndPoweredOff, exited(exitFailed): vm.EndCrashed, exited(2): vm.EndCrashed,
		signaled(syscall.SIGKILL): vm.EndKilled, signaled(syscall.SIGSEGV): vm.EndCrashed, signaled(syscall.SIGTERM): vm.EndCrashed,
	} {
		kind, detail := agentEnd(st)
		assert.Equal(t, want, kind, detail)
		assert.NotEmpty(t, detail)
	}
}

// serveHere runs an agent in this process, with a host on the other side.
func serveHere(t *testing.T, ctx context.Context, secret string, keepalive time.Duration) (*vm.Channel, <-chan int) {
	t.Helper()
	m := create(t, testDriver(t, Config{}))
	host, guest := net.Pipe()
	code := make(chan int, 1)
	conf := agentConfig{Secret: secret, Incarnation: "i", JobDisks: []int64{4096}, Inputs: 1}
	go func() {
		n, err := conf.serve(ctx, m.dir(), guest, io.Discard)
		if err != nil {
			n = -1
		}
		code <- n
	}()
	c := vm.NewChannel(host, vm.ChannelConfig{Machine: m.ID(), Incarnation: "i", Secret: "right", Keepalive: keepalive})
	t.Cleanup(func() { _ = c.Close() })
	return c, code
}

func TestAnAgentSaysWhyItEnds(t *testing.T) {
	t.Parallel()
	ready := func(t *testing.T, c *vm.Channel) {
		_, err := c.Ready(testContext(t))
		require.NoError(t, err)
	}
	t.Run("told to power off", func(t *testing.T) {
		t.Parallel()
		c, code := serveHere(t, t.Context(), "right", 0)
		ready(t, c)
		require.NoError(t, c.PowerOff(testContext(t)))
		require.Equal(t, exitPoweredOff, <-code)
	})
	t.Run("the power button", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		c, code := serveHere(t, ctx, "right", 0)
		ready(t, c)
		cancel()
		require.Equal(t, exitPoweredOff, <-code)
	})
	t.Run("the host is gone", func(t *testing.T) {
		t.Parallel()
		c, code := serveHere(t, t.Context(), "right", 0)
		ready(t, c)
		require.NoError(t, c.Close())
		require.Equal(t, exitChannel, <-code)
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		_, code := serveHere(t, t.Context(), "wrong", 0)
		require.Equal(t, exitRefused, <-code)
	})
}

func TestAnInputIsTakenOnlyFromItsPlaceAndWhenItIsTheOneMeant(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := create(t, testDriver(t, Config{}))
	in := image("no file system")
	require.NoError(t, m.Insert(ctx, 1, in))
	conf := agentConfig{Inputs: 2}
	store, _ := testStore(t, 1<<30)
	good := diskio.GoInput{Name: "app", Place: 1, Digest: in.Digest(), Size: in.Size()}
	dir, release, err := conf.input(ctx, store, m.dir(), good)
	require.NoError(t, err)
	require.DirExists(t, dir)
	require.NoError(t, release())
	for want, change := range map[string]func(*diskio.GoInput){
		"place 2 is not there":  func(g *diskio.GoInput) { g.Place = 2 },
		"place -1 is not there": func(g *diskio.GoInput) { g.Place = -1 },
		"place 0 is empty":      func(g *diskio.GoInput) { g.Place = 0 },
		"place 1 has sha256:":   func(g *diskio.GoInput) { g.Digest = "sha256:x" },
		"of 14 bytes, want":     func(g *diskio.GoInput) { g.Size++ },
	} {
		g := good
		change(&g)
		_, _, err := conf.input(ctx, store, m.dir(), g)
		require.ErrorContains(t, err, want)
	}
	// The image's file was changed after it was inserted.
	require.NoError(t, os.WriteFile(m.path(inputFile(1)), []byte("no file systen"), 0o600))
	store.unpack = unpacker(io.Discard)
	require.NoError(t, removeTree(store.dir))
	_, _, err = conf.input(ctx, store, m.dir(), good)
	require.ErrorContains(t, err, "the image was changed after it was inserted")
	left, err := os.ReadDir(m.path(guestRoot))
	require.NoError(t, err)
	require.Len(t, left, 3, "work, home and tmp only: %v", left)
}

func TestAKeeperSaysWhyTheMachineEnds(t *testing.T) {
	t.Parallel()
	silent := func() io.Reader {
		r, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		return r
	}
	gone, w := io.Pipe()
	require.NoError(t, w.Close())
	signals := make(chan os.Signal, 1)
	k := &keeper{}
	kind, detail := k.await(nil, gone, signals)
	require.Equal(t, vm.EndKilled, kind)
	require.Equal(t, "the harness ended", detail)
	signals <- syscall.SIGTERM
	kind, detail = k.await(nil, silent(), signals)
	require.Equal(t, vm.EndKilled, kind)
	require.Contains(t, detail, "terminated")
	ended := make(chan syscall.WaitStatus, 1)
	ended <- exited(0)
	kind, _ = k.await(ended, silent(), nil)
	require.Equal(t, vm.EndPoweredOff, kind)
	// Whichever is looked at first: the button was pressed before the end.
	buttons := make(chan os.Signal)
	go func() {
		buttons <- syscall.SIGPWR
		ended <- signaled(syscall.SIGTERM)
	}()
	kind, detail = k.await(ended, silent(), buttons)
	require.Equal(t, vm.EndPoweredOff, kind)
	require.Contains(t, detail, "before it listened")
}

// A job runs in an agent of this process: on the disk, with the input.
func TestAnAgentGivesAJobItsDiskAndInputs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := create(t, testDriver(t, Config{}))
	in := pack(t, "the input\n")
	require.NoError(t, m.Insert(ctx, 1, in))
	host, guest := net.Pipe()
	conf := agentConfig{Secret: "right", Incarnation: "i", JobDisks: []int64{1 << 20, 4096}, Inputs: 2, Cache: filepath.Join(m.d.Root(), cacheFolder), CacheBytes: 1 << 20}
	code := make(chan int, 1)
	go func() {
		n, err := conf.serve(ctx, m.dir(), guest, io.Discard)
		assert.NoError(t, err)
		code <- n
	}()
	c := vm.NewChannel(host, vm.ChannelConfig{Machine: m.ID(), Incarnation: "i", Secret: "right"})
	_, err := c.Ready(ctx)
	require.NoError(t, err)
	d, err := m.JobDisk(ctx, 0)
	require.NoError(t, err)
	defer d.Close()
	job := diskio.Job{Steps: diskio.Commands(`cat "$BULLPEN_IN/app/sub/file"`), Inputs: []diskio.Input{{Name: "app", Image: in}}}
	ticket, err := diskio.WriteJob(ctx, d, d.Size(), []diskio.Part{{ID: "task", Job: job}}, nil)
	require.NoError(t, err)
	for _, disk := range []int{7, 0} { // one that is not there, then the right one
		s, err := c.Open(0)
		require.NoError(t, err)
		word := diskio.Go{Disk: disk, Nonce: ticket.Nonce, Inputs: []diskio.GoInput{{Name: "app", Place: 1, Digest: in.Digest(), Size: in.Size()}}}
		require.NoError(t, s.Send(ctx, uint8(wire.KindGo), word.Encode()))
		for {
			kind, body, err := s.Recv(ctx)
			if disk == 7 {
				if err != nil || kind == uint8(wire.KindFault) || kind == uint8(wire.KindDone) {
					break
				}
				continue
			}
			require.NoError(t, err, "%s", body)
			if kind == uint8(wire.KindDone) {
				break
			}
		}
		require.NoError(t, s.Close())
	}
	results, err := diskio.ReadResults(ctx, d, d.Size(), ticket, nil)
	require.NoError(t, err)
	require.True(t, results.Complete)
	require.Equal(t, "the input\n", string(results.Parts[0].Steps[0].Stdout), "%s", results.Parts[0].Steps[0].Stderr)
	require.NoError(t, c.Close())
	require.Equal(t, exitChannel, <-code)
}

func TestAKeepersLastActIsToSayTheEndWhenNobodyIsLeft(t *testing.T) {
	t.Parallel()
	m := create(t, testDriver(t, Config{}))
	s := startMarked(t, daemons["setsid"]+`; exec sleep 600 >/dev/null`, false)
	far := identify(t, s.pid)
	drained := make(chan struct{})
	close(drained)
	k := &keeper{dir: m.dir(), conf: keeperConfig{Boot: "b", Mark: s.mark, KillTimeout: time.Minute}, drained: drained}
	k.run.Keeper = identify(t, s.cmd.Process.Pid)
	require.NoError(t, k.end(vm.EndPoweredOff, "as asked"))
	mustDie(t, far)
	end, err := m.readEnd("b")
	require.NoError(t, err)
	require.Equal(t, vm.EndPoweredOff, end.Kind)
	require.Equal(t, "as asked", end.Detail)
	alive, err := k.run.Keeper.alive()
	require.NoError(t, err)
	require.True(t, alive, "it does not end itself")
	k.dir = filepath.Join(m.dir(), "destroyed")
	require.NoError(t, k.end(vm.EndPoweredOff, "nobody is left to be told"))
}
