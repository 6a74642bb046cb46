package loan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

type head struct {
	Name string
	N    int
}

func TestMessagesComeAsTheyWereSentAndNotAByteMoreIsRead(t *testing.T) {
	t.Parallel()
	var line bytes.Buffer
	require.NoError(t, Write(&line, head{"a", 1}, []byte("payload")))
	require.NoError(t, Write(&line, head{"b", 2}, nil))
	line.WriteString("rest")
	var h head
	payload, err := Read(iotest.OneByteReader(&line), &h)
	require.NoError(t, err)
	require.Equal(t, head{"a", 1}, h)
	require.Equal(t, "payload", string(payload))
	payload, err = Read(&line, &h)
	require.NoError(t, err)
	require.Equal(t, head{"b", 2}, h)
	require.Empty(t, payload)
	require.Equal(t, "rest", line.String())
}

func TestAPartOfAMessageIsNotItsEnd(t *testing.T) {
	t.Parallel()
	b, err := Append(nil, head{"a", 1}, []byte("payload"))
	require.NoError(t, err)
	for n := range b {
		_, err := Read(bytes.NewReader(b[:n]), &head{})
		if n == 0 {
			require.Equal(t, io.EOF, err)
		} else {
			require.Equal(t, io.ErrUnexpectedEOF, err, "%d bytes", n)
		}
	}
}

func TestMessagesBeyondTheBoundsAreRefused(t *testing.T) {
	t.Parallel()
	_, err := Append(nil, head{}, make([]byte, MaxPayload+1))
	require.ErrorIs(t, err, ErrFormat)
	_, err = Append(nil, head{Name: string(make([]byte, MaxHead))}, nil)
	require.ErrorIs(t, err, ErrFormat)
	_, err = Append(nil, func() {}, nil)
	require.Error(t, err)
	_, err = Read(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}), &head{})
	require.ErrorIs(t, err, ErrFormat, "four gigabytes are not made room for")
	_, err = Read(bytes.NewReader([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}), &head{})
	require.ErrorIs(t, err, ErrFormat)
	_, err = Read(bytes.NewReader([]byte{1, 0, 0, 0, 0, 0, 0, 0, '{'}), &head{})
	require.ErrorIs(t, err, ErrFormat)
}

func TestErrorsAreTheSameAtTheOtherEnd(t *testing.T) {
	t.Parallel()
	ours := errors.New("ours")
	codes := []Code{{"ours", ours}}
	for _, err := range []error{
		errors.New("plain"),
		fmt.Errorf("why: %w", ours),
		fmt.Errorf("why: %w: %w", vm.ErrBusy, context.DeadlineExceeded),
		&vm.OpError{Op: vm.OpStart, Driver: "h", ID: "m", Err: fmt.Errorf("no: %w", vm.ErrState), Console: []byte("panic\n")},
		fmt.Errorf("around: %w", &vm.OpError{Op: vm.OpStart, ID: "m", Err: ours}),
	} {
		got := Tell(err, codes).Err(codes)
		require.Equal(t, err.Error(), got.Error())
		for _, c := range append([]Code{{"", ours}}, known...) {
			require.Equal(t, errors.Is(err, c.Err), errors.Is(got, c.Err), "%v: %v", err, c.Err)
		}
	}
	var oe *vm.OpError
	require.ErrorAs(t, Tell(&vm.OpError{Op: "x", Err: ours, Console: []byte("c")}, codes).Err(codes), &oe)
	require.Equal(t, "c", string(oe.Console))
	require.NoError(t, Tell(nil, nil).Err(nil))
	require.EqualError(t, (&Failure{Text: "t", Codes: []string{"of a later version"}}).Err(nil), "t")
}

// FuzzRead reads what somebody wrote on the socket.
func FuzzRead(f *testing.F) {
	b, _ := Append(nil, head{"a", 1}, []byte("payload"))
	f.Add(b)
	f.Add(b[:9])
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, '{', '}'})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var h head
		payload, err := Read(r, &h)
		if err != nil {
			return
		}
		again, err := Append(nil, h, payload)
		if err != nil {
			t.Fatal(err)
		}
		var h2 head
		payload2, err := Read(bytes.NewReader(again), &h2)
		if err != nil || h2 != h || !bytes.Equal(payload, payload2) {
			t.Fatalf("%v: %v is %v", err, h2, h)
		}
	})
}
