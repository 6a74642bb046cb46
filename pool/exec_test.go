package pool

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestAGuestRunsCommandsAndTakesAndGivesFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a")}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		var out bytes.Buffer
		exit, err := g.Exec(t.Context(), vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader("in and out"), Stdout: &out})
		require.NoError(t, err)
		require.True(t, exit.OK())
		require.Equal(t, "in and out", out.String())
		exit, err = g.Exec(t.Context(), vm.Command{Argv: []string{"exit", "3"}})
		require.NoError(t, err)
		require.Equal(t, 3, exit.Code)
		copied, err := g.CopyTo(t.Context(), "/in", fstest.MapFS{"a": {Data: []byte("content")}}, nil)
		require.NoError(t, err)
		require.Equal(t, vm.Copied{Files: 1, Bytes: 7}, copied)
		out.Reset()
		_, err = g.CopyFrom(t.Context(), "/in/a", &out, nil)
		require.NoError(t, err)
		r := tar.NewReader(&out)
		_, err = r.Next()
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "content", string(content))
		addresses, err := g.Addresses(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, addresses)
		w.release(g)
		_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
		require.ErrorIs(t, err, ErrReleased)
	})
}

func TestACommandEndsWhenItsGuestIsReleased(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a")}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{Job: "TestA"})
		var err error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"sleep"}})
		}()
		synctest.Wait()
		w.release(g)
		<-ended
		require.ErrorIs(t, err, ErrReleased)
		require.ErrorContains(t, err, "TestA")
	})
}

// The machine goes on then: nothing but the guest's end stops the command.
func TestACommandEndsWhenItsGuestIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 1}}}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		var err error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"sleep"}})
		}()
		synctest.Wait()
		w.mu.Lock()
		w.lose(g.unit, lease.ErrLost, time.Now())
		w.unlock()
		<-ended
		require.ErrorIs(t, err, lease.ErrLost)
		require.ErrorIs(t, g.Release(t.Context(), nil), lease.ErrLost)
		w.release(w.acquire(Want{})) // who destroys what was lost
	})
}

func TestAddressesAreRefusedWhereNobodyCanTell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a")}, fake.NewHypervisor(fake.Config{HostID: "h", Without: vm.CanAddress}))
		defer w.finish()
		g := w.acquire(Want{})
		_, err := g.Addresses(t.Context())
		require.ErrorIs(t, err, errors.ErrUnsupported)
		w.release(g)
	})
}

// A context that is asked for late knows what it missed.
func TestTheContextOfAReleasedGuestHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := start(t, Config{Templates: one("a")}, hypervisor("h"))
		defer w.finish()
		g := w.acquire(Want{})
		w.release(g)
		<-g.Context().Done()
		_, err := g.Machine().Info(t.Context())
		require.ErrorIs(t, err, ErrReleased, "nor does the machine, asked for late, work")
	})
}

func TestARevertThatFailsFallsBackToTheNextRung(t *testing.T) {
	for name, c := range map[string]struct {
		fault fake.Fault
		rungs []vm.Rung
		why   string
	}{
		"it is refused":     {fake.Fault{Op: vm.OpRevert, Times: 1, Err: errTest}, nil, "reverting; other ways are tried"},
		"by list":           {fake.Fault{Op: vm.OpRevert, Times: 1, Err: errTest}, []vm.Rung{vm.RungRevert, vm.RungCold}, "reverting; other ways are tried"},
		"it is dirty":       {fake.Fault{Op: vm.OpRevert, Times: 1, Guest: fake.Guest{Dirty: "mud"}}, nil, "reverting; other ways are tried"},
		"it takes too long": {fake.Fault{Op: vm.OpRevert, Times: 1, Hang: true}, nil, "its boot or renewal failed"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := hypervisor("h")
				var reasons []string
				w := start(t, Config{
					Trace: &Trace{Event: func(e Event) { reasons = append(reasons, e.Reason) }},
					Templates: []Template{{
						Name: "a", Ready: 1, Snapshot: "clean", Rungs: c.rungs, RenewTimeout: time.Minute, Probe: snapshotOnce,
					}},
					Hosts: []Host{{Slots: 1}},
				}, h)
				defer w.finish()
				g := w.acquire(Want{})
				first := g.Name()
				w.release(g)
				g = w.acquire(Want{})
				require.Equal(t, first, g.Name(), "reverted in place")
				h.Inject(c.fault)
				w.release(g)
				began := time.Now()
				g = w.acquire(Want{})
				require.NotEqual(t, first, g.Name(), "another machine")
				require.Contains(t, reasons, c.why)
				require.Less(t, time.Since(began), 3*time.Minute)
				exit, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
				require.NoError(t, err)
				require.True(t, exit.OK())
				w.release(g)
			})
		})
	}
}
