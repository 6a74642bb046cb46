package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

// line is a channel with a guest of the test's on its other end.
type line struct {
	t     *testing.T
	ch    *vm.Channel
	guest net.Conn
	in    *wire.Reader
	log   *bytes.Buffer
	mu    sync.Mutex
}

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

func newLine(t *testing.T, change func(*vm.ChannelConfig)) *line {
	near, far := net.Pipe()
	l := &line{t: t, guest: far, in: wire.NewReader(far), log: new(bytes.Buffer)}
	c := vm.ChannelConfig{
		Driver: "test", Machine: "m1", HostName: "host-m1", MachineID: strings.Repeat("ab", 16), Incarnation: "inc1", Secret: "s3cret",
		Properties: map[string]string{"ARCH": "amd64"}, Logger: slog.New(slog.NewTextHandler(l, nil)),
	}
	if change != nil {
		change(&c)
	}
	l.ch = vm.NewChannel(near, c)
	return l
}

func (l *line) close() {
	require.NoError(l.t, l.ch.Close())
	require.NoError(l.t, l.ch.Close())
	l.guest.Close()
}

func (l *line) say(stream uint32, k wire.Kind, body any) {
	l.t.Helper()
	raw, ok := body.([]byte)
	if !ok {
		raw = wire.Encode(body)
	}
	b, err := wire.Append(nil, wire.Frame{Stream: stream, Kind: k, Body: raw})
	require.NoError(l.t, err)
	_, err = l.guest.Write(b)
	require.NoError(l.t, err)
}

// hear reads the next frame of the host and wants it to be of the kind.
func (l *line) hear(k wire.Kind) wire.Frame {
	l.t.Helper()
	f, err := l.in.Next()
	require.NoError(l.t, err)
	require.Equal(l.t, k, f.Kind, "%s", f.Body)
	return f
}

func hello(change func(*wire.Hello)) wire.Hello {
	h := wire.Hello{Version: wire.Version, Secret: "s3cret", Incarnation: "inc1", Boot: "boot1", Agent: "test/1"}
	if change != nil {
		change(&h)
	}
	return h
}

// ready goes through the handshake.
func (l *line) ready() {
	l.t.Helper()
	l.say(0, wire.KindHello, hello(nil))
	l.hear(wire.KindWelcome)
	l.say(0, wire.KindReady, wire.Ready{})
	_, err := l.ch.Ready(l.t.Context())
	require.NoError(l.t, err)
}

// open opens a stream on which the guest was told to go.
func (l *line) open() *vm.Stream {
	l.t.Helper()
	s, err := l.ch.Open(0)
	require.NoError(l.t, err)
	sent := make(chan error, 1)
	go func() { sent <- s.Send(l.t.Context(), uint8(wire.KindGo), []byte("go")) }()
	require.Equal(l.t, s.ID(), l.hear(wire.KindGo).Stream)
	require.NoError(l.t, <-sent)
	return s
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func TestAllThatCameBeforeTheEndIsGivenFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		done, cut := l.open(), l.open()
		for i := range 50 {
			l.say(done.ID(), wire.KindMessage, []byte{byte(i)})
			l.say(cut.ID(), wire.KindMessage, []byte{byte(i)})
		}
		l.say(done.ID(), wire.KindDone, wire.Done{Complete: true})
		require.NoError(t, l.guest.Close())
		<-l.ch.Done()
		for _, s := range []*vm.Stream{done, cut} {
			for i := range 50 {
				_, body, err := s.Recv(t.Context())
				require.NoError(t, err)
				require.Equal(t, []byte{byte(i)}, body)
			}
		}
		k, _, err := done.Recv(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint8(wire.KindDone), k)
		for range 2 {
			_, _, err = done.Recv(t.Context())
			require.ErrorIs(t, err, io.EOF)
			_, _, err = cut.Recv(t.Context())
			require.ErrorIs(t, err, vm.ErrChannelEnded)
			require.NotErrorIs(t, err, io.EOF)
		}
		require.ErrorIs(t, l.ch.Err(), vm.ErrChannelEnded)
		require.ErrorIs(t, cut.Send(t.Context(), 16, nil), vm.ErrChannelEnded)
		_, err = l.ch.Ping(t.Context())
		require.ErrorIs(t, err, vm.ErrChannelEnded)
	})
}

