package guest

import (
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

// putTar sends an archive and gives the guest's word.
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
			ticket := h.put(1, 0, commands("a", "touch "+pids+"; sh -c 'trap \"\" INT TERM; echo $$ >>"+pids+"; while :; do sleep 1; done' & setsid sh -c 'echo $$ >>"+pids+"; exec sleep 1000' & while [ $(wc -l <"+pids+") -lt 2 ]; do sleep 0.01; done; echo up; wait"))
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
