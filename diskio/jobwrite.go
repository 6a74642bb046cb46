package diskio

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Bounds of what is kept of a step's output, per stream.
const (
	// DefaultOutputHead and DefaultOutputTail are what is kept of the begin and
	// of the end of each stream of each step, in bytes.
	DefaultOutputHead = 64 << 10
	DefaultOutputTail = 192 << 10

	jobMaxOutput = 64 << 20
	// leastResults is the room for results that a disk must have for a part
	// that does not say how much it expects.
	leastResults = 64 << 10
)

// JobOptions are those of WriteJob; nil and the zero value mean the defaults.
type JobOptions struct {
	// OutputHead and OutputTail bound what is kept of each stream of each
	// step, in bytes; zero: DefaultOutputHead and DefaultOutputTail; below
	// zero: nothing. At most 64 MiB. A guest needs this much memory.
	OutputHead, OutputTail int
	// Nonce is the job's, 32 hexadecimal digits; empty: a new random one. To be
	// set where a job disk must come out byte for byte the same.
	Nonce string
}

// Ticket is what its writer must remember of a job disk to trust what is read
// back from it: everything else on the disk is the guest's to change. It can be
// kept as JSON.
type Ticket struct {
	Nonce   string       `json:"nonce"`   // for the go message
	Size    int64        `json:"size"`    // of the job disk, in bytes
	Job     string       `json:"job"`     // digest of the superblock, which has the document's
	Records int64        `json:"records"` // where the results begin
	Head    int          `json:"head"`    // bounds of output
	Tail    int          `json:"tail"`
	Parts   []TicketPart `json:"parts"`
}

// TicketPart is what a Ticket knows of one part.
type TicketPart struct {
	ID    string   `json:"id"`
	Steps []string `json:"steps"` // names
}

// TooSmallError says that a job does not fit onto a disk. It is an ErrLimit.
type TooSmallError struct {
	Size, Needed int64 // bytes
}

// Error names both sizes.
func (e *TooSmallError) Error() string {
	return fmt.Sprintf("the disk has %d bytes, the job and the results it expects need %d", e.Size, e.Needed)
}

// Unwrap gives ErrLimit.
func (e *TooSmallError) Unwrap() error { return ErrLimit }

// JobSize is the size in bytes of a disk that has room for the job and the
// results it expects, a multiple of 4096. It validates the parts and looks at
// the sizes of their sources.
func JobSize(parts []Part) (int64, error) {
	plan, err := planJob(parts, nil, func(*Image) (string, error) { return noDigest, nil })
	if err != nil {
		return 0, err
	}
	return plan.size(DefaultResults)
}

// noDigest has the length of any digest.
var noDigest = digestText(make([]byte, sha256.Size))

// jobPlan is where everything of a job will be.
type jobPlan struct {
	parts   []Part
	doc     *jobDocument
	docSize int64
	files   int64 // bytes
	sources map[*JobFile]fs.FileInfo
}

// planJob validates and lays out. Documents have the same length whatever the
// digests are, so the disk can be written in one pass.
func planJob(parts []Part, o *JobOptions, digest func(*Image) (string, error)) (*jobPlan, error) {
	if err := ValidateParts(parts); err != nil {
		return nil, err
	}
	head, tail, err := o.bounds()
	if err != nil {
		return nil, err
	}
	doc, err := newDocument(parts, head, tail, digest)
	if err != nil {
		return nil, &OpError{Op: "write job", Err: err}
	}
	p := &jobPlan{parts: parts, doc: doc, sources: map[*JobFile]fs.FileInfo{}}
	for i, part := range parts {
		for k, f := range part.Job.Files {
			at := &p.doc.Parts[i].Files[k]
			at.Size = int64(len(f.Data))
			if f.Source != "" {
				info, err := os.Stat(f.Source)
				if err == nil && !info.Mode().IsRegular() {
					err = fmt.Errorf("is %v, want a regular file", info.Mode().Type())
				}
				if err != nil {
					return nil, &OpError{Op: "write job", Name: f.Source, Err: fmt.Errorf("part %q: Files[%d] %q: Source: %w", part.ID, k, f.Path, err)}
				}
				at.Size = info.Size()
				p.sources[at] = info
			}
			at.Offset = superSize + p.files
			at.Digest = noDigest
			p.files += at.Size
		}
	}
	text, err := p.doc.encode()
	if err != nil {
		return nil, &OpError{Op: "write job", Err: err}
	}
	p.docSize = int64(len(text))
	return p, nil
}

