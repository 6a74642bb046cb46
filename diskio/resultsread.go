package diskio

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ReadResults reads what a guest recorded on a job disk of size bytes. It
// believes only what the ticket's job can have: the superblock and the document
// must be as they were written, or the disk is refused with an error. From then
// on nothing that the guest wrote is an error: records are read as far as they
// are whole and in order, Results.Damage says what stood in the way, and
// without a verified completion record everything is Partial. Errors are those
// of r, of the ticket and of ctx.
//
// It reads no further than the records go, and keeps no artifacts in memory.
func ReadResults(ctx context.Context, r io.ReaderAt, size int64, t Ticket, o *ReadOptions) (*Results, error) {
	seed, err := checkTicket(r, size, t)
	if err != nil {
		return nil, &OpError{Op: "read results", Err: err}
	}
	rr := &resultsReader{
		in:      bufio.NewReaderSize(io.NewSectionReader(r, t.Records, t.Size-t.Records), 64<<10),
		pos:     t.Records,
		ticket:  t,
		limits:  o.withDefaults(t.Size),
		check:   seed,
		results: newResults(r, t),
	}
	if err := rr.run(ctx); err != nil {
		return nil, &OpError{Op: "read results", Place: fmt.Sprintf("byte %d", rr.pos), Err: err}
	}
	return rr.results, nil
}

// checkTicket refuses a disk that does not carry the ticket's job as it was
// written, and gives the seed of the records' checks.
func checkTicket(r io.ReaderAt, size int64, t Ticket) (seed [sha256.Size]byte, err error) {
	if t.Size < superSize || t.Records < superSize || t.Records > t.Size || len(t.Parts) == 0 {
		return seed, fmt.Errorf("the ticket is not one of WriteJob: size %d, records at %d, %d parts", t.Size, t.Records, len(t.Parts))
	}
	block := make([]byte, superSize)
	if size < t.Size {
		return seed, fmt.Errorf("%w: the disk has %d bytes, the job was written to one of %d", ErrCorrupt, size, t.Size)
	}
	if err := readAt(r, block, 0); err != nil {
		return seed, err
	}
	seed = sha256.Sum256(block)
	if digestText(seed[:]) != t.Job {
		return seed, fmt.Errorf("%w: the superblock is not the one that was written", ErrCorrupt)
	}
	s, err := decodeSuper(block, size)
	if err != nil {
		return seed, err
	}
	if s.size != t.Size || s.recordsOff != t.Records {
		return seed, fmt.Errorf("the ticket is not of this job: size %d and %d, records at %d and %d", t.Size, s.size, t.Records, s.recordsOff)
	}
	doc := make([]byte, s.docLen)
	if err := readAt(r, doc, s.docOff); err != nil {
		return seed, err
	}
	if sha256.Sum256(doc) != s.docSum {
		return seed, fmt.Errorf("%w: the job document is not the one that was written", ErrCorrupt)
	}
	return seed, nil
}

func newResults(r io.ReaderAt, t Ticket) *Results {
	res := &Results{Parts: make([]PartResult, len(t.Parts)), src: source{r}}
	for i, p := range t.Parts {
		res.Parts[i] = PartResult{ID: p.ID, Partial: true, Steps: make([]StepResult, len(p.Steps))}
		for k, name := range p.Steps {
			res.Parts[i].Steps[k] = StepResult{Name: name, Exit: -1}
		}
	}
	return res
}

// resultsReader takes records one by one; what it may meet next follows from
// what it has seen. See records.go for the states.
type resultsReader struct {
	in      *bufio.Reader
	pos     int64 // of the next record on the disk
	ticket  Ticket
	limits  ReadOptions
	check   [sha256.Size]byte
	number  uint32
	body    []byte
	results *Results

	state     readState
	output    int64
	artifacts int
}

// record is one that passed its checksum.
type record struct {
	kind       recordType
	part, step uint32
	body       []byte // good until the next record
	at         int64  // of the body on the disk
}

// errEnd: there are no more records.
var errEnd = errors.New("no more records")

