package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestHelloIsSaidUntilItIsAnswered(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	var hellos []wire.Hello
	for range 3 {
		var hello wire.Hello
		h.next(0, wire.KindHello, &hello)
		hellos = append(hellos, hello)
	}
	require.Equal(t, hellos[0], hellos[2])
	require.Equal(t, wire.Version, hellos[0].Version)
	require.Len(t, hellos[0].Boot, 32)
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"true"}})
	f := h.any(1)
	require.Equal(t, wire.KindFault, f.Kind, "nothing is done for a host that has not said welcome")
	require.False(t, exists(t, h.c.Mark))
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"true"}})
	h.next(1, wire.KindExit, nil)
}

func TestAWelcomeSetsTheMachineUpBeforeItIsReady(t *testing.T) {
	t.Parallel()
	var did []string
	clock := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	h := start(t, func(c *Config) {
		c.Reseed = func(b []byte) error { did = append(did, fmt.Sprint("entropy ", len(b))); return nil }
		c.SetClock = func(now time.Time) error { did = append(did, fmt.Sprint("clock ", now.Equal(clock))); return nil }
		c.SetHostName = func(n string) error { did = append(did, n); return nil }
		c.SetMachineID = func(id string) error { did = append(did, id); return nil }
		c.Details = map[string]string{"kernel": "x"}
	})
	ready := h.welcome(wire.Welcome{Entropy: make([]byte, 64), Clock: clock, HostName: "vm-1", MachineID: "abc"})
	require.Equal(t, []string{"entropy 64", "clock true", "vm-1", "abc"}, did)
	require.Empty(t, ready.Dirty)
	require.Equal(t, "x", ready.Details["kernel"])
}

func TestAMachineThatCannotBeSetUpIsNotClean(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *Config) {
		c.SetClock = func(time.Time) error { return errors.New("no clock") }
	})
	ready := h.welcome(wire.Welcome{Clock: time.Now()})
	require.Contains(t, ready.Dirty, "no clock")
}

func TestTheMarkSaysThatARollbackDidNotHappen(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "mark")
	first := start(t, func(c *Config) { c.Mark = mark })
	require.Empty(t, first.welcome(wire.Welcome{}).Dirty)
	require.False(t, exists(t, mark), "ready is not dirty")
	first.send(1, wire.KindExec, wire.Exec{Argv: []string{"test", "-s", mark}})
	var exit wire.Exit
	first.next(1, wire.KindExit, &exit)
	require.Zero(t, exit.Code, "the mark is down before the first command runs")
	first.send(0, wire.KindPowerOff, []byte{})
	require.NoError(t, <-first.ended)
	first.ended <- nil

	second := start(t, func(c *Config) { c.Mark = mark })
	require.Contains(t, second.welcome(wire.Welcome{}).Dirty, "used since")

	require.NoError(t, os.WriteFile(mark, nil, 0o644))
	third := start(t, func(c *Config) { c.Mark = mark })
	require.NotEmpty(t, third.welcome(wire.Welcome{}).Dirty, "an empty mark is a mark")

	fourth := start(t, func(c *Config) { c.Mark = t.TempDir() })
	require.Contains(t, fourth.welcome(wire.Welcome{}).Dirty, "cannot be read")
}

func TestNothingRunsWhereTheMarkCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *Config) { c.Mark = filepath.Join(c.WorkDir, "absent", "mark") })
	require.Empty(t, h.welcome(wire.Welcome{}).Dirty)
	touched := filepath.Join(h.dir, "touched")
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"touch", touched}})
	f := h.any(1)
	require.Equal(t, wire.KindFault, f.Kind)
	require.Contains(t, string(f.Body), "marked")
	require.False(t, exists(t, touched))
}

func TestPingIsAnsweredWithTheSameBytesAlsoUnderLoad(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"cat", "/dev/zero"}})
	h.next(1, wire.KindStdout, nil)
	h.send(0, wire.KindPing, []byte("12345"))
	require.Equal(t, "12345", string(h.next(0, wire.KindPong, nil).Body))
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	var exit wire.Exit
	h.next(1, wire.KindExit, &exit)
	require.Equal(t, "SIGKILL", exit.Signal)
}

