package diskio

import (
	"bytes"
	"encoding/hex"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// smallJob is a finished job on the smallest disk that takes it.
func smallJob(t testing.TB) (d *memDisk, before []byte, ticket Ticket, truth *Results) {
	parts := twoParts()
	parts[0].Job.Results, parts[1].Job.Results = 1500, 1500
	size, err := JobSize(parts)
	require.NoError(t, err)
	d = newMemDisk(size)
	ticket, err = WriteJob(t.Context(), d, size, parts, &JobOptions{Nonce: "000102030405060708090a0b0c0d0e0f"})
	require.NoError(t, err)
	before = bytes.Clone(d.b)
	guestRun(t, d, ticket.Nonce)
	truth, err = ReadResults(t.Context(), d, size, ticket, nil)
	require.NoError(t, err)
	require.True(t, truth.Complete, truth.Damage)
	return d, before, ticket, truth
}

// requireNeverWrong holds what was read from a damaged disk against the truth:
// all of it must be said to be partial, and what is told must be true.
func requireNeverWrong(t testing.TB, truth, got *Results, what string, args ...any) {
	require.False(t, got.Complete, what, args)
	require.Error(t, got.Damage, what, args)
	require.Len(t, got.Parts, len(truth.Parts))
	for i, p := range got.Parts {
		want := truth.Parts[i]
		require.True(t, p.Partial, what, args)
		require.False(t, p.OK(), what, args)
		require.Equal(t, want.ID, p.ID)
		for k, s := range p.Steps {
			if s.Ended {
				require.Equal(t, want.Steps[k], s, what, args)
			}
			require.True(t, bytes.HasPrefix(want.Steps[k].Stdout, s.Stdout), what, args)
		}
		require.LessOrEqual(t, len(p.Artifacts), len(want.Artifacts))
		for k, a := range p.Artifacts {
			require.Equal(t, want.Artifacts[k], a, what, args)
		}
	}
}

func TestAnyByteChangedOnAFinishedJobDiskIsRefusedOrPartialNeverWrong(t *testing.T) {
	t.Parallel()
	d, _, ticket, truth := smallJob(t)
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	s := j.super
	recordsEnd := ticket.Records + truth.Bytes
	// These bytes carry nothing that results depend on: the carried files, which
	// the guest checked when it read them (the test below changes them before
	// the run), the gap in front of the records, and what is behind the
	// completion record.
	dead := func(at int64) bool {
		return at >= s.filesOff && at < s.filesOff+s.filesLen || at >= s.docOff+s.docLen && at < s.recordsOff || at >= recordsEnd
	}
	var refused, partial, same int
	for at := range d.Size() {
		for _, mask := range [...]byte{0x01, 0x80, 0xFF} {
			d.b[at] ^= mask
			got, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
			switch {
			case err != nil:
				require.ErrorIs(t, err, ErrCorrupt)
				require.Less(t, at, s.recordsOff)
				refused++
			case dead(at):
				require.Equal(t, truth, got, "byte %d", at)
				same++
			default:
				require.GreaterOrEqual(t, at, s.recordsOff)
				requireNeverWrong(t, truth, got, "byte", at)
				partial++
			}
			if dead(at) {
				require.NoError(t, err)
			}
			d.b[at] ^= mask
			if dead(at) {
				break // one change is as good as another where nothing is read
			}
		}
	}
	require.Equal(t, int64(refused), 3*(superSize+s.docLen))
	require.Equal(t, int64(partial), 3*truth.Bytes)
	require.Positive(t, same)
}

func TestAnyByteChangedOnAJobDiskBeforeTheRunIsRefusedByTheGuest(t *testing.T) {
	t.Parallel()
	_, before, ticket, _ := smallJob(t)
	d := &memDisk{b: before}
	whole := func() error {
		j, err := OpenJob(d, d.Size(), ticket.Nonce)
		if err != nil {
			return err
		}
		for _, p := range j.Parts() {
			for _, f := range p.Files {
				if _, err := io.Copy(io.Discard, j.File(f)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	require.NoError(t, whole())
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	for at := range j.super.docOff + j.super.docLen {
		for _, mask := range [...]byte{0x01, 0x80, 0xFF} {
			d.b[at] ^= mask
			err := whole()
			require.True(t, assert.ErrorIs(t, err, ErrCorrupt) || assert.ErrorIs(t, err, ErrUnsupported), "byte %d", at)
			d.b[at] ^= mask
		}
	}
}

func TestAGuestKilledAtAnyByteOfItsRecordsIsPartialAndNeverPassed(t *testing.T) {
	t.Parallel()
	d, before, ticket, truth := smallJob(t)
	after := bytes.Clone(d.b)
	finished := 0
	for n := range truth.Bytes {
		// The guest got n bytes down; behind them is what was there before.
		copy(d.b, before)
		copy(d.b[ticket.Records:], after[ticket.Records:ticket.Records+n])
		got, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
		require.NoError(t, err)
		requireNeverWrong(t, truth, got, "cut at", n)
		if got.Parts[0].Ended {
			finished++
			require.Len(t, got.Parts[0].Artifacts, 1)
		}
	}
	require.Positive(t, finished, "a finished part in front of the crash is read")
}

func TestAHoleInTheMiddleOfTheRecordsIsSeen(t *testing.T) {
	t.Parallel()
	d, _, ticket, truth := smallJob(t)
	after := bytes.Clone(d.b)
	// Sectors that never reached the disk although later ones did.
	for at := ticket.Records; at < ticket.Records+truth.Bytes; at += 512 {
		copy(d.b, after)
		clear(d.b[at:min(at+512, ticket.Records+truth.Bytes)])
		got, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
		require.NoError(t, err)
		requireNeverWrong(t, truth, got, "hole at", at)
	}
}

func TestRecordsOfAnEarlierJobOnTheSameDiskNeverCount(t *testing.T) {
	t.Parallel()
	d, _, old, _ := smallJob(t)
	stale := bytes.Clone(d.b)
	parts := twoParts()
	parts[0].Job.Results, parts[1].Job.Results = 1500, 1500
	// The very same job again: only the nonce differs.
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
	require.NoError(t, err)
	require.Equal(t, old.Records, ticket.Records)
	// The worst case: even the wiped first header is back, as a lost write.
	copy(d.b[ticket.Records:], stale[ticket.Records:])
	got, err := ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.NoError(t, err)
	require.False(t, got.Complete)
	require.Zero(t, got.Records)
	require.False(t, got.Parts[0].Started)

	// A new run that ends early, with the rest of the old one right behind it.
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	r, err := NewRecorder(d, j, nil, "test", "boot")
	require.NoError(t, err)
	require.NoError(t, r.PartBegin(0))
	got, err = ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.NoError(t, err)
	require.Equal(t, 2, got.Records)
	require.True(t, got.Parts[0].Started)
	require.False(t, got.Parts[0].Ended)

	// The whole old disk: it is not the job that was written.
	copy(d.b, stale)
	_, err = ReadResults(t.Context(), d, d.Size(), ticket, nil)
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = OpenJob(d, d.Size(), ticket.Nonce)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestAGuestThatRewritesItsJobIsRefused(t *testing.T) {
	t.Parallel()
	// It writes a whole job of its own with the nonce it was told, and passes.
	parts := twoParts()
	size, err := JobSize(parts)
	require.NoError(t, err)
	d := newMemDisk(size)
	ticket, err := WriteJob(t.Context(), d, size, parts, nil)
	require.NoError(t, err)
	parts[0].Job.Steps[0].Argv[2] = "true"
	_, err = WriteJob(t.Context(), d, size, parts, &JobOptions{Nonce: ticket.Nonce})
	require.NoError(t, err)
	guestRun(t, d, ticket.Nonce)
	_, err = ReadResults(t.Context(), d, size, ticket, nil)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestArtifactsAreCheckedAgainWhenTheyAreOpened(t *testing.T) {
	t.Parallel()
	d, _, _, truth := smallJob(t)
	at := truth.Parts[1].Artifacts[0].chunks[0].off
	d.b[at] ^= 1
	f, err := truth.Open("two", "logs/a.txt")
	require.NoError(t, err)
	_, err = io.ReadAll(f)
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = truth.Open("two", "absent")
	require.Error(t, err)
	_, err = hex.DecodeString(truth.Parts[1].Artifacts[0].Digest[len(digestPrefix):])
	require.NoError(t, err)
}