func (r *resultsReader) run(ctx context.Context) error {
	for {
		if r.number%64 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		before := r.check
		rec, err := r.next()
		if err == nil {
			err = r.take(rec, before)
		}
		var damage *damageError
		switch {
		case errors.Is(err, errEnd):
			if r.results.Damage == nil {
				r.results.Damage = r.unfinished()
			}
			return nil
		case errors.As(err, &damage):
			r.results.Damage = &OpError{Op: "read results", Place: fmt.Sprintf("record %d, byte %d", damage.number, damage.at), Err: damage.err}
			return nil
		case err != nil:
			return err
		}
		r.results.Bytes, r.results.Records = r.pos-r.ticket.Records, int(r.number)
		if r.state.complete {
			r.completed()
			return nil
		}
	}
}

// damageError is what is wrong with what the guest wrote; other errors are the
// disk's.
type damageError struct {
	number uint32
	at     int64
	err    error
}

func (e *damageError) Error() string { return e.err.Error() }

func (r *resultsReader) damage(err error) error {
	return &damageError{number: r.number, at: r.pos, err: err}
}

func (r *resultsReader) corrupt(format string, args ...any) error {
	return r.damage(fmt.Errorf("%w: %w", ErrCorrupt, fmt.Errorf(format, args...)))
}

// next reads a record and checks its place in the chain.
func (r *resultsReader) next() (record, error) {
	h, err := r.in.Peek(recordHeader)
	if err == io.EOF || err == nil && [4]byte(h[:4]) != recordMagic {
		return record{}, errEnd
	}
	if err != nil {
		return record{}, err
	}
	le := binary.LittleEndian
	rec := record{kind: recordType(le.Uint16(h[4:])), part: le.Uint32(h[12:]), step: le.Uint32(h[16:]), at: r.pos + recordHeader}
	number, length := le.Uint32(h[8:]), le.Uint32(h[20:])
	want := [sha256.Size]byte(h[24:])
	switch {
	case number != r.number || le.Uint16(h[6:]) != 0:
		// Whatever this is, it was not written behind the record before it.
		return rec, r.corrupt("its number is %d", number)
	case length > MaxRecord:
		return rec, r.corrupt("its body has %d bytes, want at most %d", length, MaxRecord)
	case int(r.number) >= r.limits.MaxRecords:
		return rec, r.damage(fmt.Errorf("%w: more than %d records", ErrLimit, r.limits.MaxRecords))
	case r.pos-r.ticket.Records+recordHeader+int64(length) > r.limits.MaxBytes:
		return rec, r.damage(fmt.Errorf("%w: more than %d bytes of records", ErrLimit, r.limits.MaxBytes))
	}
	sum := sha256.New()
	sum.Write(r.check[:])
	sum.Write(h[:24])
	if _, err := r.in.Discard(recordHeader); err != nil {
		return rec, err
	}
	if cap(r.body) < int(length) {
		r.body = make([]byte, length)
	}
	rec.body = r.body[:length]
	if _, err := io.ReadFull(r.in, rec.body); err == io.EOF || err == io.ErrUnexpectedEOF {
		return rec, r.corrupt("its body of %d bytes goes beyond the disk", length)
	} else if err != nil {
		return rec, err
	}
	sum.Write(rec.body)
	if got := [sha256.Size]byte(sum.Sum(nil)); got != want {
		return rec, r.corrupt("checksum does not match")
	}
	if int(length) > bodyLimit(rec.kind) {
		return rec, r.corrupt("its body has %d bytes, want at most %d for type %d", length, bodyLimit(rec.kind), rec.kind)
	}
	r.check = want
	r.pos += recordHeader + int64(length)
	r.number++
	return rec, nil
}

// unfinished says why there is no completion record.
func (r *resultsReader) unfinished() error {
	err := errors.New("the guest recorded nothing")
	switch {
	case r.results.Fault != "":
		err = fmt.Errorf("the guest could not go on: %s", printable(r.results.Fault))
	case r.number > 0:
		err = fmt.Errorf("the records end after %d without a completion", r.number)
	}
	return &OpError{Op: "read results", Place: fmt.Sprintf("byte %d", r.pos), Err: err}
}

// completed labels what the completion record has proved.
func (r *resultsReader) completed() {
	res := r.results
	for i := range res.Parts {
		res.Parts[i].Partial = res.Parts[i].Missed > 0
	}
	res.Complete = res.Needed == 0
	if !res.Complete {
		res.Damage = &OpError{Op: "read results", Err: fmt.Errorf("%w: the results did not fit: %w", ErrLimit,
			&TooSmallError{Size: r.ticket.Size, Needed: res.Needed})}
	}
}
