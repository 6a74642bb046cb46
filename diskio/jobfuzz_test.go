package diskio

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzOpenJob reads job disks from anybody: as they are, and with a document
// around which a right superblock is put, so that the fuzzer gets past the
// checksums.
func FuzzOpenJob(f *testing.F) {
	parts := twoParts()
	parts[0].Job.Results, parts[1].Job.Results = 1, 1
	size, err := JobSize(parts)
	require.NoError(f, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(f.Context(), d, size, parts, &JobOptions{Nonce: "000102030405060708090a0b0c0d0e0f"})
	require.NoError(f, err)
	j, err := OpenJob(d, size, ticket.Nonce)
	require.NoError(f, err)
	f.Add(d.b[:5000], false)
	f.Add(d.b[j.super.docOff:j.super.docOff+j.super.docLen], true)
	f.Add([]byte(`{"version":1,"output_head":1,"output_tail":1,"parts":[{"id":"a","steps":[{"argv":["x"]}],"files":[{"path":"a","offset":512,"size":9223372036854775807}]}]}`), true)
	f.Fuzz(func(t *testing.T, b []byte, document bool) {
		if document {
			s := jobSuper{filesOff: superSize, filesLen: 64, docOff: superSize + 64, docLen: int64(len(b)), docSum: sha256.Sum256(b)}
			s.recordsOff = jobAlign(s.docOff+s.docLen, recordsAlign)
			s.size, s.recordEnd = s.recordsOff+8192, s.recordsOff+8192
			disk := make([]byte, s.size)
			copy(disk, s.encode())
			copy(disk[s.docOff:], b)
			b = disk
		}
		j, err := OpenJob(bytes.NewReader(b), int64(len(b)), "")
		if err != nil {
			return
		}
		for _, p := range j.Parts() {
			require.NotEmpty(t, p.Steps)
			for _, s := range p.Steps {
				require.NotEmpty(t, s.Argv)
				require.GreaterOrEqual(t, s.Timeout, time.Duration(0))
			}
			for _, file := range p.Files {
				require.Empty(t, pathRule(file.Path, false))
				n, _ := io.Copy(io.Discard, j.File(file))
				require.LessOrEqual(t, n, int64(len(b)))
			}
		}
		_, err = NewRecorder(&memDisk{b: b}, j, nil, "", "")
		_ = err // a disk without room for results is an error, not a panic
	})
}

// FuzzReadResults reads records from a guest that gets every checksum right:
// the input is a script of records. In raw mode it is what stands on the disk.
func FuzzReadResults(f *testing.F) {
	parts := twoParts()
	parts[0].Job.Results, parts[1].Job.Results = 1500, 1500
	size, err := JobSize(parts)
	require.NoError(f, err)
	blank := newMemDisk(size)
	ticket, err := WriteJob(f.Context(), blank, size, parts, &JobOptions{Nonce: "000102030405060708090a0b0c0d0e0f", OutputHead: 50, OutputTail: 50})
	require.NoError(f, err)
	whole := &memDisk{b: bytes.Clone(blank.b)}
	guestRun(f, whole, ticket.Nonce)
	truth, err := ReadResults(f.Context(), whole, size, ticket, nil)
	require.NoError(f, err)
	records := whole.b[ticket.Records : ticket.Records+truth.Bytes]
	f.Add(records, true)
	f.Add(scriptOf(records), false)
	f.Fuzz(func(t *testing.T, b []byte, raw bool) {
		d := &memDisk{b: bytes.Clone(blank.b)}
		if raw {
			copy(d.b[ticket.Records:], b)
		} else {
			forge(newForger(t, d, ticket), b)
		}
		res, err := ReadResults(t.Context(), d, size, ticket, nil)
		require.NoError(t, err)
		require.Equal(t, res.Complete, res.Damage == nil)
		require.LessOrEqual(t, res.Bytes, size)
		for i, p := range res.Parts {
			require.Equal(t, ticket.Parts[i].ID, p.ID)
			require.Len(t, p.Steps, len(ticket.Parts[i].Steps))
			if !res.Complete && res.Needed == 0 {
				require.True(t, p.Partial)
			}
			if p.OK() {
				require.True(t, p.Ended)
			}
			seen := map[string]bool{}
			for _, a := range p.Artifacts {
				require.Empty(t, pathRule(a.Path, false))
				require.False(t, seen[a.Path])
				seen[a.Path] = true
				n, err := io.Copy(io.Discard, res.open(a))
				require.NoError(t, err)
				require.Equal(t, a.Size, n)
			}
			for _, s := range p.Steps {
				require.LessOrEqual(t, len(s.Stdout), 100)
				require.GreaterOrEqual(t, s.StdoutCut, int64(0))
				require.LessOrEqual(t, s.StdoutHead, len(s.Stdout))
			}
		}
	})
}

// scriptOf makes a script of records.
func scriptOf(records []byte) []byte {
	var script []byte
	for len(records) >= recordHeader {
		le := binary.LittleEndian
		n := le.Uint32(records[20:])
		script = append(script, records[4], records[12], records[16])
		script = le.AppendUint16(script, uint16(n))
		script = append(script, records[recordHeader:recordHeader+n]...)
		records = records[recordHeader+n:]
	}
	return script
}

// forge plays a script: type, part, step, length and body of each record. A
// completion is made right, so that only the order of records decides.
func forge(f *forger, script []byte) {
	index := func(b byte) uint32 {
		if b == 0xFF {
			return noIndex
		}
		return uint32(b)
	}
	for len(script) >= 5 {
		n := min(int(binary.LittleEndian.Uint16(script[3:])), len(script)-5)
		kind, body := recordType(script[0]), script[5:5+n]
		if kind == recordComplete {
			f.complete()
		} else {
			f.add(kind, index(script[1]), index(script[2]), body)
		}
		script = script[5+n:]
	}
}