func TestACommandGetsItsInputAndItsOutputComesWhole(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "cat; echo $A $PWD >&2; exit 3"}, Env: []string{"A=b"}, Dir: h.dir, Stdin: true})
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: four windows
	// A host that holds to the windows in both directions.
	credit, sent := int64(wire.InitialWindow), 0
	var out, errOut []byte
	for eof := false; ; {
		for credit > 0 && sent < len(want) {
			n := int(min(credit, int64(len(want)-sent), wire.MaxBody))
			h.send(1, wire.KindStdin, want[sent:sent+n])
			sent, credit = sent+n, credit-int64(n)
		}
		if sent == len(want) && !eof {
			eof = true
			h.send(1, wire.KindStdin, []byte{})
		}
		f := h.any(1)
		switch f.Kind {
		case wire.KindWindow:
			var w wire.Window
			require.NoError(t, wire.Decode(f.Kind, f.Body, &w))
			credit += w.Bytes
			continue
		case wire.KindStdout:
			out = append(out, f.Body...)
			h.send(1, wire.KindWindow, wire.Window{Bytes: int64(len(f.Body))})
			continue
		case wire.KindStderr:
			errOut = append(errOut, f.Body...)
			continue
		}
		var exit wire.Exit
		require.Equal(t, wire.KindExit, f.Kind, string(f.Body))
		require.NoError(t, wire.Decode(f.Kind, f.Body, &exit))
		require.Equal(t, wire.Exit{Code: 3}, exit)
		break
	}
	require.True(t, bytes.Equal(want, out))
	require.Equal(t, "b "+h.dir+"\n", string(errOut))
}

func TestACommandNeverSendsMoreThanItsWindow(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "cat /dev/zero & cat /dev/zero >&2"}})
	got := 0
	for got < wire.InitialWindow {
		got += len(h.any(1).Body)
	}
	require.Equal(t, wire.InitialWindow, got)
	// It waits now; other streams do not.
	require.Equal(t, "x", string(h.run(2, commands("a", "printf x")).Parts[0].Steps[0].Stdout))
	require.Empty(t, h.queue(1))
	h.send(1, wire.KindWindow, wire.Window{Bytes: 1000})
	for got < wire.InitialWindow+1000 {
		got += len(h.any(1).Body)
	}
	require.Equal(t, wire.InitialWindow+1000, got)
	h.send(1, wire.KindCancel, wire.Cancel{})
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	h.next(1, wire.KindExit, nil) // although nobody takes the rest
}

func TestAHostThatSendsBeyondItsWindowEndsItsCommandOnly(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"sleep", "1000"}, Stdin: true})
	for range 2 + wire.InitialWindow/wire.MaxBody + 1 { // the pipe takes one
		h.send(1, wire.KindStdin, make([]byte, wire.MaxBody))
	}
	h.next(1, wire.KindExit, nil)
	h.send(2, wire.KindExec, wire.Exec{Argv: []string{"true"}})
	h.next(2, wire.KindExit, nil)
}

func TestACommandThatCannotBeStartedSaysWhy(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"no-such-program"}})
	var exit wire.Exit
	h.next(1, wire.KindExit, &exit)
	require.Equal(t, -1, exit.Code)
	require.Contains(t, exit.Error, "no-such-program")
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "kill -TERM $$"}})
	exit = wire.Exit{}
	h.next(1, wire.KindExit, &exit)
	require.Equal(t, wire.Exit{Code: -1, Signal: "SIGTERM"}, exit)
	h.send(1, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "sleep 1000 & echo up"}, Stdin: true})
	h.next(1, wire.KindExit, nil) // its background and its open input hold nothing up
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		data := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(data)), ""
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(data))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// putTar sends an archive and gives the guest's word.
func (h *host) putTar(stream uint32, c wire.Copy, b []byte) wire.Copied {
	h.t.Helper()
	h.send(stream, wire.KindPut, c)
	for len(b) > 0 {
		n := min(len(b), wire.MaxBody)
		h.send(stream, wire.KindData, b[:n])
		b = b[n:]
	}
	h.send(stream, wire.KindData, []byte{})
	var done wire.Copied
	h.next(stream, wire.KindCopied, &done)
	return done
}

