package loan

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of one message, in bytes.
const (
	MaxHead    = 1 << 20
	MaxPayload = 1 << 20
)

// ErrFormat: what came is no message.
var ErrFormat = errors.New("no message of a pool")

const prefix = 8

// Append adds a message's bytes to b: the lengths of head and payload, 32 bits
// little endian each, the head as JSON, the payload.
func Append(b []byte, head any, payload []byte) ([]byte, error) {
	j, err := json.Marshal(head)
	if err != nil {
		return b, err
	}
	if len(j) > MaxHead || len(payload) > MaxPayload {
		return b, fmt.Errorf("%w: %d and %d bytes, at most %d and %d", ErrFormat, len(j), len(payload), MaxHead, MaxPayload)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(j)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, j...), payload...), nil
}

// Write writes one message, in one Write.
func Write(w io.Writer, head any, payload []byte) error {
	b, err := Append(nil, head, payload)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read reads one message and not a byte more. The payload is the caller's. io.EOF
// when there is none, io.ErrUnexpectedEOF when there is a part of one.
func Read(r io.Reader, head any) (payload []byte, err error) {
	var p [prefix]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return nil, err
	}
	h, n := binary.LittleEndian.Uint32(p[:]), binary.LittleEndian.Uint32(p[4:])
	if h > MaxHead || n > MaxPayload {
		return nil, fmt.Errorf("%w: its lengths are %d and %d bytes", ErrFormat, h, n)
	}
	j := make([]byte, h)
	if _, err := io.ReadFull(r, j); err != nil {
		return nil, whole(err)
	}
	if err := json.Unmarshal(j, head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if n == 0 {
		return nil, nil
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, whole(err)
	}
	return payload, nil
}

func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
