package vm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// relayed is a machine whose channel goes through a relay, as that of another
// process does.
type relayed struct {
	vm.Machine
	ch *vm.Channel
}

func (r *relayed) Channel(context.Context) (*vm.Channel, error) { return r.ch, nil }

// relay puts a relay between a machine and its user. The answer of Relay comes on
// ended; stop ends its context.
func relay(t *testing.T, m vm.Machine) (r *relayed, ended chan error, stop context.CancelFunc) {
	t.Helper()
	near, far := net.Pipe()
	c, ok := vm.As[vm.Messenger](m)
	require.True(t, ok)
	ch, err := c.Channel(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended = make(chan error, 1)
	go func() { ended <- vm.Relay(ctx, ch, far, vm.RelayConfig{Incarnation: "inc", Secret: "s"}) }()
	r = &relayed{m, vm.NewChannel(near, vm.ChannelConfig{Machine: m.ID(), Incarnation: "inc", Secret: "s"})}
	return r, ended, cancel
}

func TestARelayedGuestRunsCommandsAndTakesAndGivesFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		r, ended, stop := relay(t, boot(t, d, "m1"))
		defer stop()
		// Many windows, both ways, several streams at once.
		big := strings.Repeat("0123456789abcdef", 5*wire.InitialWindow/16)
		var out bytes.Buffer
		second := make(chan error, 1)
		go func() {
			_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"exit", "3"}})
			second <- err
		}()
		exit, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
		require.NoError(t, err)
		require.True(t, exit.OK())
		require.Equal(t, big, out.String())
		require.NoError(t, <-second)
		_, err = vm.CopyTo(t.Context(), r, "/in", fstest.MapFS{"a": {Data: []byte(big)}}, nil)
		require.NoError(t, err)
		out.Reset()
		_, err = vm.CopyFrom(t.Context(), r, "/in/a", &out, nil)
		require.NoError(t, err)
		in := tar.NewReader(&out)
		_, err = in.Next()
		require.NoError(t, err)
		got, err := io.ReadAll(in)
		require.NoError(t, err)
		require.Equal(t, big, string(got))
		took, err := r.ch.Ping(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, took, time.Duration(0))
		_, err = vm.Exec(t.Context(), r, vm.Command{Argv: []string{"nope"}})
		require.ErrorContains(t, err, "not found")
		require.NoError(t, r.ch.Close())
		require.NoError(t, <-ended, "an other end that goes is no error")
	})
}

func TestARelayTellsHowMuchTheGuestHasDoneBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "m1")
		_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		r, _, stop := relay(t, m)
		defer stop()
		defer r.ch.Close()
		g, err := r.ch.Ready(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, g.Jobs, "it would be taken for clean")
	})
}

// whatRuns is a machine with a command that runs until it is killed.
func whatRuns(t *testing.T) (m vm.Machine, running, killed chan struct{}) {
	running, killed = make(chan struct{}), make(chan struct{})
	d := fake.New(fake.Config{Exec: func(ctx context.Context, c *fake.Call) vm.Exit {
		if c.Argv[0] != "long" {
			return vm.Exit{}
		}
		close(running)
		<-ctx.Done()
		close(killed)
		return vm.Exit{Code: -1, Signal: "killed"}
	}})
	t.Cleanup(func() { d.Close() })
	return boot(t, d, "m1"), running, killed
}

func TestWhatRunsThroughARelayIsKilledWithIt(t *testing.T) {
	for name, end := range map[string]func(r *relayed, stop func()){
		"its other end is gone": func(r *relayed, _ func()) { r.ch.Close() },
		"its context ended":     func(_ *relayed, stop func()) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m, running, killed := whatRuns(t)
				r, ended, stop := relay(t, m)
				defer stop()
				failed := make(chan error, 1)
				go func() {
					_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"long"}})
					failed <- err
				}()
				<-running
				end(r, stop)
				<-ended
				require.Error(t, <-failed)
				<-killed
				// The machine's own channel goes on.
				exit, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
				require.NoError(t, err)
				require.True(t, exit.OK())
				r.ch.Close()
			})
		})
	}
}

func TestACommandIsCancelledThroughARelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m, running, killed := whatRuns(t)
		r, _, stop := relay(t, m)
		defer stop()
		defer r.ch.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-running
			cancel()
		}()
		_, err := vm.Exec(ctx, r, vm.Command{Argv: []string{"long"}})
		require.ErrorIs(t, err, context.Canceled)
		<-killed
	})
}

func TestARelayEndsWithTheGuestsChannel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m, running, _ := whatRuns(t)
		r, ended, stop := relay(t, m)
		defer stop()
		go func() {
			<-running
			_ = m.Kill(t.Context())
		}()
		_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"long"}})
		require.ErrorIs(t, err, vm.ErrChannelEnded)
		require.ErrorIs(t, <-ended, vm.ErrChannelEnded)
		<-r.ch.Done()
		r.ch.Close()
	})
}

func TestARelayWithAFenceStopsAtIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		lost := false
		m := vm.GuardMachine(boot(t, d, "m1"), func() error {
			if lost {
				return errors.New("right lost")
			}
			return nil
		})
		r, _, stop := relay(t, m)
		defer stop()
		defer r.ch.Close()
		_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		synctest.Wait()
		lost = true
		_, err = vm.Exec(t.Context(), r, vm.Command{Argv: []string{"true"}})
		require.ErrorContains(t, err, "right lost")
	})
}

func TestARelayWithTheWrongSecretIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "m1")
		near, far := net.Pipe()
		c, _ := vm.As[vm.Messenger](m)
		ch, err := c.Channel(t.Context())
		require.NoError(t, err)
		ours := vm.NewChannel(near, vm.ChannelConfig{Incarnation: "inc", Secret: "right"})
		defer ours.Close()
		err = vm.Relay(t.Context(), ch, far, vm.RelayConfig{Incarnation: "inc", Secret: "wrong"})
		require.ErrorIs(t, err, vm.ErrRefused)
		require.EqualValues(t, 1, ours.Stats().Refused)
		_, err = ours.Ready(t.Context())
		require.Error(t, err)
	})
}

// The one stream's bytes are not taken at its other end; the other one's are.
func TestAStreamThatNobodyReadsHoldsUpNoOtherOfARelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		r, _, stop := relay(t, boot(t, d, "m1"))
		defer stop()
		defer r.ch.Close()
		big := strings.Repeat("x", 4*wire.InitialWindow)
		hold := make(chan struct{})
		slow := make(chan error, 1)
		var got slowly
		got.hold = hold
		go func() {
			_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &got})
			slow <- err
		}()
		synctest.Wait()
		var out bytes.Buffer
		_, err := vm.Exec(t.Context(), r, vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
		require.NoError(t, err)
		require.Equal(t, big, out.String())
		close(hold)
		require.NoError(t, <-slow)
		require.Equal(t, big, got.String())
	})
}

type slowly struct {
	bytes.Buffer
	hold chan struct{}
}

func (s *slowly) Write(b []byte) (int, error) {
	<-s.hold
	return s.Buffer.Write(b)
}