func TestCopiesGoInAndOutAsTar(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	// In these headers the link's name is the content of files.
	done := h.putTar(1, wire.Copy{Path: "/some/where"}, tarOf(t,
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555, ModTime: when},
		tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o640, Linkname: "content", ModTime: when},
		tar.Header{Name: "./new/g", Typeflag: tar.TypeReg, Mode: 0o755, Linkname: "more", ModTime: when},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/f"}))
	require.Equal(t, wire.Copied{Files: 3, Bytes: 11}, done)
	b, err := os.ReadFile(filepath.Join(root, "some/where/l"))
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
	for name, mode := range map[string]os.FileMode{"d": os.ModeDir | 0o555, "d/f": 0o640, "new/g": 0o755} {
		info, err := os.Stat(filepath.Join(root, "some/where", name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
		require.True(t, info.ModTime().Equal(when), name)
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "some/where/d"), 0o755))

	get := func(c wire.Copy) (map[string]string, wire.Copied) {
		h.send(2, wire.KindGet, c)
		var archive []byte
		for {
			f := h.any(2)
			if f.Kind == wire.KindData {
				archive = append(archive, f.Body...)
				continue
			}
			var done wire.Copied
			require.Equal(t, wire.KindCopied, f.Kind, string(f.Body))
			require.NoError(t, wire.Decode(f.Kind, f.Body, &done))
			got := map[string]string{}
			for r := tar.NewReader(bytes.NewReader(archive)); ; {
				e, err := r.Next()
				if err != nil {
					break
				}
				b, err := io.ReadAll(r)
				require.NoError(t, err)
				got[e.Name] = string(b) + e.Linkname
			}
			return got, done
		}
	}
	got, copied := get(wire.Copy{Path: "some/where"})
	require.Equal(t, map[string]string{"d/": "", "d/f": "content", "new/": "", "new/g": "more", "l": "d/f"}, got)
	require.Equal(t, wire.Copied{Files: 3, Bytes: 11}, copied)
	got, _ = get(wire.Copy{Path: "some/where/d/f"})
	require.Equal(t, map[string]string{"f": "content"}, got)
	got, _ = get(wire.Copy{Path: "some/where/l"})
	require.Equal(t, map[string]string{"l": "content"}, got, "a link that was asked for by name is followed")
	_, copied = get(wire.Copy{Path: "absent"})
	require.NotEmpty(t, copied.Error)
	_, copied = get(wire.Copy{Path: "some/where", MaxBytes: 10})
	require.Contains(t, copied.Error, "at most 10")
}

func TestCopiesStayInsideTheirFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	require.NoError(t, os.Mkdir(root, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644))
	require.NoError(t, os.Symlink("..", filepath.Join(root, "up")))
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	file := func(name string) []byte {
		return tarOf(t, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Linkname: "x"})
	}
	for name, c := range map[string]struct {
		path string
		tar  []byte
	}{
		"parent":         {"d", file("../../evil")},
		"absolute":       {"d", file(filepath.Join(outside, "evil"))},
		"through a link": {"up", file("evil")},
		"a link and then through it": {"d", tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside},
			tar.Header{Name: "l/evil", Typeflag: tar.TypeReg, Linkname: "x"})},
		"device":    {"d", tarOf(t, tar.Header{Name: "evil", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})},
		"hard link": {"d", tarOf(t, tar.Header{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../secret"})},
		"no tar":    {"d", []byte(strings.Repeat("evil", 1000))},
	} {
		done := h.putTar(1, wire.Copy{Path: c.path}, c.tar)
		require.NotEmpty(t, done.Error, name)
		require.False(t, exists(t, filepath.Join(outside, "evil")), name)
		require.False(t, exists(t, filepath.Join(root, "d", "evil")), name)
	}
	done := h.putTar(1, wire.Copy{Path: "../../d"}, file("fine"))
	require.Empty(t, done.Error, "a path of the host's is below the root whatever it says")
	require.True(t, exists(t, filepath.Join(root, "d", "fine")))
	done = h.putTar(1, wire.Copy{Path: "d", MaxBytes: 3}, tarOf(t, tar.Header{Name: "big", Typeflag: tar.TypeReg, Linkname: "four"}))
	require.Contains(t, done.Error, "at most 3")
	h.send(2, wire.KindGet, wire.Copy{Path: "up/secret"})
	var copied wire.Copied
	h.next(2, wire.KindCopied, &copied)
	require.NotEmpty(t, copied.Error)
}

func TestACancelledCopyEnds(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "big"), make([]byte, 4*wire.InitialWindow), 0o644))
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindPut, wire.Copy{Path: "d"})
	h.send(1, wire.KindData, make([]byte, 100))
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	var done wire.Copied
	h.next(1, wire.KindCopied, &done)
	require.Contains(t, done.Error, "cancelled")
	h.send(2, wire.KindGet, wire.Copy{Path: "big"}) // nobody grants more
	h.next(2, wire.KindData, nil)
	h.send(2, wire.KindCancel, wire.Cancel{Kill: true})
	h.next(2, wire.KindCopied, &done)
	require.Contains(t, done.Error, "cancelled")
}

