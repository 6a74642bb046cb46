//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

// overSSH starts an sshd of its own on the loopback interface and a storage pool,
// and gives the URI at which the daemon is reached through both.
func (d *daemon) overSSH() string {
	t := d.t
	t.Helper()
	sshd := need.Tool(t, "sshd")
	ssh := need.Tool(t, "ssh")
	nsenter := need.Tool(t, "nsenter")
	need.Tool(t, "virt-ssh-helper")
	dir := filepath.Join(d.dir, "ssh")
	require.NoError(t, os.Mkdir(dir, 0o700))
	for _, name := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	conf := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nMaxStartups 100\n", port, dir, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600))
	out, err := os.Create(filepath.Join(dir, "out"))
	require.NoError(t, err)
	defer out.Close()
	// Who comes in sees what the daemon sees: its socket is at the usual place.
	require.NoError(t, os.Symlink(filepath.Join(d.dir, "sock", "libvirt-sock"), filepath.Join(d.dir, "run", "libvirt-sock")))
	cmd := exec.Command(nsenter, "-t", strconv.Itoa(d.cmd.Process.Pid), "-m", sshd, "-D", "-e", "-f", filepath.Join(dir, "conf"))
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		return err == nil && c.Close() == nil
	}, 10*time.Second, 20*time.Millisecond)

	c, err := newBareConnection(d.uri())
	require.NoError(t, err)
	defer c.Close()
	pool := filepath.Join(d.dir, "pool")
	require.NoError(t, os.Mkdir(pool, 0o700))
	p, err := c.(*connection).raw.StoragePoolCreateXML("<pool type='dir'><name>"+DefaultPool+"</name><target><path>"+pool+"</path></target></pool>", 0)
	require.NoError(t, err, d.log())
	require.NoError(t, p.Free())
	// Nothing of this user's own configuration is read or changed.
	client := filepath.Join(dir, "client")
	require.NoError(t, os.WriteFile(client, fmt.Appendf(nil, "#!/bin/sh\nexec %s -F none -i %s/user -o UserKnownHostsFile=%s/known -o StrictHostKeyChecking=no -o BatchMode=yes \"$@\"\n", ssh, dir, dir), 0o700))
	q := url.Values{"command": {client}, "no_tty": {"1"}, "proxy": {"native"}}
	return "qemu+ssh://root@" + address + "/system?" + q.Encode()
}

// The same suite as of this computer's hypervisors: channels and disks go over
// the connection. It is long, so it is for soaks; the tests below are not.
func TestSoakConformanceOfADaemonBehindSSH(t *testing.T) {
	if need.Soak(t, 0, 1) == 0 {
		t.Skip("the whole suite over ssh is run where BULLPEN_SOAK is set")
	}
	if !alone(t) {
		return
	}
	d, g := newDaemon(t)
	c := d.conf()
	c.URI = d.overSSH()
	vmtest.Run(t, whole{bare: bare{t, c}, guest: g})
	left, err := os.ReadDir(filepath.Join(d.dir, "pool"))
	require.NoError(t, err)
	for _, e := range left {
		assert.True(t, strings.HasPrefix(e.Name(), inputPrefix), "%s, of a machine that is gone", e.Name())
	}
}

// counting counts what is sent and fetched.
type counting struct {
	conn
	sent, fetched, calls *int64
}

func (c counting) Upload(pool, name string, off int64, b []byte) error {
	*c.sent += int64(len(b))
	*c.calls++
	return c.conn.Upload(pool, name, off, b)
}

func (c counting) Download(pool, name string, off int64, b []byte) error {
	*c.fetched += int64(len(b))
	*c.calls++
	return c.conn.Download(pool, name, off, b)
}

