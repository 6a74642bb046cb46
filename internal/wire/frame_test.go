package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func frame(t testing.TB, stream uint32, k Kind, body string) []byte {
	t.Helper()
	b, err := Append(nil, Frame{Stream: stream, Kind: k, Body: []byte(body)})
	require.NoError(t, err)
	return b
}

// all reads every frame and what was skipped.
func all(r io.Reader) (frames []Frame, skipped int64, err error) {
	fr := NewReader(r)
	for {
		f, err := fr.Next()
		if err != nil {
			return frames, fr.Skipped(), err
		}
		frames = append(frames, f)
	}
}

func TestFrameHasTheBytesThatAreWrittenDown(t *testing.T) {
	t.Parallel()
	got := frame(t, 0x01020304, KindGo, "abc")
	require.Equal(t, []byte{0xB5, 'P', 'F', '1', 4, 3, 2, 1, 16, 0, 0, 0, 3, 0, 0, 0}, got[:16])
	require.Equal(t, crc32.Checksum([]byte("abc"), castagnoli), binary.LittleEndian.Uint32(got[16:]))
	require.Equal(t, crc32.Checksum(got[:20], castagnoli), binary.LittleEndian.Uint32(got[20:]))
	require.Equal(t, "abc", string(got[24:]))
}

func TestLongestBodyPassesAndOneMoreDoesNot(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxBody)
	frames, skipped, err := all(bytes.NewReader(frame(t, 1, KindData, long)))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, skipped)
	require.Equal(t, long, string(frames[0].Body))
	before := []byte("before")
	b, err := Append(before, Frame{Body: make([]byte, MaxBody+1)})
	require.ErrorIs(t, err, ErrTooLong)
	require.Equal(t, before, b)
}

func TestReaderFindsTheFramesAmongWhateverElseIsOnTheLine(t *testing.T) {
	t.Parallel()
	a, b := frame(t, 1, KindStdout, "first"), frame(t, 2, KindDone, "second")
	falseLength := bytes.Clone(a)
	binary.LittleEndian.PutUint32(falseLength[12:], MaxBody) // the header's checksum does not fit any more
	tooLong := bytes.Clone(a)
	binary.LittleEndian.PutUint32(tooLong[12:], MaxBody+1)
	binary.LittleEndian.PutUint32(tooLong[20:], crc32.Checksum(tooLong[:20], castagnoli))
	join := func(p ...[]byte) []byte { return bytes.Join(p, nil) }
	for name, c := range map[string]struct {
		in      []byte
		bodies  []string
		skipped int
	}{
		"nothing":                      {nil, nil, 0},
		"two frames":                   {join(a, b), []string{"first", "second"}, 0},
		"a kernel's message between":   {join(a, []byte("[ 1.2] random: crng init done\n"), b), []string{"first", "second"}, 30},
		"a first byte of magic before": {join([]byte{0xB5}, a), []string{"first"}, 1},
		"a magic before":               {join(a[:4], a), []string{"first"}, 4},
		"magics before":                {join(a[:4], a[:4], a[:2], a), []string{"first"}, 10},
		"a torn frame before":          {join(a[:20], b), []string{"second"}, 20},
		"a frame torn in its body":     {join(a[:26], b, b, b), []string{"second", "second", "second"}, 26},
		"a frame torn at the end":      {join(a, b[:27]), []string{"first"}, 27},
		"a header torn at the end":     {join(a, b[:7]), []string{"first"}, 7},
		"a frame in a torn frame":      {join(a[:24], b), []string{"second"}, 24},
		"a false length":               {join(falseLength, b), []string{"second"}, len(a)},
		"a length beyond the bound":    {join(tooLong, b), []string{"second"}, len(a)},
	} {
		for how, r := range map[string]io.Reader{
			"at once":                    bytes.NewReader(c.in),
			"byte by byte":               iotest.OneByteReader(bytes.NewReader(c.in)),
			"with data and end together": iotest.DataErrReader(bytes.NewReader(c.in)),
		} {
			frames, skipped, err := all(r)
			require.ErrorIs(t, err, io.EOF, "%s, %s", name, how)
			var bodies []string
			for _, f := range frames {
				bodies = append(bodies, string(f.Body))
			}
			require.Equal(t, c.bodies, bodies, "%s, %s", name, how)
			require.EqualValues(t, c.skipped, skipped, "%s, %s", name, how)
		}
	}
}

func TestFrameWithAnyByteChangedIsNotTaken(t *testing.T) {
	t.Parallel()
	good, next := frame(t, 7, KindDone, `{"complete":true}`), frame(t, 8, KindPong, "")
	for i := range good {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] ^= flip
			frames, skipped, err := all(bytes.NewReader(append(bad, next...)))
			require.ErrorIs(t, err, io.EOF)
			require.Len(t, frames, 1, "byte %d", i)
			require.EqualValues(t, 8, frames[0].Stream, "byte %d", i)
			require.EqualValues(t, len(good), skipped, "byte %d", i)
		}
	}
}

