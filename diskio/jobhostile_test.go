package diskio

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forger writes records with right checksums and whatever order and content: a
// guest that speaks the format and lies.
type forger struct {
	t      testing.TB
	d      *memDisk
	ticket Ticket
	pos    int64
	number uint32
	check  [32]byte
}

func newForger(t testing.TB, d *memDisk, ticket Ticket) *forger {
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	return &forger{t: t, d: d, ticket: ticket, pos: ticket.Records, check: j.seed}
}

func (f *forger) add(kind recordType, part, step uint32, body []byte) {
	var b []byte
	b, f.check = appendRecord(nil, f.check, kind, f.number, part, step, body)
	if _, err := f.d.WriteAt(b, f.pos); err != nil {
		return // it is the guest's loss
	}
	f.pos += int64(len(b))
	f.number++
}

func (f *forger) json(kind recordType, part, step uint32, v any) {
	b, err := json.Marshal(v)
	require.NoError(f.t, err)
	f.add(kind, part, step, b)
}

func (f *forger) complete() {
	body := make([]byte, completeSize)
	binary.LittleEndian.PutUint64(body, uint64(f.number))
	binary.LittleEndian.PutUint64(body[8:], uint64(f.pos-f.ticket.Records))
	copy(body[16:], f.check[:])
	f.add(recordComplete, noIndex, noIndex, body)
}

func (f *forger) output(part, step uint32, stream byte, offset uint64, data string) {
	h := make([]byte, outputHeader)
	h[0] = stream
	binary.LittleEndian.PutUint64(h[8:], offset)
	f.add(recordOutput, part, step, append(h, data...))
}

// step records one step that passed.
func (f *forger) step(part, step uint32) {
	f.json(recordStepBegin, part, step, timeBody{})
	f.json(recordStepEnd, part, step, StepEnd{})
}

func (f *forger) file(part uint32, path, data, digest string) {
	f.json(recordFile, part, noIndex, fileBody{Path: path, Mode: 0o644})
	f.add(recordChunk, part, noIndex, []byte(data))
	if digest == "" {
		s := newDigester()
		s.Write([]byte(data))
		digest = s.text()
	}
	f.json(recordFileEnd, part, noIndex, fileEndBody{Size: int64(len(data)), Digest: digest})
}

