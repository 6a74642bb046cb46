package wire

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	w := Welcome{
		Version: Version, Machine: "m", HostName: "h", MachineID: "0123", Incarnation: "i", Entropy: []byte{0, 1, 255},
		Clock: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Properties: map[string]string{"A": "b"}, Keepalive: time.Minute,
	}
	var got Welcome
	require.NoError(t, Decode(KindWelcome, Encode(w), &got))
	require.Equal(t, w, got)
	e := Exec{Argv: []string{"a", ""}, Env: []string{"X=\x00y"}, Dir: "/", Stdin: true}
	var gotE Exec
	require.NoError(t, Decode(KindExec, Encode(e), &gotE))
	require.Equal(t, e, gotE)
}

func TestMessageThatCannotBeReadNamesItsKind(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, Decode(KindDone, []byte("{"), &Done{}), "wire: kind 17: ")
}

func TestMessageThatCannotBeWrittenIsABug(t *testing.T) {
	t.Parallel()
	require.PanicsWithValue(t, "bug: wire: func() cannot be encoded: json: unsupported type: func()", func() { Encode(func() {}) })
}
