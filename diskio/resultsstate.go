package diskio

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"math"
	"time"
)

// readState is where in the order of records a reader is:
//
//	begin (part-begin (step-begin output* step-end | step-end of a skipped)*
//	(file chunk* file-end | note)* part-end)* overflow? complete
//
// with a fault at any place after begin, behind which nothing counts.
type readState struct {
	begun    bool
	part     int // the one that runs or is next
	inPart   bool
	step     int // the one that runs or is next
	inStep   bool
	file     *Artifact // the one being recorded
	fileSum  digester
	paths    map[string]bool // of the part's artifacts
	missed   bool
	overflow bool
	complete bool
}

// take believes one record, or says why not.
func (r *resultsReader) take(rec record, before [32]byte) error {
	// Errors of this function are about the record that was just read.
	at, number := rec.at-recordHeader, r.number-1
	fail := func(format string, args ...any) error {
		err := r.corrupt(format, args...).(*damageError) //nolint:errorlint // it makes these
		err.at, err.number = at, number
		return err
	}
	s := &r.state
	if s.begun == (rec.kind == recordBegin) {
		return fail("type %d out of order", rec.kind)
	}
	needsPart := rec.kind == recordStepBegin || rec.kind == recordOutput || rec.kind == recordStepEnd ||
		rec.kind == recordFile || rec.kind == recordChunk || rec.kind == recordFileEnd || rec.kind == recordNote || rec.kind == recordPartEnd
	if needsPart && (!s.inPart || rec.part != uint32(s.part)) {
		return fail("type %d of part %d out of order", rec.kind, rec.part)
	}
	if s.file != nil && rec.kind != recordChunk && rec.kind != recordFileEnd && rec.kind != recordFault {
		return fail("type %d inside a file", rec.kind)
	}
	var part *PartResult
	if needsPart {
		part = &r.results.Parts[s.part]
	}
	switch rec.kind {
	case recordBegin:
		var b beginBody
		if err := json.Unmarshal(rec.body, &b); err != nil || b.Version != jobVersion {
			return fail("begin: version %d: %v", b.Version, err)
		}
		s.begun, r.results.Agent, r.results.Boot = true, b.Agent, b.Boot
	case recordPartBegin:
		if s.inPart || s.overflow || s.part >= len(r.results.Parts) || rec.part != uint32(s.part) {
			return fail("begin of part %d out of order", rec.part)
		}
		start, err := bodyTime(rec.body)
		if err != nil {
			return fail("begin of part %d: %v", rec.part, err)
		}
		s.inPart, s.step, s.paths = true, 0, map[string]bool{}
		p := &r.results.Parts[s.part]
		p.Started, p.Start = true, start
	case recordStepBegin:
		if s.inStep || rec.step != uint32(s.step) || s.step >= len(part.Steps) {
			return fail("begin of step %d out of order", rec.step)
		}
		start, err := bodyTime(rec.body)
		if err != nil {
			return fail("begin of step %d: %v", rec.step, err)
		}
		s.inStep = true
		part.Steps[s.step].Started, part.Steps[s.step].Start = true, start
	case recordOutput:
		if !s.inStep || rec.step != uint32(s.step) {
			return fail("output of step %d out of order", rec.step)
		}
		return r.takeOutput(rec, &part.Steps[s.step], fail)
	case recordStepEnd:
		return r.takeStepEnd(rec, part, fail)
	case recordPartEnd:
		var b partEndBody
		if err := json.Unmarshal(rec.body, &b); err != nil || b.Missed < 0 || s.inStep || s.step != len(part.Steps) {
			return fail("end of part %d after %d of %d steps, %d bytes missed: %v", rec.part, s.step, len(part.Steps), b.Missed, err)
		}
		part.Ended, part.Missed = true, b.Missed
		s.inPart, s.missed = false, s.missed || b.Missed > 0
		s.part++
	case recordFile, recordChunk, recordFileEnd, recordNote:
		if s.inStep || s.step != len(part.Steps) {
			return fail("type %d before the steps have ended", rec.kind)
		}
		return r.takeFile(rec, part, fail)
	case recordFault:
		var b faultBody
		if err := json.Unmarshal(rec.body, &b); err != nil {
			return fail("fault: %v", err)
		}
		r.results.Fault = b.Error
		if b.Error == "" {
			r.results.Fault = "no reason given"
		}
		return errEnd
	case recordOverflow:
		var b overflowBody
		if err := json.Unmarshal(rec.body, &b); err != nil || s.overflow || !s.missed || s.inPart || s.part != len(r.results.Parts) ||
			b.Needed <= r.ticket.Size || b.Needed > maxSize {
			return fail("overflow out of order, or it needs %d bytes: %v", b.Needed, err)
		}
		s.overflow, r.results.Needed = true, jobAlign(b.Needed, sizeAlign)
	case recordComplete:
		le := binary.LittleEndian
		if len(rec.body) != completeSize || s.inPart || s.part != len(r.results.Parts) || s.missed != s.overflow ||
			le.Uint64(rec.body) != uint64(number) || le.Uint64(rec.body[8:]) != uint64(at-r.ticket.Records) || [32]byte(rec.body[16:]) != before {
			return fail("completion out of order, or over other records")
		}
		s.complete = true
	default:
		return fail("type %d is not known", rec.kind)
	}
	return nil
}