func TestStreamThatNobodyReadsBlocksNothingAndCostsBoundedMemory(t *testing.T) {
	// Not parallel: it looks at the memory of the whole process.
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s := l.open()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		// The window's worth of single bytes of two kinds in turn, which is
		// the dearest way to fill it.
		for range wire.InitialWindow / 2 {
			l.say(s.ID(), wire.KindStdout, []byte("o"))
			l.say(s.ID(), wire.KindStderr, []byte("e"))
		}
		// A flood of messages: news that nobody takes are dropped.
		news := bytes.Repeat([]byte("n"), 1000)
		for range 10_000 {
			l.say(s.ID(), wire.KindMessage, news)
		}
		for range 10_000 {
			l.say(s.ID(), wire.KindMessage, []byte{})
			l.say(s.ID(), wire.KindStdout, []byte{})
			l.say(s.ID(), wire.KindData, []byte{})
			l.say(s.ID(), 99, []byte{})
			l.say(s.ID(), 12, []byte{})
			l.say(77, wire.KindStdout, []byte{})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(8<<20))
		stats := l.ch.Stats()
		require.Greater(t, stats.Dropped, int64(20_000))
		require.EqualValues(t, 20_000, stats.Stray)
		// Others go on.
		other := l.open()
		l.say(other.ID(), wire.KindDone, wire.Done{})
		_, _, err := other.Recv(t.Context())
		require.NoError(t, err)
		// The last word is never dropped, and all bytes of the window are there.
		l.say(s.ID(), wire.KindExit, wire.Exit{})
		got := map[wire.Kind]int{}
		for {
			k, body, err := s.Recv(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			got[wire.Kind(k)] += len(body)
			if wire.Kind(k) == wire.KindExit {
				require.Equal(t, wire.InitialWindow/2, got[wire.KindStdout])
				require.Equal(t, wire.InitialWindow/2, got[wire.KindStderr])
			}
		}
	})
}

func TestGuestThatSendsMoreThanItsWindowLosesItsStreamOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s, other := l.open(), l.open()
		for range wire.InitialWindow/wire.MaxBody + 100 {
			l.say(s.ID(), wire.KindStdout, make([]byte, wire.MaxBody))
		}
		_, _, err := s.Recv(t.Context())
		require.ErrorContains(t, err, "the guest sent 65536 bytes beyond its window")
		require.ErrorContains(t, s.Send(t.Context(), uint8(wire.KindStdin), []byte("x")), "beyond its window")
		l.say(other.ID(), wire.KindDone, wire.Done{})
		_, _, err = other.Recv(t.Context())
		require.NoError(t, err)
		go s.Close()
		require.Equal(t, s.ID(), l.hear(wire.KindCancel).Stream)
	})
}

func TestWindowIsGrantedAsTheReaderTakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s := l.open()
		window := int64(wire.InitialWindow)
		for sent := 0; sent < 4<<20; {
			n := min(window, wire.MaxBody)
			l.say(s.ID(), wire.KindStdout, make([]byte, n))
			sent += int(n)
			window -= n
			_, body, err := s.Recv(t.Context())
			require.NoError(t, err)
			require.Len(t, body, int(n))
			if window == 0 || window < wire.InitialWindow/2 {
				f := l.hear(wire.KindWindow)
				var w wire.Window
				require.NoError(t, wire.Decode(f.Kind, f.Body, &w))
				window += w.Bytes
			}
		}
	})
}

func TestSendWaitsForTheGuestsWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s := l.open()
		sent := make(chan int, 100)
		ctx, cancel := context.WithCancelCause(t.Context())
		failed := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				if err := s.Send(ctx, uint8(wire.KindStdin), make([]byte, wire.MaxBody)); err != nil {
					failed <- err
					return
				}
				sent <- i
			}
		}()
		for range wire.InitialWindow / wire.MaxBody {
			l.hear(wire.KindStdin)
		}
		synctest.Wait()
		require.Len(t, sent, wire.InitialWindow/wire.MaxBody)
		// Anything but bytes goes on.
		go s.Send(t.Context(), uint8(wire.KindCancel), wire.Encode(wire.Cancel{}))
		l.hear(wire.KindCancel)
		// Nonsense grants nothing, and cannot overflow.
		l.say(s.ID(), wire.KindWindow, wire.Window{Bytes: -1 << 62})
		l.say(s.ID(), wire.KindWindow, []byte("?"))
		l.say(s.ID(), wire.KindWindow, wire.Window{Bytes: wire.MaxBody - 1})
		synctest.Wait()
		require.Len(t, sent, wire.InitialWindow/wire.MaxBody)
		l.say(s.ID(), wire.KindWindow, wire.Window{Bytes: 1})
		l.hear(wire.KindStdin)
		for range 3 {
			l.say(s.ID(), wire.KindWindow, wire.Window{Bytes: 1<<63 - 1})
			for range 6 {
				l.hear(wire.KindStdin)
			}
		}
		reason := errors.New("enough")
		go func() { // the guest reads on, so that the sender is not stuck in a write
			for {
				if _, err := l.in.Next(); err != nil {
					return
				}
			}
		}()
		cancel(reason)
		err := <-failed
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, reason)
	})
}

func TestSendToAGuestThatDoesNotReadEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s, err := l.ch.Open(0)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, s.Send(ctx, 16, nil)) // is being written, and stuck
		err = s.Send(ctx, 18, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "does not read its channel after 1m0s")
		// The guest is still heard.
		l.say(s.ID(), wire.KindDone, wire.Done{})
		_, _, err = s.Recv(t.Context())
		require.NoError(t, err)
		require.ErrorIs(t, s.Send(t.Context(), 18, nil), vm.ErrState)
		require.ErrorIs(t, s.Send(t.Context(), 18, make([]byte, wire.MaxBody+1)), vm.ErrTooLarge)
	})
}

