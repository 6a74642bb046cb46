package diskio

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// File records one artifact of a part, of at most size bytes: what a file gains
// while it is read is left out. When all of it has no room on the disk, nothing
// of it is read and its size is counted. A read that fails ends the recording
// of this file with a refusal, not of the job.
func (r *Recorder) File(part int, path string, mode fs.FileMode, size int64, from io.Reader) error {
	if rule := pathRule(path, false); rule != "" {
		return r.Refuse(part, path, "its path is not "+rule)
	}
	head, err := json.Marshal(fileBody{Path: path, Mode: uint32(mode.Perm())})
	if err != nil {
		return err
	}
	chunks := (size + chunkSize - 1) / chunkSize
	need := recordHeader + int64(len(head)) + chunks*recordHeader + size + fileEndRoom
	if !r.room(need) {
		return nil
	}
	if err := r.data(recordFile, uint32(part), noIndex, head); err != nil {
		return err
	}
	sum := sha256.New()
	buf := make([]byte, min(size, chunkSize))
	var n int64
	for n < size {
		k, err := io.ReadFull(from, buf[:min(size-n, chunkSize)])
		sum.Write(buf[:k])
		n += int64(k)
		if k > 0 {
			if err := r.data(recordChunk, uint32(part), noIndex, buf[:k]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return r.fileEnd(part, fileEndBody{Size: n, Error: clip(fmt.Sprintf("reading it failed after %d bytes: %v", n, err), 256)})
		}
	}
	return r.fileEnd(part, fileEndBody{Size: n, Digest: digestText(sum.Sum(nil))})
}

func (r *Recorder) fileEnd(part int, b fileEndBody) error {
	body, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return r.data(recordFileEnd, uint32(part), noIndex, body)
}

// room tells whether n bytes of data fit, and counts them as missed when not.
func (r *Recorder) room(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pos+n+r.reserve <= r.end {
		return true
	}
	r.missed += n
	r.partial += n
	return false
}