func TestFrameThatTheBodyOfAnotherCarriesIsNotTaken(t *testing.T) {
	t.Parallel()
	// Output that holds frames, such as a capture of a channel, must never be
	// mistaken for the channel's own.
	inner := frame(t, 0, KindDone, `{"complete":true}`)
	outer := frame(t, 3, KindStdout, string(inner)+string(inner))
	frames, skipped, err := all(iotest.OneByteReader(bytes.NewReader(append(outer, frame(t, 3, KindExit, "{}")...))))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, skipped)
	require.Len(t, frames, 2)
	require.Equal(t, KindStdout, frames[0].Kind)
	require.Equal(t, KindExit, frames[1].Kind)
}

func TestReaderGivesTheErrorOfItsSource(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	a := frame(t, 1, KindStdout, "first")
	frames, _, err := all(io.MultiReader(bytes.NewReader(a), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	require.Len(t, frames, 1)
}

func TestBodyIsTheCallersToKeep(t *testing.T) {
	t.Parallel()
	r := NewReader(bytes.NewReader(append(frame(t, 1, KindStdout, "first"), frame(t, 1, KindStdout, "other")...)))
	a, err := r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.NoError(t, err)
	require.Equal(t, "first", string(a.Body))
}

func TestFramesSurviveWhateverLiesBetweenThem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var line []byte
		var want []string
		for range rapid.IntRange(0, 8).Draw(t, "pieces") {
			if rapid.Bool().Draw(t, "frame") {
				body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
				line, _ = Append(line, Frame{Stream: rapid.Uint32().Draw(t, "stream"), Kind: KindData, Body: body})
				want = append(want, string(body))
			} else {
				// Rubbish that holds no whole magic: one that does may swallow
				// what follows, as a torn frame does.
				junk := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0xB5, 'P', 'F', 'x', '\n'}), 0, 60).Draw(t, "junk")
				line = append(line, junk...)
			}
		}
		frames, skipped, err := all(bytes.NewReader(line))
		if !errors.Is(err, io.EOF) {
			t.Fatalf("the end is %v", err)
		}
		total := skipped
		for i, f := range frames {
			total += HeaderSize + int64(len(f.Body))
			if i < len(want) && string(f.Body) != want[i] {
				t.Fatalf("frame %d is %q, want %q", i, f.Body, want[i])
			}
		}
		if len(frames) != len(want) || total != int64(len(line)) {
			t.Fatalf("%d frames of %d, %d bytes of %d", len(frames), len(want), total, len(line))
		}
	})
}

// FuzzReader feeds bytes that a guest wrote: whatever they are, each byte is of
// one frame or skipped, and each frame is one that Append could have made.
func FuzzReader(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(f, 1, KindStdout, "hello"))
	f.Add(append([]byte("noise\xb5PF1"), frame(f, 0, KindHello, `{"version":1}`)...))
	f.Add(frame(f, 2, KindData, strings.Repeat("\xb5PF1", 40))[:90])
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, skipped, err := all(bytes.NewReader(in))
		if !errors.Is(err, io.EOF) {
			t.Fatalf("the end is %v", err)
		}
		total := skipped
		for _, fr := range frames {
			b, err := Append(nil, fr)
			if err != nil {
				t.Fatal(err)
			}
			total += int64(len(b))
			// The three spare bytes are covered by the checksum but not kept.
			if !bytes.Contains(in, b[HeaderSize:]) {
				t.Fatalf("a frame's body is not of the input")
			}
		}
		if total != int64(len(in)) {
			t.Fatalf("%d bytes accounted for, of %d", total, len(in))
		}
		again, skippedAgain, _ := all(iotest.OneByteReader(bytes.NewReader(in)))
		if len(again) != len(frames) || skippedAgain != skipped {
			t.Fatalf("byte by byte there are %d frames, else %d", len(again), len(frames))
		}
	})
}

// FuzzDecode reads messages that a guest wrote.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"secret":"x"}`))
	f.Add([]byte(`{"bytes":9223372036854775807}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, v := range []any{&Hello{}, &Ready{}, &Done{}, &Fault{}, &Exit{}, &Window{}, &Copied{}, &Welcome{}, &Cancel{}, &Exec{}, &Copy{}} {
			if err := Decode(KindHello, in, v); err != nil && !strings.Contains(err.Error(), "kind 1") {
				t.Fatalf("the error does not name the kind: %v", err)
			}
		}
	})
}