func TestAGuestThatLiesIsNeverBelieved(t *testing.T) {
	t.Parallel()
	begin := func(f *forger) { f.json(recordBegin, noIndex, noIndex, beginBody{Version: jobVersion}) }
	// Parts: "one" with two steps, "two" with one.
	partOne := func(f *forger) {
		f.json(recordPartBegin, 0, noIndex, timeBody{})
		f.step(0, 0)
		f.step(0, 1)
	}
	endOne := func(f *forger) { f.json(recordPartEnd, 0, noIndex, partEndBody{}) }
	partTwo := func(f *forger) {
		f.json(recordPartBegin, 1, noIndex, timeBody{})
		f.step(1, 0)
		f.json(recordPartEnd, 1, noIndex, partEndBody{})
	}
	rest := func(f *forger) { endOne(f); partTwo(f); f.complete() }
	long := strings.Repeat("x", 300)
	for name, lie := range map[string]func(f *forger){
		"completion at once":        func(f *forger) { begin(f); f.complete() },
		"completion after one part": func(f *forger) { begin(f); partOne(f); endOne(f); f.complete() },
		"completion inside a part": func(f *forger) {
			begin(f)
			partOne(f)
			endOne(f)
			f.json(recordPartBegin, 1, noIndex, timeBody{})
			f.complete()
		},
		"no begin":   func(f *forger) { partOne(f); rest(f) },
		"two begins": func(f *forger) { begin(f); begin(f); partOne(f); rest(f) },
		"begin of another version": func(f *forger) {
			f.json(recordBegin, noIndex, noIndex, beginBody{Version: 9})
			partOne(f)
			rest(f)
		},
		"parts in another order": func(f *forger) { begin(f); partTwo(f); partOne(f); endOne(f); f.complete() },
		"a part twice":           func(f *forger) { begin(f); partOne(f); endOne(f); partOne(f); rest(f) },
		"a part ended twice":     func(f *forger) { begin(f); partOne(f); endOne(f); rest(f) },
		"a part that is not in the job": func(f *forger) {
			begin(f)
			partOne(f)
			endOne(f)
			partTwo(f)
			f.json(recordPartBegin, 2, noIndex, timeBody{})
			f.json(recordPartEnd, 2, noIndex, partEndBody{})
			f.complete()
		},
		"a huge part":          func(f *forger) { begin(f); f.json(recordPartBegin, noIndex, noIndex, timeBody{}) },
		"a part inside a part": func(f *forger) { begin(f); partOne(f); f.json(recordPartBegin, 1, noIndex, timeBody{}); f.complete() },
		"a step left out": func(f *forger) {
			begin(f)
			f.json(recordPartBegin, 0, noIndex, timeBody{})
			f.step(0, 0)
			rest(f)
		},
		"a step of another part": func(f *forger) { begin(f); f.json(recordPartBegin, 0, noIndex, timeBody{}); f.step(1, 0); rest(f) },
		"steps in another order": func(f *forger) {
			begin(f)
			f.json(recordPartBegin, 0, noIndex, timeBody{})
			f.step(0, 1)
			f.step(0, 0)
			rest(f)
		},
		"a step that is not in the job": func(f *forger) { begin(f); partOne(f); f.step(0, 2); rest(f) },
		"a step ended twice":            func(f *forger) { begin(f); partOne(f); f.json(recordStepEnd, 0, 1, StepEnd{}); rest(f) },
		"a step ended without a begin": func(f *forger) {
			begin(f)
			f.json(recordPartBegin, 0, noIndex, timeBody{})
			f.json(recordStepEnd, 0, 0, StepEnd{})
		},
		"a step begun and then skipped": func(f *forger) {
			begin(f)
			f.json(recordPartBegin, 0, noIndex, timeBody{})
			f.json(recordStepBegin, 0, 0, timeBody{})
			f.json(recordStepEnd, 0, 0, StepEnd{Skipped: true})
		},
		"output of no step":           func(f *forger) { begin(f); partOne(f); f.output(0, 1, Stdout, 0, "x"); rest(f) },
		"output of an unknown stream": func(f *forger) { runningStep(f, begin); f.output(0, 0, 3, 0, "x") },
		"output that goes back": func(f *forger) {
			runningStep(f, begin)
			f.output(0, 0, Stdout, 5, "abc")
			f.output(0, 0, Stdout, 7, "x")
		},
		"output from beyond 2^63": func(f *forger) { runningStep(f, begin); f.output(0, 0, Stdout, 1<<63+1, "x") },
		"output without a header": func(f *forger) { runningStep(f, begin); f.add(recordOutput, 0, 0, []byte{1, 2}) },
		"output with a dirty header": func(f *forger) {
			runningStep(f, begin)
			f.add(recordOutput, 0, 0, []byte{1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		},
		"more output than asked for": func(f *forger) { runningStep(f, begin); f.output(0, 0, Stdout, 0, strings.Repeat("x", 101)) },
		"less output than recorded": func(f *forger) {
			runningStep(f, begin)
			f.output(0, 0, Stdout, 0, "xyz")
			f.json(recordStepEnd, 0, 0, StepEnd{Stdout: 2})
		},
		"absurdly much output": func(f *forger) { runningStep(f, begin); f.json(recordStepEnd, 0, 0, StepEnd{Stdout: 1 << 62}) },
		"a file before the steps end": func(f *forger) {
			begin(f)
			f.json(recordPartBegin, 0, noIndex, timeBody{})
			f.file(0, "a", "x", "")
			f.step(0, 0)
			f.step(0, 1)
			rest(f)
		},
		"a file of another part":     func(f *forger) { begin(f); partOne(f); f.file(1, "a", "x", ""); rest(f) },
		"a file twice":               func(f *forger) { begin(f); partOne(f); f.file(0, "a", "x", ""); f.file(0, "a", "y", ""); rest(f) },
		"a file with a wrong digest": func(f *forger) { begin(f); partOne(f); f.file(0, "a", "x", noDigest); rest(f) },
		"a file inside a file": func(f *forger) {
			begin(f)
			partOne(f)
			f.json(recordFile, 0, noIndex, fileBody{Path: "a"})
			f.file(0, "b", "x", "")
			rest(f)
		},
		"a file without an end": func(f *forger) { begin(f); partOne(f); f.json(recordFile, 0, noIndex, fileBody{Path: "a"}); rest(f) },
		"a chunk of no file":    func(f *forger) { begin(f); partOne(f); f.add(recordChunk, 0, noIndex, []byte("x")); rest(f) },
		"an end of no file":     func(f *forger) { begin(f); partOne(f); f.json(recordFileEnd, 0, noIndex, fileEndBody{}); rest(f) },
		"an empty chunk": func(f *forger) {
			begin(f)
			partOne(f)
			f.json(recordFile, 0, noIndex, fileBody{Path: "a"})
			f.add(recordChunk, 0, noIndex, nil)
		},
		"a path that escapes":   func(f *forger) { begin(f); partOne(f); f.file(0, "../../etc/passwd", "x", ""); rest(f) },
		"an absolute path":      func(f *forger) { begin(f); partOne(f); f.file(0, "/etc/passwd", "x", ""); rest(f) },
		"a path with NUL":       func(f *forger) { begin(f); partOne(f); f.file(0, "a\x00b", "x", ""); rest(f) },
		"the folder itself":     func(f *forger) { begin(f); partOne(f); f.file(0, ".", "x", ""); rest(f) },
		"a name too long":       func(f *forger) { begin(f); partOne(f); f.file(0, long, "x", ""); rest(f) },
		"a record of no type":   func(f *forger) { begin(f); partOne(f); f.add(99, 0, noIndex, nil); rest(f) },
		"text that is not JSON": func(f *forger) { f.add(recordBegin, noIndex, noIndex, []byte("{")) },
		"text that is too long": func(f *forger) {
			f.add(recordBegin, noIndex, noIndex, []byte(`{"version":1,"agent":"`+strings.Repeat("x", maxControl)+`"}`))
		},
		"overflow without a loss": func(f *forger) {
			begin(f)
			partOne(f)
			endOne(f)
			partTwo(f)
			f.json(recordOverflow, noIndex, noIndex, overflowBody{Needed: 1 << 30})
			f.complete()
		},
		"a loss without overflow": func(f *forger) {
			begin(f)
			partOne(f)
			f.json(recordPartEnd, 0, noIndex, partEndBody{Missed: 1})
			partTwo(f)
			f.complete()
		},
		"overflow that needs less": func(f *forger) {
			begin(f)
			partOne(f)
			f.json(recordPartEnd, 0, noIndex, partEndBody{Missed: 1})
			partTwo(f)
			f.json(recordOverflow, noIndex, noIndex, overflowBody{Needed: 1})
			f.complete()
		},
		"a negative loss": func(f *forger) { begin(f); partOne(f); f.json(recordPartEnd, 0, noIndex, partEndBody{Missed: -1}) },
		"completion over fewer records": func(f *forger) {
			begin(f)
			partOne(f)
			endOne(f)
			partTwo(f)
			f.number--
			body := make([]byte, completeSize)
			binary.LittleEndian.PutUint64(body, uint64(f.number))
			f.number++
			copy(body[16:], f.check[:])
			binary.LittleEndian.PutUint64(body[8:], uint64(f.pos-f.ticket.Records))
			f.add(recordComplete, noIndex, noIndex, body)
		},
		"completion after a fault": func(f *forger) {
			begin(f)
			partOne(f)
			f.json(recordFault, noIndex, noIndex, faultBody{Error: "no disk"})
			rest(f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts := twoParts()
			size, err := JobSize(parts)
			require.NoError(t, err)
			d := newMemDisk(size)
			ticket, err := WriteJob(t.Context(), d, size, parts, &JobOptions{OutputHead: 40, OutputTail: 60})
			require.NoError(t, err)
			f := newForger(t, d, ticket)
			lie(f)
			res, err := ReadResults(t.Context(), d, size, ticket, nil)
			require.NoError(t, err)
			require.Error(t, res.Damage)
			t.Log(res.Damage)
			require.False(t, res.Complete)
			for _, p := range res.Parts {
				require.True(t, p.Partial)
				require.False(t, p.OK())
				for _, a := range p.Artifacts {
					require.Equal(t, "", pathRule(a.Path, false))
				}
			}
		})
	}
}

func runningStep(f *forger, begin func(*forger)) {
	begin(f)
	f.json(recordPartBegin, 0, noIndex, timeBody{})
	f.json(recordStepBegin, 0, 0, timeBody{})
}

func TestAnEscapingArtifactIsRefusedAndReported(t *testing.T) {
	t.Parallel()
	parts := twoParts()[1:]
	size, err := JobSize(parts)
	require.NoError(t, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	f := newForger(t, d, ticket)
	f.json(recordBegin, noIndex, noIndex, beginBody{Version: jobVersion})
	f.json(recordPartBegin, 0, noIndex, timeBody{})
	f.step(0, 0)
	f.file(0, "fine", "x", "")
	f.file(0, "../out", "x", "")
	res, err := ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.ErrorIs(t, res.Damage, ErrCorrupt)
	require.ErrorContains(t, res.Damage, "../out")
	require.Len(t, res.Parts[0].Refused, 1)
	require.Equal(t, "../out", res.Parts[0].Refused[0].Path)
	dir := filepath.Join(t.TempDir(), "x")
	require.NoError(t, res.ExtractArtifacts(t.Context(), "two", dir))
	b, err := os.ReadFile(filepath.Join(dir, "fine"))
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

func TestReadLimitsEndTheReadingAndSayWhich(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]ReadOptions{
		"records":   {MaxRecords: 5},
		"bytes":     {MaxBytes: 1000},
		"output":    {MaxOutput: 3},
		"artifacts": {MaxArtifacts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _, ticket, truth := smallJob(t)
			got, err := ReadResults(t.Context(), d, d.Size(), ticket, &o)
			require.NoError(t, err)
			require.ErrorIs(t, got.Damage, ErrLimit)
			require.ErrorContains(t, got.Damage, name)
			requireNeverWrong(t, truth, got, name)
		})
	}
}

func TestAFaultOfTheGuestIsTold(t *testing.T) {
	t.Parallel()
	parts := twoParts()
	size, err := JobSize(parts)
	require.NoError(t, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, size, "")
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, "agent", "boot")
	require.NoError(t, err)
	require.NoError(t, r.PartBegin(0))
	// The text is as long as a guest can make it, and hostile to terminals.
	require.Error(t, r.Fault(errors.New("no room left"+strings.Repeat("\x01", 5000))))
	require.Error(t, r.Finish(), "a job with a fault has no completion")
	res, err := ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.False(t, res.Complete)
	require.Contains(t, res.Fault, "no room left")
	require.ErrorContains(t, res.Damage, "no room left")
	require.NotContains(t, res.Damage.Error(), "\x01")
	require.Equal(t, "agent", res.Agent)
}

// countingDisk is a huge disk of which only the begin exists.
type countingDisk struct {
	*memDisk
	size, read int64
}

func (d *countingDisk) Size() int64 { return d.size }
func (d *countingDisk) ReadAt(p []byte, off int64) (int, error) {
	d.read += int64(len(p))
	if off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("read of %d bytes at %d leaves the disk", len(p), off)
	}
	clear(p)
	if off < int64(len(d.b)) {
		copy(p, d.b[off:])
	}
	return len(p), nil
}

