package diskio

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Records are what a guest appends to a job disk. Each begins with a header:
//
//	0   4  magic 'BPR1'
//	4   2  type
//	6   2  zero
//	8   4  number, from 0
//	12  4  part, FFFFFFFF: none
//	16  4  step, FFFFFFFF: none
//	20  4  length of the body
//	24  32 check: SHA-256 of the check before it, bytes 0 to 24, and the body
//	56  -  body
//
// The check in front of record 0 is the SHA-256 of the job disk's superblock,
// which has the nonce and the document's digest in it. So a record counts only
// behind all those before it, and never for another job.
const (
	recordHeader = 56
	// MaxRecord is the greatest length of a record's body, in bytes.
	MaxRecord = 1 << 20
	// maxControl is that of records with a person's text in them.
	maxControl = 2048
	// noteRoom is that of records with a file's name, which JSON may make longer.
	noteRoom = 32 << 10
	// fileEndRoom is asked for in front of a file for the record at its end.
	fileEndRoom = recordHeader + maxControl
	noIndex     = 0xFFFFFFFF

	outputHeader = 16 // stream, 7 zero bytes, offset in the stream
	completeSize = 48 // count, bytes, check of the record before
	chunkSize    = 256 << 10
)

var recordMagic = [4]byte{'B', 'P', 'R', '1'}

// recordType says what a record's body is.
type recordType uint16

const (
	recordBegin     recordType = 1  // beginBody
	recordPartBegin recordType = 2  // timeBody
	recordStepBegin recordType = 3  // timeBody
	recordOutput    recordType = 4  // outputHeader and bytes
	recordStepEnd   recordType = 5  // StepEnd
	recordFile      recordType = 6  // fileBody
	recordChunk     recordType = 7  // bytes
	recordFileEnd   recordType = 8  // fileEndBody
	recordNote      recordType = 9  // noteBody
	recordPartEnd   recordType = 10 // partEndBody
	recordFault     recordType = 11 // faultBody
	recordOverflow  recordType = 12 // overflowBody
	recordComplete  recordType = 13 // completeSize bytes
)

// Streams of output.
const (
	Stdout = 1
	Stderr = 2
)

type beginBody struct {
	Version int       `json:"version"`
	Agent   string    `json:"agent"`
	Boot    string    `json:"boot,omitempty"`
	Time    time.Time `json:"time"`
}

type timeBody struct {
	Time time.Time `json:"time"`
}

// StepEnd is how a step ended, as a guest records it.
type StepEnd struct {
	Exit     int           `json:"exit"` // -1: no exit code
	Signal   string        `json:"signal,omitempty"`
	Error    string        `json:"error,omitempty"` // why it was not started, skipped or interrupted
	TimedOut bool          `json:"timed_out,omitempty"`
	Skipped  bool          `json:"skipped,omitempty"`
	Duration time.Duration `json:"duration"` // nanoseconds, on the guest's monotonic clock
	Stdout   int64         `json:"stdout"`   // bytes that the step wrote, kept or not
	Stderr   int64         `json:"stderr"`
}

type fileBody struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // permission bits
}

type fileEndBody struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
	// Error says why the file could not be recorded to its end: it is refused.
	Error string `json:"error,omitempty"`
}

// noteBody is a file that is not among the artifacts, and why.
type noteBody struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

type partEndBody struct {
	// Missed is how many bytes of the part's records had no room.
	Missed int64 `json:"missed,omitempty"`
}

type faultBody struct {
	Error string `json:"error"`
}

type overflowBody struct {
	// Needed is the size of a disk that would have had room, in bytes.
	Needed int64 `json:"needed"`
}

// appendRecord adds a record to b and gives its check.
func appendRecord(b []byte, prev [sha256.Size]byte, t recordType, number, part, step uint32, body ...[]byte) ([]byte, [sha256.Size]byte) {
	at := len(b)
	length := 0
	for _, piece := range body {
		length += len(piece)
	}
	le := binary.LittleEndian
	b = append(b, recordMagic[:]...)
	b = le.AppendUint16(b, uint16(t))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, number)
	b = le.AppendUint32(b, part)
	b = le.AppendUint32(b, step)
	b = le.AppendUint32(b, uint32(length))
	h := sha256.New()
	h.Write(prev[:])
	h.Write(b[at:])
	for _, piece := range body {
		h.Write(piece)
	}
	b = h.Sum(b)
	check := [sha256.Size]byte(b[len(b)-sha256.Size:])
	for _, piece := range body {
		b = append(b, piece...)
	}
	return b, check
}

// reserve is the room in bytes for every record that says how the job went, so
// that exit codes and completion fit however large output and files are.
func (d *jobDocument) reserve() int64 {
	n := roomFor(recordBegin) + roomFor(recordFault) + roomFor(recordOverflow) + roomFor(recordComplete) + fileEndRoom
	for _, p := range d.Parts {
		n += roomFor(recordPartBegin) + roomFor(recordPartEnd)
		n += int64(len(p.Steps)) * (roomFor(recordStepBegin) + roomFor(recordStepEnd))
	}
	return n
}

// roomFor is the most that a record of a type takes, in bytes.
func roomFor(t recordType) int64 { return recordHeader + int64(bodyLimit(t)) }

// bodyLimit is the greatest length of the body of a record of a type.
func bodyLimit(t recordType) int {
	switch t {
	case recordPartBegin, recordStepBegin, recordPartEnd, recordOverflow:
		return 128
	case recordComplete:
		return completeSize
	case recordFile, recordNote:
		return noteRoom
	case recordOutput, recordChunk:
		return MaxRecord
	default:
		return maxControl
	}
}
