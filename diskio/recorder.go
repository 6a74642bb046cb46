package diskio

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Recorder appends a guest's results to a job disk. Parts and steps are
// recorded in order; output of a running step may come from several goroutines.
// Records that say how the job went always have room; output and files that
// have none are counted and left out, and Finish says so on the disk.
//
// After a failed write nothing more is written: a completion record never
// stands behind a hole.
type Recorder struct {
	w    io.WriterAt
	sync func() error
	doc  *jobDocument

	mu      sync.Mutex // guards what follows; writes to the disk are what it orders
	pos     int64
	end     int64
	reserve int64 // for records that must fit
	check   [sha256.Size]byte
	number  uint32
	start   int64
	kept    int64 // bytes of the records that have no place in the reserve
	missed  int64 // and of those that were left out
	partial int64 // of the present part
	dirty   bool
	err     error
	buf     []byte
}

// NewRecorder begins the results of a job: agent and boot are for people. sync
// makes what was written durable; nil: nothing is needed.
func NewRecorder(w io.WriterAt, j *JobReader, sync func() error, agent, boot string) (*Recorder, error) {
	if sync == nil {
		sync = func() error { return nil }
	}
	s := j.super
	r := &Recorder{w: w, sync: sync, doc: j.doc, pos: s.recordsOff, start: s.recordsOff,
		end: s.recordEnd, reserve: j.doc.reserve() - fileEndRoom, check: j.seed}
	if r.pos+r.reserve > r.end {
		return nil, &OpError{Op: "record", Err: fmt.Errorf("%w: the disk has no room for results", ErrLimit)}
	}
	err := r.control(recordBegin, noIndex, noIndex, beginBody{Version: jobVersion, Agent: clip(agent, 128), Boot: clip(boot, 128), Time: time.Now().UTC()})
	return r, err
}

// PartBegin records that a part has begun.
func (r *Recorder) PartBegin(part int) error {
	return r.control(recordPartBegin, uint32(part), noIndex, timeBody{time.Now().UTC()})
}

// StepBegin records that a step is about to be started.
func (r *Recorder) StepBegin(part, step int) error {
	return r.control(recordStepBegin, uint32(part), uint32(step), timeBody{time.Now().UTC()})
}

// StepEnd records a step's end, or that it was skipped. A text in it that is
// too long is cut.
func (r *Recorder) StepEnd(part, step int, e StepEnd) error {
	e.Signal, e.Error = clip(e.Signal, 32), clip(e.Error, 1024)
	return r.control(recordStepEnd, uint32(part), uint32(step), e)
}

// Output records bytes of a step's stream, Stdout or Stderr, that stand at
// offset in it. It keeps no more of b than MaxRecord allows per record; b is
// free for reuse when it returns.
func (r *Recorder) Output(part, step, stream int, offset int64, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), MaxRecord-outputHeader)
		var h [outputHeader]byte
		h[0] = byte(stream)
		binary.LittleEndian.PutUint64(h[8:], uint64(offset))
		if err := r.data(recordOutput, uint32(part), uint32(step), h[:], b[:n]); err != nil {
			return err
		}
		offset += int64(n)
		b = b[n:]
	}
	return nil
}

// Refuse records that a file is not among the artifacts, and why.
func (r *Recorder) Refuse(part int, path, reason string) error {
	body, err := json.Marshal(noteBody{Path: clip(path, maxPathLength), Reason: clip(reason, 512)})
	if err != nil {
		return err
	}
	return r.data(recordNote, uint32(part), noIndex, body)
}

// PartEnd records that all of a part is recorded.
func (r *Recorder) PartEnd(part int) error {
	r.mu.Lock()
	missed := r.partial
	r.partial = 0
	r.mu.Unlock()
	return r.control(recordPartEnd, uint32(part), noIndex, partEndBody{Missed: missed})
}

