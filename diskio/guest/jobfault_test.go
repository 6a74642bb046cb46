package guest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestResultsThatDoNotFitAreCountedAndExitCodesStillCome(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	parts := []diskio.Part{commands("a", "head -c 3000000 /dev/zero >$BULLPEN_OUT/big; echo hello"), commands("b", "exit 5")}
	run := func(size int64) *diskio.Results {
		ticket := h.put(1, size, parts...)
		h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
		var done wire.Done
		h.next(1, wire.KindDone, &done)
		require.True(t, done.Complete, done.Error)
		return h.results(1, ticket)
	}
	res := run(1 << 20)
	require.False(t, res.Complete)
	require.Greater(t, res.Needed, int64(3_000_000))
	require.ErrorContains(t, res.Damage, fmt.Sprint(res.Needed))
	require.True(t, res.Parts[0].Partial)
	require.False(t, res.Parts[0].OK())
	require.Equal(t, "hello\n", string(res.Parts[0].Steps[0].Stdout))
	require.False(t, res.Parts[1].Partial)
	require.Equal(t, 5, res.Parts[1].Steps[0].Exit)
	res = run(res.Needed)
	require.True(t, res.Complete, res.Damage)
	require.True(t, res.Parts[0].OK())
}

func TestACancelledJobIsRecordedToItsEnd(t *testing.T) {
	t.Parallel()
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprint("kill ", kill), func(t *testing.T) {
			t.Parallel()
			h := start(t, nil)
			h.welcome(wire.Welcome{})
			script := `trap "echo tidy; exit 0" INT; echo up; while :; do sleep 0.01; done`
			if kill {
				script = `trap "" INT TERM; echo up; while :; do sleep 0.01; done`
			}
			ticket := h.put(1, 0, commands("a", "true", script, "echo never"), commands("b", "echo never"))
			h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
			for {
				p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
				require.NoError(t, err)
				if p.What == "output" {
					break
				}
			}
			h.send(1, wire.KindCancel, wire.Cancel{})
			if kill {
				h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
			}
			var done wire.Done
			h.next(1, wire.KindDone, &done)
			require.True(t, done.Complete, done.Error)
			res := h.results(1, ticket)
			require.True(t, res.Complete, res.Damage)
			s := res.Parts[0].Steps
			require.True(t, s[0].OK())
			require.False(t, s[1].OK(), "interrupted is not passed, whatever it answers")
			require.Contains(t, s[1].Error, "cancelled")
			if kill {
				require.Equal(t, "SIGKILL", s[1].Signal)
			} else {
				require.Equal(t, "up\ntidy\n", string(s[1].Stdout))
			}
			require.True(t, s[2].Skipped)
			require.True(t, res.Parts[1].Steps[0].Skipped)
			require.False(t, res.Parts[1].OK())
		})
	}
}

func TestAGuestThatCannotRunAJobSaysSoAndWritesNoCompletion(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		spoil  func(h *host, g *diskio.Go)
		says   string
	}{
		"wrong nonce":    {nil, func(h *host, g *diskio.Go) { g.Nonce = strings.Repeat("0", 32) }, "nonce"},
		"no such disk":   {nil, func(h *host, g *diskio.Go) { g.Disk = 9 }, "no such disk"},
		"damaged disk":   {nil, func(h *host, g *diskio.Go) { h.disks[1].b[600] ^= 1 }, "damaged"},
		"damaged file":   {nil, func(h *host, g *diskio.Go) { h.disks[1].b[512] ^= 1 }, `file "f"`},
		"failing disk":   {nil, func(h *host, g *diskio.Go) { h.disks[1].fail = errors.New("bad sector") }, "bad sector"},
		"no work folder": {func(c *Config) { c.WorkDir = "/proc/nowhere" }, nil, "/proc/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, c.change)
			h.welcome(wire.Welcome{})
			part := commands("a", "echo x")
			part.Job.Files = []diskio.File{{Path: "f", Data: []byte("data")}}
			ticket := h.put(1, 0, part)
			g := diskio.Go{Disk: 1, Nonce: ticket.Nonce}
			if c.spoil != nil {
				c.spoil(h, &g)
			}
			h.send(1, wire.KindGo, g.Encode())
			var done wire.Done
			h.next(1, wire.KindDone, &done)
			require.False(t, done.Complete)
			require.Contains(t, done.Error, c.says)
			res, err := diskio.ReadResults(t.Context(), h.disks[1], h.disks[1].Size(), ticket, nil)
			if err == nil {
				require.False(t, res.Complete)
				require.Error(t, res.Damage)
			}
			if name == "no work folder" || name == "damaged file" {
				require.Contains(t, res.Fault, c.says, "the disk says it too")
			}
		})
	}
}

func TestAGoThatIsNotUnderstoodIsAFault(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	for i, k := range []wire.Kind{wire.KindGo, wire.KindExec, wire.KindPut, wire.KindGet} {
		h.send(uint32(10+i), k, []byte("{"))
		require.Equal(t, wire.KindFault, h.any(uint32(10+i)).Kind)
	}
	h.send(20, wire.KindExec, wire.Exec{})
	require.Equal(t, wire.KindFault, h.any(20).Kind)
	h.send(21, wire.KindGet, wire.Copy{})
	require.Equal(t, wire.KindFault, h.any(21).Kind)
	h.send(22, wire.KindMessage, []byte("what?")) // to nobody: ignored
	require.Equal(t, "x", string(h.run(1, commands("a", "printf x")).Parts[0].Steps[0].Stdout))
}

func TestAGuestKilledHalfWayThroughItsOutputIsPartial(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	ticket := h.put(1, 0, commands("a", "echo finished"), commands("b", "echo half; sleep 1000"))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	for {
		p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		if p.Part == "b" && p.What == "output" {
			break
		}
	}
	// This is what the disk has at this moment: the guest is no more.
	d := h.disks[1]
	d.mu.Lock()
	crashed := &disk{b: bytes.Clone(d.b)}
	d.mu.Unlock()
	res, err := diskio.ReadResults(t.Context(), crashed, crashed.Size(), ticket, nil)
	require.NoError(t, err)
	require.False(t, res.Complete)
	require.True(t, res.Parts[0].Ended)
	require.True(t, res.Parts[0].Partial)
	require.False(t, res.Parts[0].OK())
	require.Equal(t, "finished\n", string(res.Parts[0].Steps[0].Stdout))
	require.True(t, res.Parts[1].Started)
	require.False(t, res.Parts[1].Ended)
	require.Equal(t, "half\n", string(res.Parts[1].Steps[0].Stdout))
}

// A shell that is between fork and exec loses an interrupt; this one loses the
// first by a trap.
func TestAnInterruptThatAYoungStepLostIsSentAgain(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	ticket := h.put(1, 0, commands("a", `trap "trap - INT" INT; echo up; while :; do sleep 0.01; done`))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	for {
		p, err := diskio.DecodeProgress(h.next(1, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		if p.What == "output" {
			break
		}
	}
	h.send(1, wire.KindCancel, wire.Cancel{})
	var done wire.Done
	h.next(1, wire.KindDone, &done)
	require.True(t, done.Complete, done.Error)
	require.Equal(t, "SIGINT", h.results(1, ticket).Parts[0].Steps[0].Signal)
}
