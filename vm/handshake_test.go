package vm_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

func TestGuestIsWelcomedAndThenReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, func(c *vm.ChannelConfig) { c.Keepalive = time.Minute })
		defer l.close()
		_, err := l.ch.Open(0)
		require.ErrorIs(t, err, vm.ErrState)
		l.say(0, wire.KindHello, hello(nil))
		var w wire.Welcome
		require.NoError(t, wire.Decode(wire.KindWelcome, l.hear(wire.KindWelcome).Body, &w))
		require.Len(t, w.Entropy, 64)
		entropy := w.Entropy
		w.Entropy = nil
		require.Equal(t, time.Now().UTC(), w.Clock.UTC())
		w.Clock = time.Time{}
		require.Equal(t, wire.Welcome{
			Version: 1, Machine: "m1", HostName: "host-m1", MachineID: strings.Repeat("ab", 16), Incarnation: "inc1",
			Properties: map[string]string{"ARCH": "amd64"}, Keepalive: time.Minute,
		}, w)

		// Said again before the welcome arrived: the same guest.
		l.say(0, wire.KindHello, hello(nil))
		require.NoError(t, wire.Decode(wire.KindWelcome, l.hear(wire.KindWelcome).Body, &w))
		require.NotEqual(t, entropy, w.Entropy, "entropy is new for each welcome")
		_, err = l.ch.Open(0)
		require.ErrorIs(t, err, vm.ErrState)

		l.say(0, wire.KindReady, wire.Ready{Dirty: "mark", Jobs: 3, Details: map[string]string{"kernel": "6.1"}})
		g, err := l.ch.Ready(t.Context())
		require.NoError(t, err)
		require.Equal(t, vm.Greeting{Boot: "boot1", Agent: "test/1", Dirty: "mark", Jobs: 3, Details: map[string]string{"kernel": "6.1"}}, g)
		require.Zero(t, l.ch.Stats().Refused)
		require.Equal(t, "inc1", l.ch.Incarnation())
		require.NoError(t, l.ch.Err())
	})
}

func TestWrongHelloIsRefusedAndLoggedWithoutItsSecret(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body any
		why  string
	}{
		"wrong secret":       {hello(func(h *wire.Hello) { h.Secret = "guessed1" }), "secret is wrong"},
		"empty secret":       {hello(func(h *wire.Hello) { h.Secret = "" }), "secret is wrong"},
		"beginning":          {hello(func(h *wire.Hello) { h.Secret = "s3cre" }), "secret is wrong"},
		"other incarnation":  {hello(func(h *wire.Hello) { h.Incarnation = "inc0" }), "incarnation"},
		"no incarnation":     {hello(func(h *wire.Hello) { h.Incarnation = "" }), "incarnation"},
		"other version":      {hello(func(h *wire.Hello) { h.Version = 2 }), "version"},
		"nonsense":           {[]byte("guessed1"), "cannot be read"},
		"an endless version": {[]byte(`{"version":1e99}`), "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := newLine(t, nil)
				defer l.close()
				l.say(0, wire.KindHello, c.body)
				var f wire.Fault
				require.NoError(t, wire.Decode(wire.KindRefused, l.hear(wire.KindRefused).Body, &f))
				require.Contains(t, f.Error, c.why)
				_, err := l.ch.Ready(t.Context())
				require.ErrorIs(t, err, vm.ErrRefused)
				require.EqualValues(t, 1, l.ch.Stats().Refused)
				synctest.Wait()
				l.mu.Lock()
				require.Contains(t, l.log.String(), "hello refused")
				require.NotContains(t, l.log.String(), "guessed1")
				require.NotContains(t, l.log.String(), "s3cret")
				l.mu.Unlock()
				// The right one is still taken.
				l.ready()
			})
		})
	}
}

func TestSecondHelloIsRefusedAndEndsWhatRan(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]wire.Hello{
		"another boot":      hello(func(h *wire.Hello) { h.Boot = "boot2" }),
		"the same boot":     hello(nil),
		"from an old agent": hello(func(h *wire.Hello) { h.Agent = "other" }),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := newLine(t, nil)
				defer l.close()
				l.ready()
				s := l.open()
				l.say(0, wire.KindHello, again)
				l.hear(wire.KindRefused)
				_, _, err := s.Recv(t.Context())
				require.ErrorIs(t, err, vm.ErrRefused)
				_, err = l.ch.Ready(t.Context())
				require.ErrorIs(t, err, vm.ErrRefused)
				_, err = l.ch.Open(0)
				require.ErrorIs(t, err, vm.ErrRefused)
			})
		})
	}
}

func TestImpostorDoesNotEndWhatTheRightGuestDoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s := l.open()
		for range 1000 {
			l.say(0, wire.KindHello, hello(func(h *wire.Hello) { h.Secret = "guess" }))
		}
		l.hear(wire.KindRefused)
		l.say(s.ID(), wire.KindDone, wire.Done{Complete: true})
		k, _, err := s.Recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint8(wire.KindDone), k)
		require.EqualValues(t, 1000, l.ch.Stats().Refused)
		l.mu.Lock()
		defer l.mu.Unlock()
		require.LessOrEqual(t, strings.Count(l.log.String(), "\n"), 10, "the log is bounded")
	})
}

func TestAnotherGuestBeforeTheFirstIsReadyIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.say(0, wire.KindHello, hello(nil))
		l.hear(wire.KindWelcome)
		l.say(0, wire.KindHello, hello(func(h *wire.Hello) { h.Boot = "boot2" }))
		l.hear(wire.KindRefused)
		_, err := l.ch.Ready(t.Context())
		require.ErrorIs(t, err, vm.ErrRefused)
	})
}

func TestReadyWithoutWelcomeIsNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.say(0, wire.KindReady, wire.Ready{})
		l.say(5, wire.KindDone, wire.Done{})
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		_, err := l.ch.Ready(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "vm: ready m1 (test): no hello from the guest (0 bytes came that are no frames) after 1m30s")
		require.EqualValues(t, 2, l.ch.Stats().Stray)
		l.say(0, wire.KindHello, hello(nil))
		l.hear(wire.KindWelcome)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = l.ch.Ready(ctx)
		require.ErrorContains(t, err, "welcomed but is not ready")
	})
}

func TestGuestFromASavedStateMayNameItsParentsIncarnation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, func(c *vm.ChannelConfig) { c.SavedIncarnation, c.Incarnation = "inc1", "inc2" })
		defer l.close()
		l.say(0, wire.KindHello, hello(nil))
		var w wire.Welcome
		require.NoError(t, wire.Decode(wire.KindWelcome, l.hear(wire.KindWelcome).Body, &w))
		require.Equal(t, "inc2", w.Incarnation)
		l.say(0, wire.KindHello, hello(func(h *wire.Hello) { h.Incarnation = "inc3" }))
		l.hear(wire.KindRefused)
	})
}