func TestAJobOnAnotherComputerGetsItsInputOnceAndItsResultsAreFetched(t *testing.T) {
	if !alone(t) {
		return
	}
	daemon, g := newDaemon(t)
	c := daemon.conf()
	c.URI = daemon.overSSH()
	var sent, fetched, calls int64
	d, err := open(t.Context(), c, func(ctx context.Context, uri string, sink func(event), closed func(string)) (conn, error) {
		c, err := newConnectionFor(ctx, uri, sink, closed)
		if err != nil {
			return nil, err
		}
		return counting{c, &sent, &fetched, &calls}, nil
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	s := guestSpec(g)
	s.OnExit = vm.Survive
	m := boot(t, d, s)
	words := make([]byte, 1<<20)
	for i := range words {
		words[i] = byte('a' + i%26)
	}
	pack := func(b []byte) *diskio.Image {
		in, err := diskio.Pack(t.Context(), t.TempDir()+"/in.img", diskio.Tree{Files: []diskio.File{{Path: "words", Data: b}}}, nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = in.Close() })
		return in
	}
	image := pack(words)
	other := boot(t, d, guestSpec(g))
	for round, m := range []vm.Machine{m, m, other} {
		before := sent
		results := runJob(t, m, []diskio.Input{{Name: "in", Image: image}}, "wc -c <$BULLPEN_IN/in/words", "cat /proc/sys/kernel/hostname")
		steps := results.Parts[0].Steps
		require.Equal(t, "1048576\n", string(steps[0].Stdout), "stderr %s", steps[0].Stderr)
		require.Equal(t, string(m.ID())+"\n", string(steps[1].Stdout))
		if round > 0 {
			assert.Less(t, sent-before, int64(len(words)), "the input was uploaded again")
		} else {
			assert.GreaterOrEqual(t, sent-before, int64(len(words)))
		}
	}
	t.Logf("3 jobs on 2 machines and an input of %d bytes: %d bytes sent, %d fetched, in %d calls", image.Size(), sent, fetched, calls)
	// Another one in its place, and the first again in one that has none.
	small := pack([]byte("few\n"))
	results := runJob(t, m, []diskio.Input{{Name: "in", Image: small}}, "cat $BULLPEN_IN/in/words")
	assert.Equal(t, "few\n", string(results.Parts[0].Steps[0].Stdout))
	require.NoError(t, m.(*machine).Eject(t.Context(), 0))
	before := sent
	began := time.Now()
	require.NoError(t, m.(*machine).Insert(t.Context(), 0, image))
	t.Logf("an input that is there is plugged in within %v", time.Since(began).Round(time.Millisecond))
	assert.Equal(t, int64(1), sent-before, "the byte that says that it was used")
	results = runJob(t, m, []diskio.Input{{Name: "in", Image: image}}, "wc -c <$BULLPEN_IN/in/words")
	assert.Equal(t, "1048576\n", string(results.Parts[0].Steps[0].Stdout))
	stock, err := d.Stock(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{image.Digest(), small.Digest()}, stock)
	require.NoError(t, other.Destroy(t.Context()))
	left, err := os.ReadDir(filepath.Join(daemon.dir, "pool"))
	require.NoError(t, err)
	for _, e := range left {
		assert.NotContains(t, e.Name(), string(other.ID()))
	}
	// A machine that was off has its inputs in its next run.
	require.NoError(t, m.Kill(t.Context()))
	require.NoError(t, m.(*machine).Eject(t.Context(), 0))
	require.NoError(t, m.(*machine).Insert(t.Context(), 0, small))
	require.NoError(t, m.Start(t.Context()))
	results = runJob(t, m, []diskio.Input{{Name: "in", Image: small}}, "cat $BULLPEN_IN/in/words")
	assert.Equal(t, "few\n", string(results.Parts[0].Steps[0].Stdout))
	require.NoError(t, m.(*machine).Eject(t.Context(), 0))

	runJob(t, m, nil, "echo said to the console >/dev/console")
	console, err := m.(*machine).Console(t.Context(), 1<<20)
	require.NoError(t, err)
	assert.Contains(t, string(console), "said to the console")

	// The connection goes with its ssh, and so does the channel over it; machines
	// and their next channel do not.
	ch, err := m.(*machine).Channel(t.Context())
	require.NoError(t, err)
	d.line.lost(1, lostError())
	select {
	case <-ch.Done():
	case <-t.Context().Done():
	}
	results = runJob(t, m, nil, "echo again")
	assert.Equal(t, "again\n", string(results.Parts[0].Steps[0].Stdout))

	// Nothing of a channel that was closed is kept for libvirt's events.
	listening := func() int {
		events.streams.mu.Lock()
		defer events.streams.mu.Unlock()
		return len(events.streams.all)
	}
	assert.Equal(t, 1, listening(), "the one channel that is open")
	require.NoError(t, m.Destroy(t.Context()))
	assert.Zero(t, listening())
}

func TestAMachineOnAnotherComputerIsRevertedInPlace(t *testing.T) {
	if !alone(t) {
		return
	}
	daemon, g := newDaemon(t)
	c := daemon.conf()
	c.URI = daemon.overSSH()
	c.MachineType = "q35" // whose bus takes no device without a port
	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	s := guestSpec(g)
	m := boot(t, d, s)
	require.NoError(t, m.(*machine).Snapshot(t.Context(), "booted"))
	in, err := diskio.Pack(t.Context(), t.TempDir()+"/in.img", diskio.Tree{Files: []diskio.File{{Path: "words", Data: []byte("few\n")}}}, nil)
	require.NoError(t, err)
	defer in.Close()
	seen := map[string]bool{}
	for range 3 {
		steps := runJob(t, m, []diskio.Input{{Name: "in", Image: in}}, "ls /stain; cat $BULLPEN_IN/in/words; echo >/stain", "cat /proc/sys/kernel/random/uuid").Parts[0].Steps
		assert.Equal(t, "few\n", string(steps[0].Stdout), "what ran before is forgotten, and inputs are plugged in anew")
		assert.False(t, seen[string(steps[1].Stdout)], "a random number came again")
		seen[string(steps[1].Stdout)] = true
		r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Parent: "none", Snapshot: "booted"})
		require.NoError(t, err)
		require.Equal(t, vm.RungRevert, r.Rung, "%v", r.Skipped)
		t.Logf("reverted and proven clean in %v", r.Cost.Round(time.Millisecond))
	}
	require.NoError(t, m.Destroy(t.Context()))
	left, err := os.ReadDir(filepath.Join(daemon.dir, "pool"))
	require.NoError(t, err)
	for _, e := range left {
		assert.True(t, strings.HasPrefix(e.Name(), inputPrefix), e.Name())
	}
}