func (o *JobOptions) bounds() (head, tail int, err error) {
	head, tail = DefaultOutputHead, DefaultOutputTail
	if o == nil {
		return head, tail, nil
	}
	for _, b := range [...]struct {
		name string
		v    int
		to   *int
	}{{"OutputHead", o.OutputHead, &head}, {"OutputTail", o.OutputTail, &tail}} {
		switch {
		case b.v > jobMaxOutput:
			return 0, 0, &OpError{Op: "write job", Err: fmt.Errorf("JobOptions.%s is %d, want at most %d", b.name, b.v, jobMaxOutput)}
		case b.v > 0:
			*b.to = b.v
		case b.v < 0:
			*b.to = 0
		}
	}
	return head, tail, nil
}

func (p *jobPlan) records() int64 { return jobAlign(superSize+p.files+p.docSize, recordsAlign) }

// size is the disk that is needed where a part without Results counts as
// unsaid bytes.
func (p *jobPlan) size(unsaid int64) (int64, error) {
	n := p.records() + p.doc.reserve()
	for _, part := range p.parts {
		room := part.Job.Results
		if room == 0 {
			room = unsaid
		}
		n += room
		if n > maxSize {
			return 0, &OpError{Op: "write job", Err: fmt.Errorf("%w: files and expected results of all parts are above %d bytes", ErrLimit, int64(maxSize))}
		}
	}
	return jobAlign(n, sizeAlign), nil
}

// WriteJob writes a job disk of size bytes to w: the batch of parts, with the
// files they carry. It validates first, and writes the superblock last, so that
// a disk that was written in part is no job disk. A source that cannot be read
// or changes while it is read is an error that names it. A disk without room
// for the results that the parts ask for is a *TooSmallError; a part whose
// Results is zero is content with 64 KiB here, while JobSize counts
// DefaultResults for it. What was on the disk before is not erased and never
// counts: the nonce is new.
func WriteJob(ctx context.Context, w io.WriterAt, size int64, parts []Part, o *JobOptions) (Ticket, error) {
	p, err := planJob(parts, o, func(i *Image) (string, error) { return i.Sum(ctx) })
	if err != nil {
		return Ticket{}, err
	}
	if size <= 0 || size%sizeAlign != 0 {
		return Ticket{}, &OpError{Op: "write job", Err: fmt.Errorf("size is %d, want a positive multiple of %d", size, sizeAlign)}
	}
	need, err := p.size(leastResults)
	if err != nil {
		return Ticket{}, err
	}
	if size < need {
		return Ticket{}, &OpError{Op: "write job", Err: &TooSmallError{Size: size, Needed: need}}
	}
	s := jobSuper{size: size, filesOff: superSize, filesLen: p.files, docOff: superSize + p.files, docLen: p.docSize,
		recordsOff: p.records(), recordEnd: size}
	if s.nonce, err = o.nonce(); err != nil {
		return Ticket{}, err
	}
	if err := writeAt(w, 0, make([]byte, superSize)); err != nil {
		return Ticket{}, err
	}
	for i, part := range parts {
		for k := range part.Job.Files {
			f, at := &part.Job.Files[k], &p.doc.Parts[i].Files[k]
			if err := p.writeFile(ctx, w, f, at); err != nil {
				return Ticket{}, &OpError{Op: "write job", Name: f.Source, Err: fmt.Errorf("part %q: Files[%d] %q: %w", part.ID, k, f.Path, err)}
			}
		}
	}
	doc, err := p.doc.encode()
	if err != nil {
		return Ticket{}, &OpError{Op: "write job", Err: err}
	}
	if int64(len(doc)) != p.docSize {
		panic(fmt.Sprintf("bug: diskio: the job document was planned with %d bytes and has %d", p.docSize, len(doc)))
	}
	s.docSum = sha256.Sum256(doc)
	block := s.encode()
	// A first record of an earlier job is wiped for the reader's sake only: it
	// would not pass the checksums anyway.
	if err := writeAt(w, s.recordsOff, make([]byte, recordHeader)); err != nil {
		return Ticket{}, err
	}
	if err := writeAt(w, s.docOff, doc); err != nil {
		return Ticket{}, err
	}
	if err := writeAt(w, 0, block); err != nil {
		return Ticket{}, err
	}
	sum := sha256.Sum256(block)
	t := Ticket{Nonce: hex.EncodeToString(s.nonce[:]), Size: size, Job: digestText(sum[:]), Records: s.recordsOff,
		Head: p.doc.Head, Tail: p.doc.Tail}
	for _, part := range p.doc.Parts {
		tp := TicketPart{ID: part.ID}
		for _, st := range part.Steps {
			tp.Steps = append(tp.Steps, st.Name)
		}
		t.Parts = append(t.Parts, tp)
	}
	return t, nil
}