func TestGuestIsPingedAtAThirdOfTheKeepalive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, func(c *vm.ChannelConfig) { c.Keepalive = 3 * time.Minute })
		defer l.close()
		l.ready()
		for range 5 {
			began := time.Now()
			f := l.hear(wire.KindPing)
			require.Equal(t, time.Minute, time.Since(began))
			l.say(0, wire.KindPong, f.Body)
		}
		// A guest that does not answer is still pinged.
		l.hear(wire.KindPing)
		l.hear(wire.KindPing)
	})
}

func TestPingMeasuresTheGuestsAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		go func() {
			f := l.hear(wire.KindPing)
			time.Sleep(70 * time.Millisecond)
			l.say(0, wire.KindPong, []byte("of another ping"))
			l.say(0, wire.KindPong, make([]byte, 8))
			l.say(0, wire.KindPong, f.Body)
			l.hear(wire.KindPing)
		}()
		took, err := l.ch.Ping(t.Context())
		require.NoError(t, err)
		require.Equal(t, 70*time.Millisecond, took)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = l.ch.Ping(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no answer from the guest after 1s")
	})
}

func TestStreamNumbersAreFreeAgainWhenTheGuestEndedThem(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		first := l.open()
		_, err := l.ch.Open(first.ID())
		require.ErrorIs(t, err, vm.ErrState)
		require.ErrorContains(t, err, "stream 1 is in use")
		l.say(first.ID(), wire.KindFault, wire.Fault{Error: "no"})
		_, _, err = first.Recv(t.Context())
		require.NoError(t, err)
		again, err := l.ch.Open(first.ID())
		require.NoError(t, err)
		require.NoError(t, first.Close())
		other, err := l.ch.Open(0)
		require.NoError(t, err)
		require.NotEqual(t, again.ID(), other.ID())
		// Closed before anything was sent: the guest never heard of it.
		require.NoError(t, again.Close())
		require.NoError(t, again.Close())
		third, err := l.ch.Open(again.ID())
		require.NoError(t, err)
		_, _, err = again.Recv(t.Context())
		require.ErrorIs(t, err, vm.ErrClosed)
		require.ErrorIs(t, again.Send(t.Context(), 16, nil), vm.ErrClosed)
		require.NoError(t, third.Close())
	})
}

func TestClosedStreamIsKilledAndNeverBlocksTheGuest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		l.ready()
		s := l.open()
		for range wire.InitialWindow / wire.MaxBody {
			l.say(s.ID(), wire.KindStdout, make([]byte, wire.MaxBody))
		}
		synctest.Wait()
		require.NoError(t, s.Close())
		f := l.hear(wire.KindCancel)
		require.Equal(t, `{"kill":true}`, string(f.Body))
		// What was not taken is granted anew, and all that still comes.
		f = l.hear(wire.KindWindow)
		require.JSONEq(t, fmt.Sprintf(`{"bytes":%d}`, wire.InitialWindow), string(f.Body))
		for range 100 {
			l.say(s.ID(), wire.KindStdout, make([]byte, wire.MaxBody))
			l.hear(wire.KindWindow)
		}
		_, err := l.ch.Open(s.ID())
		require.ErrorIs(t, err, vm.ErrState, "the number is in use until the guest ends it")
		l.say(s.ID(), wire.KindExit, wire.Exit{Code: -1, Signal: "killed"})
		synctest.Wait()
		_, err = l.ch.Open(s.ID())
		require.NoError(t, err)
	})
}

func TestCloseEndsAllThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		errs := make(chan error, 10)
		go func() { _, err := l.ch.Ready(t.Context()); errs <- err }()
		synctest.Wait()
		require.NoError(t, l.ch.Close())
		require.ErrorIs(t, <-errs, vm.ErrClosed)
		l.close()

		l = newLine(t, nil)
		l.ready()
		s := l.open()
		go func() { _, _, err := s.Recv(t.Context()); errs <- err }()
		go func() { _, _, err := s.Recv(t.Context()); errs <- err }()
		go func() { _, err := l.ch.Ping(t.Context()); errs <- err }()
		synctest.Wait()
		require.NoError(t, l.ch.Close())
		for range 3 {
			require.ErrorIs(t, <-errs, vm.ErrClosed)
		}
		require.ErrorIs(t, l.ch.PowerOff(t.Context()), vm.ErrClosed)
		require.ErrorIs(t, l.ch.Err(), vm.ErrClosed)
		l.close()
	})
}

func TestPowerOffIsSaidWithoutWaitingForTheGuestToBeReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		go l.ch.PowerOff(t.Context())
		l.hear(wire.KindPowerOff)
	})
}

func TestNoiseOnTheLineIsSkippedAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLine(t, nil)
		defer l.close()
		_, err := l.guest.Write(bytes.Repeat([]byte("[    0.1] booting\n"), 10_000))
		require.NoError(t, err)
		l.ready()
		require.EqualValues(t, 180_000, l.ch.Stats().Skipped)
		require.EqualValues(t, 2, l.ch.Stats().Frames)
		require.Equal(t, time.Now(), l.ch.Stats().LastHeard)
	})
}