// Fault records why the job could not be run to its end. No completion follows.
func (r *Recorder) Fault(cause error) error {
	err := r.control(recordFault, noIndex, noIndex, faultBody{Error: clip(cause.Error(), 1024)})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = &OpError{Op: "record", Err: errors.New("the job has faulted")}
	}
	return errors.Join(err, r.flush())
}

// Needed is the size of a disk that would have had room for all results so far,
// when some had none; else zero.
func (r *Recorder) Needed() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.needed()
}

func (r *Recorder) needed() int64 {
	if r.missed == 0 {
		return 0
	}
	// The reserve, as large as it was at the begin, must be there as well.
	return jobAlign(r.start+r.doc.reserve()+r.kept+r.missed, sizeAlign)
}

// Finish records the completion over all records before it and syncs. It is an
// error, and no completion is recorded, when anything before has failed.
func (r *Recorder) Finish() error {
	if needed := r.Needed(); needed > 0 {
		if err := r.control(recordOverflow, noIndex, noIndex, overflowBody{Needed: needed}); err != nil {
			return err
		}
	}
	// What the completion vouches for must be down before it is.
	if err := r.Sync(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	body := make([]byte, completeSize)
	binary.LittleEndian.PutUint64(body, uint64(r.number))
	binary.LittleEndian.PutUint64(body[8:], uint64(r.pos-r.start))
	copy(body[16:], r.check[:])
	if err := r.write(recordComplete, noIndex, noIndex, body); err != nil {
		return err
	}
	return r.flush()
}

// Sync makes what was recorded durable; it costs nothing when nothing is new.
func (r *Recorder) Sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flush()
}

func (r *Recorder) flush() error {
	if !r.dirty {
		return r.err
	}
	r.dirty = false
	if err := r.sync(); err != nil && r.err == nil {
		r.err = &OpError{Op: "record", Err: fmt.Errorf("sync: %w", err)}
	}
	return r.err
}

// control writes a record that has a place in the reserve.
func (r *Recorder) control(t recordType, part, step uint32, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if e, ok := v.(StepEnd); ok && len(body) > bodyLimit(t) {
		// JSON makes control characters up to six times longer.
		e.Error = clip(e.Error, 128)
		body, err = json.Marshal(e)
	}
	if f, ok := v.(faultBody); ok && len(body) > bodyLimit(t) {
		f.Error = clip(f.Error, 128)
		body, err = json.Marshal(f)
	}
	if err != nil {
		return err
	}
	if len(body) > bodyLimit(t) {
		return &OpError{Op: "record", Err: fmt.Errorf("%w: record of type %d has %d bytes, want at most %d", ErrLimit, t, len(body), bodyLimit(t))}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reserve < roomFor(t) {
		return r.fail(fmt.Errorf("%w: more records of type %d than the job has", ErrLimit, t))
	}
	r.reserve -= roomFor(t)
	return r.write(t, part, step, body)
}

// data writes a record that has no place in the reserve, or counts it.
func (r *Recorder) data(t recordType, part, step uint32, body ...[]byte) error {
	n := int64(recordHeader)
	for _, b := range body {
		n += int64(len(b))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pos+n+r.reserve > r.end {
		r.missed += n
		r.partial += n
		return r.err
	}
	r.kept += n
	return r.write(t, part, step, body...)
}

func (r *Recorder) write(t recordType, part, step uint32, body ...[]byte) error {
	if r.err != nil {
		return r.err
	}
	r.buf, r.check = appendRecord(r.buf[:0], r.check, t, r.number, part, step, body...)
	if _, err := r.w.WriteAt(r.buf, r.pos); err != nil {
		return r.fail(err)
	}
	r.pos += int64(len(r.buf))
	r.number++
	r.dirty = true
	return nil
}

func (r *Recorder) fail(err error) error {
	if r.err == nil {
		r.err = &OpError{Op: "record", Place: fmt.Sprintf("byte %d", r.pos), Err: err}
	}
	return r.err
}

// clip shortens s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