func TestWithoutARootCopiesReachTheWholeMachine(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	dir := t.TempDir()
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "absolute")))
	done := h.putTar(1, wire.Copy{Path: filepath.Join(dir, "absolute", "x")}, tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o600, Linkname: "x"}))
	require.Empty(t, done.Error)
	require.True(t, exists(t, filepath.Join(dir, "x", "f")))
}

func TestTheAgentEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(h *host)
		want error
		off  bool
	}{
		"power off": {func(h *host) { h.welcome(wire.Welcome{}); h.send(0, wire.KindPowerOff, []byte{}) }, nil, true},
		"refused": {func(h *host) {
			h.next(0, wire.KindHello, nil)
			h.send(0, wire.KindRefused, wire.Fault{Error: "who are you"})
		}, ErrRefused, true},
		"channel": {func(h *host) { h.welcome(wire.Welcome{}); h.conn.Close() }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			off := false
			h := start(t, func(cfg *Config) { cfg.PowerOff = func() { off = true } })
			c.end(h)
			err := <-h.ended
			h.ended <- err
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.off, off)
		})
	}
}

func TestWhatRunsIsKilledWhenTheAgentEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *host){
		"power off": func(h *host) { h.send(0, wire.KindPowerOff, []byte{}) },
		"channel":   func(h *host) { h.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, nil)
			h.welcome(wire.Welcome{})
			pids := filepath.Join(h.dir, "pids")
			ticket := h.put(1, 0, commands("a", "sh -c 'trap \"\" INT TERM; echo $$ >>"+pids+"; while :; do sleep 1; done' & setsid sh -c 'echo $$ >>"+pids+"; exec sleep 1000' & while [ $(wc -l <"+pids+") -lt 2 ]; do sleep 0.01; done; echo up; wait"))
			h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
			for {
				p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
				require.NoError(t, err)
				if p.What == "output" {
					break
				}
			}
			h.send(2, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "echo $$ >>" + pids + "; echo up; exec sleep 1000"}})
			h.next(2, wire.KindStdout, nil)
			end(h)
			h.ended <- <-h.ended
			got := readPids(t, pids)
			require.Len(t, got, 3)
			for _, pid := range got {
				requireDead(t, pid)
			}
			res := h.results(1, ticket)
			require.False(t, res.Complete)
			require.NotEmpty(t, res.Fault)
		})
	}
}

func TestAConfigurationThatIsWrongIsRefusedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	disks := func(int) (Disk, error) { return nil, nil }
	ok := Config{Conn: theirs, Disks: disks, WorkDir: "/work"}
	for says, change := range map[string]func(*Config){
		"guest: Config.Conn and Dial":                      func(c *Config) { c.Conn = nil },
		"guest: Config.Disks is nil":                       func(c *Config) { c.Disks = nil },
		`guest: Config.WorkDir is "work", want`:            func(c *Config) { c.WorkDir = "work" },
		`guest: Config.InDir is "in", want`:                func(c *Config) { c.InDir = "in" },
		`guest: Config.Root is "root", want`:               func(c *Config) { c.Root = "root" },
		"guest: Config.Grace is -1s, want 0":               func(c *Config) { c.Grace = -time.Second },
		"guest: Config.HelloInterval is -1ns, want 0":      func(c *Config) { c.HelloInterval = -1 },
		"guest: Config.Conn and Dial: exactly one must be": func(c *Config) { c.Dial = func(context.Context) (io.ReadWriteCloser, error) { return nil, nil } },
	} {
		c := ok
		change(&c)
		_, err := New(c)
		require.ErrorContains(t, err, says)
	}
	a, err := New(ok)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	require.ErrorContains(t, a.Run(ctx), "enough")
	require.ErrorContains(t, a.Run(ctx), "before")
}

