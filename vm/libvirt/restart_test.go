//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// FIELD (c) 32: a connection that libvirtd dropped never works again.
func TestMachinesOutliveARestartOfLibvirtdInTheMiddleOfAJob(t *testing.T) {
	if !alone(t) {
		return
	}
	d, g := newDaemon(t)
	driver, err := Open(t.Context(), d.conf())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, driver.Close()) })
	m := boot(t, driver, guestSpec(g))
	ch, err := m.(*machine).Channel(t.Context())
	require.NoError(t, err)
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		d.kill()
		d.start()
	}()
	end, err := launch(t, m, jobTime, "sleep 3")
	<-restarted
	require.NoError(t, err)
	require.Equal(t, vm.EndDone, end.Kind, "%+v", end)
	// The same connection to the guest, another one to libvirtd.
	again, err := m.(*machine).Channel(t.Context())
	require.NoError(t, err)
	assert.Same(t, ch, again)
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateRunning, info.State)
	require.NoError(t, m.Kill(t.Context()))
	end, err = m.(*machine).Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndKilled, end.Kind)
	d.kill()
	d.start()
	end, err = m.(*machine).Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndKilled, end.Kind, "the end is known although the daemon has forgotten it")
}

func TestCallsAnswerHostLostWhileLibvirtdIsAway(t *testing.T) {
	if !alone(t) {
		return
	}
	d, g := newDaemon(t)
	conf := d.conf()
	conf.Reconnect = time.Second
	driver, err := Open(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, driver.Close()) })
	m := boot(t, driver, guestSpec(g))
	d.kill()
	_, err = driver.List(t.Context())
	require.ErrorIs(t, err, vm.ErrHostLost)
	_, err = driver.Create(t.Context(), guestSpec(g))
	require.ErrorIs(t, err, vm.ErrHostLost)
	d.start()
	all, err := driver.List(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, 1)
	require.NoError(t, m.Destroy(t.Context()))
	assert.Empty(t, d.guests())
}

// Harness processes for the tests that kill them: see harness.
const harnessRole = "BULLPEN_TEST_HARNESS"

// harness is a process that makes machines until it is killed.
func harness() {
	part := strings.Split(os.Getenv(harnessRole), "\n")
	g := initramfs.Guest{Kernel: part[2], Initrd: part[3], Cmdline: part[4]}
	ctx := context.Background()
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	d, err := Open(ctx, Config{URI: part[0], Root: part[1], ForceTCG: true})
	if err != nil {
		fail(err)
	}
	fmt.Println("open")
	for {
		m, err := d.Create(ctx, guestSpec(g))
		if err != nil {
			fail(err)
		}
		fmt.Println("created")
		if err := m.Start(ctx); err != nil {
			fail(err)
		}
		fmt.Println("started")
		time.Sleep(100 * time.Millisecond)
		if err := m.Destroy(ctx); err != nil {
			fail(err)
		}
		fmt.Println("destroyed")
	}
}

// killHarness runs a harness and kills it a while after it said a word.
func killHarness(t *testing.T, uri, root string, g initramfs.Guest, word string, after time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), harnessRole+"="+strings.Join([]string{uri, root, g.Kernel, g.Initrd, g.Cmdline}, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	seen := false
	for lines.Scan() {
		require.NotContains(t, lines.Text(), "failed:")
		if seen = lines.Text() == word; seen {
			break
		}
	}
	require.True(t, seen, "the harness ended before it said %q", word)
	time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
}

// nothingLeft destroys what the next harness finds, as a pool's reconcile would,
// and sees that there is nothing then.
func nothingLeft(t *testing.T, d *Driver) {
	t.Helper()
	all, err := d.List(t.Context())
	require.NoError(t, err)
	for _, i := range all {
		require.Equal(t, "test", i.Owner.Pool, "%+v", i)
		m, err := d.Open(t.Context(), i.ID)
		require.NoError(t, err)
		require.NoError(t, m.Destroy(t.Context()))
	}
	all, err = d.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	require.Empty(t, processesWith(t, d.Root()))
	var files []string
	require.NoError(t, filepath.WalkDir(d.Root(), func(path string, e os.DirEntry, err error) error {
		if err == nil && path != d.Root() && filepath.Base(path) != verdictFile && filepath.Base(path) != socketFolder && filepath.Base(path) != parentFolder {
			files = append(files, path)
		}
		return err
	}))
	require.Empty(t, files)
}

// moments are when a harness is killed: after each word in turn, and some random
// time after it, which the test's log has.
func moments(t *testing.T, n int) (all []struct {
	word  string
	after time.Duration
}) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	words := []string{"open", "created", "started", "destroyed"}
	for i := range n {
		all = append(all, struct {
			word  string
			after time.Duration
		}{words[i%4], time.Duration(r.Int64N(int64(400 * time.Millisecond)))})
	}
	return all
}

func TestSoakNothingIsLeftOfAKilledHarnessOnTheSystem(t *testing.T) {
	if !alone(t) {
		return
	}
	d, g := newDaemon(t)
	for i, k := range moments(t, need.Soak(t, 4, 50)) {
		killHarness(t, d.uri(), d.conf().Root, g, k.word, k.after)
		driver, err := Open(t.Context(), d.conf())
		require.NoError(t, err, "round %d", i)
		nothingLeft(t, driver)
		require.NoError(t, driver.Close())
	}
}
