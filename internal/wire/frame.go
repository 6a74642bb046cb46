package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Frame is one message on one stream.
type Frame struct {
	Stream uint32
	Kind   Kind
	Body   []byte
}

const (
	// HeaderSize is the length of a frame's header in bytes.
	HeaderSize = 24
	// MaxBody is the greatest length of a body in bytes.
	MaxBody = 64 << 10
)

// magic starts each frame. Its first byte cannot start a UTF-8 sequence, so
// that text which strays onto the channel is skipped quickly.
var magic = [4]byte{0xB5, 'P', 'F', '1'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrTooLong is answered for a body above MaxBody.
var ErrTooLong = errors.New("wire: body is longer than a frame can carry")

// Append adds the frame's bytes to b:
//
//	0   4  magic B5 50 46 31
//	4   4  stream, little endian as all numbers
//	8   1  kind
//	9   3  zero
//	12  4  length of the body
//	16  4  CRC-32C of the body
//	20  4  CRC-32C of bytes 0 to 20
//	24  -  body
//
// The header has a checksum of its own so that a false length is seen at once
// and a reader never waits for a body that will not come.
func Append(b []byte, f Frame) ([]byte, error) {
	if len(f.Body) > MaxBody {
		return b, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, len(f.Body), MaxBody)
	}
	var h [HeaderSize]byte
	copy(h[:], magic[:])
	binary.LittleEndian.PutUint32(h[4:], f.Stream)
	h[8] = byte(f.Kind)
	binary.LittleEndian.PutUint32(h[12:], uint32(len(f.Body)))
	binary.LittleEndian.PutUint32(h[16:], crc32.Checksum(f.Body, castagnoli))
	binary.LittleEndian.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
	return append(append(b, h[:]...), f.Body...), nil
}

// Reader takes frames from a byte stream. What is not a frame, such as a
// kernel's message on the same line or a frame cut short by a reset, is skipped
// to the next frame and counted. A Reader is for one goroutine.
type Reader struct {
	r       *bufio.Reader
	skipped int64
}

// NewReader makes a Reader with a buffer that holds the longest frame.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, HeaderSize+MaxBody)}
}

// Skipped is the number of bytes that belonged to no frame so far.
func (r *Reader) Skipped() int64 { return r.skipped }

// Next gives the next whole frame, or the error of the byte stream. The body is
// the caller's to keep. At the end of the stream the error is io.EOF, also when
// it ends inside a frame; the bytes of that frame are counted as skipped.
func (r *Reader) Next() (Frame, error) {
	for {
		h, err := r.r.Peek(HeaderSize)
		if err != nil {
			n, _ := r.r.Discard(len(h))
			r.skipped += int64(n)
			return Frame{}, err
		}
		if !bytes.Equal(h[:4], magic[:]) {
			r.resync(h)
			continue
		}
		length := binary.LittleEndian.Uint32(h[12:])
		if binary.LittleEndian.Uint32(h[20:]) != crc32.Checksum(h[:20], castagnoli) || length > MaxBody {
			r.skip(1)
			continue
		}
		whole, err := r.r.Peek(HeaderSize + int(length))
		if err != nil {
			// The stream ended inside this frame, and whole frames may stand
			// inside its torn body: go on behind the header.
			r.skip(1)
			continue
		}
		if binary.LittleEndian.Uint32(whole[16:]) != crc32.Checksum(whole[HeaderSize:], castagnoli) {
			r.skip(1)
			continue
		}
		f := Frame{
			Stream: binary.LittleEndian.Uint32(whole[4:]),
			Kind:   Kind(whole[8]),
			Body:   bytes.Clone(whole[HeaderSize:]),
		}
		if _, err := r.r.Discard(len(whole)); err != nil {
			return Frame{}, err
		}
		return f, nil
	}
}

// resync skips to the next byte that may start a frame.
func (r *Reader) resync(h []byte) {
	n := bytes.IndexByte(h[1:], magic[0])
	if n < 0 {
		n = len(h) - 1
	}
	r.skip(n + 1)
}

func (r *Reader) skip(n int) {
	n, _ = r.r.Discard(n)
	r.skipped += int64(n)
}
