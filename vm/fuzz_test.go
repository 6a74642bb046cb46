package vm_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/bullpen-vm/bullpen/vm"
)

// recorded is a line whose guest said what it will say; what the host says goes
// nowhere.
type recorded struct{ io.Reader }

func (recorded) Write(p []byte) (int, error) { return len(p), nil }
func (recorded) Close() error                { return nil }

// FuzzChannel lets a guest say anything: the channel takes it to the end, and
// only a right hello is ever answered with readiness.
func FuzzChannel(f *testing.F) {
	say := func(parts ...any) []byte {
		var b []byte
		for i := 0; i < len(parts); i += 3 {
			body, ok := parts[i+2].([]byte)
			if !ok {
				body = wire.Encode(parts[i+2])
			}
			b, _ = wire.Append(b, wire.Frame{Stream: uint32(parts[i].(int)), Kind: parts[i+1].(wire.Kind), Body: body})
		}
		return b
	}
	right := say(0, wire.KindHello, hello(nil), 0, wire.KindReady, wire.Ready{})
	f.Add([]byte("noise"))
	f.Add(right)
	f.Add(append(right, say(1, wire.KindStdout, []byte("x"), 1, wire.KindWindow, wire.Window{Bytes: 1 << 62}, 1, wire.KindDone, wire.Done{})...))
	f.Add(append(right, say(0, wire.KindPong, []byte("12345678"), 0, wire.KindHello, hello(nil))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := vm.NewChannel(recorded{bytes.NewReader(in)}, vm.ChannelConfig{Machine: "m", Incarnation: "inc1", Secret: "s3cret", Keepalive: time.Hour})
		<-c.Done()
		if c.Err() == nil {
			t.Fatal("the channel has ended without a reason")
		}
		if _, err := c.Ready(context.Background()); err == nil {
			t.Fatal("a channel that has ended is ready")
		}
		s := c.Stats()
		if s.Skipped < 0 || s.Skipped > int64(len(in)) {
			t.Fatalf("%d bytes skipped of %d", s.Skipped, len(in))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