func (o *JobOptions) nonce() (n [nonceSize]byte, err error) {
	if o == nil || o.Nonce == "" {
		_, err = rand.Read(n[:])
		return n, err
	}
	b, err := hex.DecodeString(o.Nonce)
	if err != nil || len(b) != nonceSize {
		return n, &OpError{Op: "write job", Err: fmt.Errorf("JobOptions.Nonce is %q, want %d hexadecimal digits", o.Nonce, 2*nonceSize)}
	}
	return [nonceSize]byte(b), nil
}

func writeAt(w io.WriterAt, off int64, b []byte) error {
	if _, err := w.WriteAt(b, off); err != nil {
		return &OpError{Op: "write job", Place: fmt.Sprintf("byte %d", off), Err: err}
	}
	return nil
}

// writeFile streams one carried file to its place and notes its digest.
func (p *jobPlan) writeFile(ctx context.Context, w io.WriterAt, f *File, at *JobFile) error {
	sum := sha256.New()
	if f.Source == "" {
		if _, err := w.WriteAt(f.Data, at.Offset); err != nil {
			return err
		}
		sum.Write(f.Data)
		at.Digest = digestText(sum.Sum(nil))
		return nil
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer file.Close() // read only: nothing to lose
	if err := unchanged(file, p.sources[at]); err != nil {
		return err
	}
	to := io.MultiWriter(io.NewOffsetWriter(w, at.Offset), sum)
	n, err := io.Copy(to, io.LimitReader(withContext(ctx, file), at.Size))
	if err != nil {
		return err
	}
	if n != at.Size {
		return fmt.Errorf("%w: it had %d bytes, %d could be read", ErrChanged, at.Size, n)
	}
	if err := unchanged(file, p.sources[at]); err != nil {
		return err
	}
	at.Digest = digestText(sum.Sum(nil))
	return nil
}

// unchanged tells whether an open file is what it was when the job was planned.
func unchanged(f *os.File, was fs.FileInfo) error {
	is, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !os.SameFile(is, was):
		return fmt.Errorf("%w: it was replaced", ErrChanged)
	case is.Size() != was.Size():
		return fmt.Errorf("%w: it had %d bytes, it has %d", ErrChanged, was.Size(), is.Size())
	case !is.ModTime().Equal(was.ModTime()):
		return fmt.Errorf("%w: it was written at %v, and at %v", ErrChanged, was.ModTime(), is.ModTime())
	}
	return nil
}