func TestShortResultsOnAHugeDiskCostLittleToRead(t *testing.T) {
	t.Parallel()
	const size = 64 << 30
	d := &countingDisk{memDisk: newMemDisk(1 << 20), size: size}
	parts := twoParts()
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, size, ticket.Nonce)
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, "", "")
	require.NoError(t, err)
	for i, p := range j.Parts() {
		require.NoError(t, r.PartBegin(i))
		for k := range p.Steps {
			require.NoError(t, r.StepBegin(i, k))
			require.NoError(t, r.StepEnd(i, k, StepEnd{}))
		}
		require.NoError(t, r.PartEnd(i))
	}
	require.NoError(t, r.Finish())
	d.read = 0
	res, err := ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.True(t, res.Complete)
	require.Less(t, d.read, int64(200<<10))
}

func TestErrorsOfTheDiskAndTheContextAreErrorsNotDamage(t *testing.T) {
	t.Parallel()
	d, _, ticket, _ := smallJob(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := ReadResults(ctx, d, d.Size(), ticket, nil)
	require.ErrorContains(t, err, "enough")

	broken := errors.New("the cable is out")
	_, err = ReadResults(t.Context(), readerAtFunc(func(p []byte, off int64) (int, error) {
		if off >= ticket.Records {
			return 0, broken
		}
		return d.ReadAt(p, off)
	}), d.Size(), ticket, nil)
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, ErrCorrupt)

	_, err = ReadResults(t.Context(), d, d.Size()-4096, ticket, nil)
	require.ErrorIs(t, err, ErrCorrupt, "a disk that was cut off")
	_, err = ReadResults(t.Context(), d, d.Size(), Ticket{}, nil)
	require.ErrorContains(t, err, "ticket")
	wrong := ticket
	wrong.Records += 4096
	_, err = ReadResults(t.Context(), d, d.Size(), wrong, nil)
	require.ErrorContains(t, err, "ticket")
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

var _ io.ReaderAt = readerAtFunc(nil)
