package guest

import (
	"bytes"
	"testing"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

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
