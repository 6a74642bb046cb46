package diskio

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// memDisk is a disk in memory.
type memDisk struct {
	mu sync.Mutex
	b  []byte
}

func newMemDisk(size int64) *memDisk { return &memDisk{b: make([]byte, size)} }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= int64(len(d.b)) {
		return 0, io.EOF
	}
	n := copy(p, d.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > int64(len(d.b)) {
		return 0, fmt.Errorf("write of %d bytes at %d leaves the disk of %d", len(p), off, len(d.b))
	}
	return copy(d.b[off:], p), nil
}

func (d *memDisk) Size() int64 { return int64(len(d.b)) }

// guestRun does as a guest: it opens the job and records a run in which each
// step prints its name and each part has an artifact.
func guestRun(t testing.TB, d *memDisk, nonce string) {
	j, err := OpenJob(d, d.Size(), nonce)
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, "test", "boot")
	require.NoError(t, err)
	for i, p := range j.Parts() {
		require.NoError(t, r.PartBegin(i))
		for k, s := range p.Steps {
			require.NoError(t, r.StepBegin(i, k))
			require.NoError(t, r.Output(i, k, Stdout, 0, []byte(s.Name+"\n")))
			require.NoError(t, r.StepEnd(i, k, StepEnd{Stdout: int64(len(s.Name)) + 1}))
		}
		body := []byte("artifact of " + p.ID)
		require.NoError(t, r.File(i, "logs/a.txt", 0o640, int64(len(body)), bytes.NewReader(body)))
		require.NoError(t, r.PartEnd(i))
	}
	require.NoError(t, r.Finish())
}

func twoParts() []Part {
	return []Part{
		{ID: "one", Job: Job{Steps: Commands("a", "b"), Files: []File{{Path: "bin/x", Mode: 0o755, Data: []byte("#!/bin/sh\n")}}, Results: 8192}},
		{ID: "two", Job: Job{Steps: Commands("c"), Env: map[string]string{"K": "v"}, Results: 8192}},
	}
}

func TestJobDiskCarriesAJobInAndItsResultsOut(t *testing.T) {
	t.Parallel()
	parts := twoParts()
	size, err := JobSize(parts)
	require.NoError(t, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)

	j, err := OpenJob(d, size, ticket.Nonce)
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two"}, []string{j.Parts()[0].ID, j.Parts()[1].ID})
	data, err := io.ReadAll(j.File(j.Parts()[0].Files[0]))
	require.NoError(t, err)
	require.Equal(t, "#!/bin/sh\n", string(data))

	guestRun(t, d, ticket.Nonce)
	res, err := ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.NoError(t, res.Damage)
	require.True(t, res.Complete)
	require.True(t, res.Parts[0].OK())
	require.True(t, res.Parts[1].OK())
	require.Equal(t, "b\n", string(res.Parts[0].Steps[1].Stdout))
	f, err := res.Open("two", "logs/a.txt")
	require.NoError(t, err)
	data, err = io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "artifact of two", string(data))
}
