package diskio

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
)

// JobReader is the guest's view of a job disk. It is safe for concurrent use
// where the disk is.
type JobReader struct {
	r     io.ReaderAt
	super jobSuper
	seed  [sha256.Size]byte // digest of the superblock
	doc   *jobDocument
}

// OpenJob reads a job disk of size bytes and refuses what is not whole, and a
// job with another nonce than the one it was told (hexadecimal; empty: any).
func OpenJob(r io.ReaderAt, size int64, nonce string) (*JobReader, error) {
	j, err := openJob(r, size, nonce)
	if err != nil {
		return nil, &OpError{Op: "open job", Err: err}
	}
	return j, nil
}

func openJob(r io.ReaderAt, size int64, nonce string) (*JobReader, error) {
	block := make([]byte, superSize)
	if size < superSize {
		return nil, fmt.Errorf("%w: the disk has %d bytes, a job disk at least %d", ErrCorrupt, size, superSize)
	}
	if err := readAt(r, block, 0); err != nil {
		return nil, err
	}
	s, err := decodeSuper(block, size)
	if err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(s.nonce[:]); nonce != "" && got != nonce {
		return nil, fmt.Errorf("%w: the job on the disk has the nonce %s, want %s", ErrCorrupt, got, nonce)
	}
	text := make([]byte, s.docLen)
	if err := readAt(r, text, s.docOff); err != nil {
		return nil, err
	}
	if sha256.Sum256(text) != s.docSum {
		return nil, fmt.Errorf("%w: job document: checksum does not match", ErrCorrupt)
	}
	doc, err := decodeDocument(text, s)
	if err != nil {
		return nil, err
	}
	return &JobReader{r: r, super: s, seed: sha256.Sum256(block), doc: doc}, nil
}

// readAt fills b; a disk that ends before is corrupt.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return fmt.Errorf("%w: the disk ends at byte %d", ErrCorrupt, off+int64(n))
	}
	return err
}

// Nonce is the job's, as hexadecimal digits.
func (j *JobReader) Nonce() string { return hex.EncodeToString(j.super.nonce[:]) }

// Parts are the parts of the batch, in order. They are the caller's to keep but
// not to change.
func (j *JobReader) Parts() []JobPart { return slices.Clone(j.doc.Parts) }

// OutputBounds are how many bytes of the begin and of the end of each stream of
// a step are to be kept.
func (j *JobReader) OutputBounds() (head, tail int) { return j.doc.Head, j.doc.Tail }

// File reads a carried file. In place of io.EOF comes ErrCorrupt when the bytes
// are not those that were packed.
func (j *JobReader) File(f JobFile) io.Reader {
	return &jobFileReader{r: io.NewSectionReader(j.r, f.Offset, f.Size), sum: sha256.New(), left: f.Size, want: f.Digest, name: f.Path}
}

// jobFileReader gives what r has and checks size and digest at the end.
type jobFileReader struct {
	r    io.Reader
	sum  hash.Hash
	left int64
	want string
	name string
}

func (d *jobFileReader) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	d.sum.Write(b[:n])
	d.left -= int64(n)
	if err == io.EOF {
		if got := digestText(d.sum.Sum(nil)); d.left != 0 || got != d.want {
			return n, fmt.Errorf("%w: %q: digest is %s, want %s", ErrCorrupt, d.name, got, d.want)
		}
	}
	return n, err
}