func TestTheDeadMansSwitchEndsAGuestWhoseHostIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		off := 0
		a, err := New(Config{Conn: theirs, Disks: func(int) (Disk, error) { return nil, errors.New("none") }, WorkDir: "/nowhere",
			HelloInterval: time.Second, PowerOff: func() { off++ }})
		require.NoError(t, err)
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- a.Run(t.Context()) }()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, ours) })
		send := func(k wire.Kind, v []byte) {
			b, err := wire.Append(nil, wire.Frame{Kind: k, Body: v})
			require.NoError(t, err)
			_, err = ours.Write(b)
			require.NoError(t, err)
		}
		time.Sleep(24 * time.Hour) // no host yet: it waits for ever
		send(wire.KindWelcome, wire.Encode(wire.Welcome{Version: 1, Keepalive: time.Hour}))
		for range 5 {
			time.Sleep(time.Hour - time.Nanosecond)
			send(wire.KindPing, nil)
		}
		synctest.Wait()
		require.Empty(t, ended)
		err = <-ended
		require.ErrorIs(t, err, ErrKeepalive)
		require.Equal(t, 24*time.Hour+6*time.Hour-5*time.Nanosecond, time.Since(began))
		require.Equal(t, 1, off)
		ours.Close()
		wg.Wait()
	})
}

func TestAJobOutlivesItsChannelWhereTheAgentCanDialAgain(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn, 2)
	fail := true
	h := start(t, func(c *Config) {
		c.Conn.Close()
		c.Conn = nil
		c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			if fail {
				fail = false
				return nil, errors.New("not there yet")
			}
			ours, theirs := net.Pipe()
			select {
			case conns <- ours:
				return theirs, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
	serve := func() chan struct{} {
		conn := <-conns
		h.conn = conn
		done := make(chan struct{})
		go func() { defer close(done); h.read(conn) }()
		return done
	}
	read := serve()
	h.welcome(wire.Welcome{Incarnation: "inc-1"})
	fifo := filepath.Join(h.dir, "fifo")
	require.NoError(t, os.WriteFile(fifo, nil, 0o644))
	ticket := h.put(1, 0, commands("a", "echo up; while [ ! -s "+fifo+" ]; do sleep 0.01; done; echo down"))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	h.next(1, wire.KindMessage, nil)
	h.send(2, wire.KindExec, wire.Exec{Argv: []string{"sh", "-c", "echo $$; exec sleep 1000"}})
	pid := strings.TrimSpace(string(h.next(2, wire.KindStdout, nil).Body))
	h.conn.Close()
	<-read

	h.mu.Lock()
	h.queues = map[uint32]chan wire.Frame{}
	h.mu.Unlock()
	read = serve()
	ready := h.welcome(wire.Welcome{})
	require.Equal(t, 2, ready.Jobs)
	require.NotEmpty(t, ready.Dirty)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "pid"), []byte(pid), 0o644))
	requireDead(t, readPids(t, filepath.Join(h.dir, "pid"))[0]) // a command's channel was all it had
	require.NoError(t, os.WriteFile(fifo, []byte("x"), 0o644))
	require.Eventually(t, func() bool { return h.results(1, ticket).Complete }, patience, 5*time.Millisecond)
	require.Equal(t, "up\ndown\n", string(h.results(1, ticket).Parts[0].Steps[0].Stdout))
	h.send(0, wire.KindPowerOff, []byte{})
	require.NoError(t, <-h.ended)
	h.ended <- nil
	h.conn.Close()
	<-read
}

func TestAGuestOutOfASavedStateLearnsItsIncarnation(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn, 2)
	h := start(t, func(c *Config) {
		c.Conn.Close()
		c.Conn = nil
		c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			ours, theirs := net.Pipe()
			select {
			case conns <- ours:
				return theirs, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
	for i, want := range []string{"inc-1", "inc-2"} {
		conn := <-conns
		h.conn = conn
		read := make(chan struct{})
		go func() { defer close(read); h.read(conn) }()
		var hello wire.Hello
		h.next(0, wire.KindHello, &hello)
		require.Equal(t, want, hello.Incarnation)
		h.send(0, wire.KindWelcome, wire.Welcome{Incarnation: "inc-2"})
		h.next(0, wire.KindReady, nil)
		if i == 1 {
			h.send(0, wire.KindPowerOff, []byte{})
			require.NoError(t, <-h.ended)
			h.ended <- nil
		}
		h.conn.Close()
		<-read
		h.mu.Lock()
		h.queues = map[uint32]chan wire.Frame{}
		h.mu.Unlock()
	}
}