// takeOutput keeps bytes of a stream within the job's bounds.
func (r *resultsReader) takeOutput(rec record, step *StepResult, fail func(string, ...any) error) error {
	if len(rec.body) < outputHeader || [7]byte(rec.body[1:8]) != [7]byte{} {
		return fail("output without its header")
	}
	out, cut, head := &step.Stdout, &step.StdoutCut, &step.StdoutHead
	switch rec.body[0] {
	case Stdout:
	case Stderr:
		out, cut, head = &step.Stderr, &step.StderrCut, &step.StderrHead
	default:
		return fail("output of stream %d", rec.body[0])
	}
	offset, data := binary.LittleEndian.Uint64(rec.body[8:]), rec.body[outputHeader:]
	have := int64(len(*out)) + *cut
	switch {
	case offset > math.MaxInt64/2 || int64(offset) < have:
		return fail("output at %d, want it from %d on", offset, have)
	case len(*out)+len(data) > r.ticket.Head+r.ticket.Tail:
		return fail("more output of a step than the %d bytes asked for", r.ticket.Head+r.ticket.Tail)
	case r.output+int64(len(data)) > r.limits.MaxOutput:
		err := fail("").(*damageError) //nolint:errorlint // it makes these
		err.err = &limitError{"bytes of output", r.limits.MaxOutput}
		return err
	}
	if gap := int64(offset) - have; gap > 0 {
		if *cut == 0 {
			*head = len(*out)
		}
		*cut += gap
	}
	*out = append(*out, data...)
	r.output += int64(len(data))
	return nil
}

// takeStepEnd ends the running step, or the next one as skipped.
func (r *resultsReader) takeStepEnd(rec record, part *PartResult, fail func(string, ...any) error) error {
	s := &r.state
	var e StepEnd
	if err := json.Unmarshal(rec.body, &e); err != nil {
		return fail("end of step %d: %v", rec.step, err)
	}
	if rec.step != uint32(s.step) || s.step >= len(part.Steps) || s.inStep == e.Skipped {
		return fail("end of step %d out of order", rec.step)
	}
	step := &part.Steps[s.step]
	for _, o := range [...]struct {
		total int64
		kept  []byte
		cut   *int64
		head  *int
	}{{e.Stdout, step.Stdout, &step.StdoutCut, &step.StdoutHead}, {e.Stderr, step.Stderr, &step.StderrCut, &step.StderrHead}} {
		have := int64(len(o.kept)) + *o.cut
		if o.total < have || o.total > math.MaxInt64/2 {
			return fail("end of step %d: %d bytes of output, %d were recorded", rec.step, o.total, have)
		}
		if *o.cut == 0 {
			*o.head = len(o.kept)
		}
		*o.cut += o.total - have
	}
	step.Ended, step.Skipped, step.TimedOut = true, e.Skipped, e.TimedOut
	step.Exit, step.Signal, step.Error, step.Duration = e.Exit, e.Signal, e.Error, max(e.Duration, 0)
	s.inStep = false
	s.step++
	return nil
}

// takeFile follows one artifact's records.
func (r *resultsReader) takeFile(rec record, part *PartResult, fail func(string, ...any) error) error {
	s := &r.state
	switch rec.kind {
	case recordFile:
		var b fileBody
		if err := json.Unmarshal(rec.body, &b); err != nil {
			return fail("file: %v", err)
		}
		if rule := pathRule(b.Path, false); rule != "" {
			part.Refused = append(part.Refused, Refusal{Path: b.Path, Reason: "its path is not " + rule})
			return fail("file %q: want %s", b.Path, rule)
		}
		if s.paths[b.Path] {
			part.Refused = append(part.Refused, Refusal{Path: b.Path, Reason: "there is one already"})
			return fail("file %q: there is one already", b.Path)
		}
		if r.artifacts++; r.artifacts > r.limits.MaxArtifacts {
			err := fail("").(*damageError) //nolint:errorlint // it makes these
			err.err = &limitError{"artifacts", int64(r.limits.MaxArtifacts)}
			return err
		}
		s.paths[b.Path] = true
		s.file, s.fileSum = &Artifact{Path: b.Path, Mode: fs.FileMode(b.Mode).Perm()}, newDigester()
	case recordChunk:
		if s.file == nil || len(rec.body) == 0 {
			return fail("chunk of no file, or empty")
		}
		s.file.chunks = append(s.file.chunks, extent{rec.at, int64(len(rec.body))})
		s.file.Size += int64(len(rec.body))
		s.fileSum.Write(rec.body)
	case recordFileEnd:
		var b fileEndBody
		err := json.Unmarshal(rec.body, &b)
		if s.file == nil || err != nil || b.Size != s.file.Size || b.Error == "" && b.Digest != s.fileSum.text() {
			return fail("end of a file that is not the one recorded: %v", err)
		}
		if b.Error != "" {
			part.Refused = append(part.Refused, Refusal{Path: s.file.Path, Reason: b.Error})
		} else {
			s.file.Digest = b.Digest
			part.Artifacts = append(part.Artifacts, *s.file)
		}
		s.file = nil
	case recordNote:
		var b noteBody
		if err := json.Unmarshal(rec.body, &b); err != nil {
			return fail("note: %v", err)
		}
		if r.artifacts++; r.artifacts > r.limits.MaxArtifacts {
			err := fail("").(*damageError) //nolint:errorlint // it makes these
			err.err = &limitError{"artifacts", int64(r.limits.MaxArtifacts)}
			return err
		}
		part.Refused = append(part.Refused, Refusal(b))
	}
	return nil
}

func bodyTime(b []byte) (time.Time, error) {
	var t timeBody
	err := json.Unmarshal(b, &t)
	return t.Time, err
}
