package sqlstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func twoGates(t *testing.T) (a, b *gate) {
	path := filepath.Join(t.TempDir(), "leases.db")
	for _, g := range []**gate{&a, &b} {
		var err error
		*g, err = openGate(path, 0o600)
		require.NoError(t, err)
		t.Cleanup(func() { (*g).close() })
	}
	return a, b
}

func TestWhoWaitsForTheGateIsToldWhoHoldsIt(t *testing.T) {
	a, b := twoGates(t)
	require.NoError(t, a.lock(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := b.lock(ctx)
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, fmt.Sprintf("-gate, held by pid %d", os.Getpid()))
	require.NoError(t, a.unlock())
	require.NoError(t, b.lock(t.Context()))
	require.NoError(t, b.unlock())
}

func TestWhoIsStuckInTheTurnstileIsPassedBy(t *testing.T) {
	a, b := twoGates(t)
	require.NoError(t, flock(a.turn, syscall.LOCK_EX))
	require.NoError(t, b.lock(t.Context()))
	assert.True(t, b.stuckUntil.After(time.Now()))
	require.NoError(t, b.unlock())
}

func TestATurnEndsByTime(t *testing.T) {
	a, b := twoGates(t)
	require.NoError(t, a.lock(t.Context()))
	require.NoError(t, a.unlock())
	assert.LessOrEqual(t, time.Until(a.turnUntil), turn)
	require.NoError(t, flock(b.turn, syscall.LOCK_EX)) // b waits for the gate

	a.turnUntil = time.Now().Add(time.Hour)
	require.NoError(t, a.lock(t.Context()))
	assert.Zero(t, a.stuckUntil, "it was a's turn still: the turnstile was not asked")
	require.ErrorIs(t, flock(b.file, syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	require.NoError(t, a.unlock())

	a.turnUntil = time.Now()
	require.NoError(t, a.lock(t.Context()))
	assert.NotZero(t, a.stuckUntil, "the turn is over: b goes first, as long as it is not stuck")
}

func TestAGateThatAnotherTookWithinATurnIsWaitedFor(t *testing.T) {
	a, b := twoGates(t)
	require.NoError(t, a.lock(t.Context()))
	require.NoError(t, a.unlock())
	a.turnUntil = time.Now().Add(time.Hour)
	require.NoError(t, b.lock(t.Context()))
	freed := make(chan error, 1)
	time.AfterFunc(5*time.Millisecond, func() { freed <- b.unlock() })
	require.NoError(t, a.lock(t.Context()))
	require.NoError(t, <-freed)
}

// A line, roughly: who waits longer tries more often, and never too often.
func TestWhoWaitsLongerAtTheTurnstileTriesMoreOften(t *testing.T) {
	last := time.Hour
	for waited := time.Duration(0); waited < 2*turnPatience; waited += 50 * time.Microsecond {
		pause := turnPause(waited)
		require.LessOrEqual(t, pause, last)
		require.GreaterOrEqual(t, pause, 100*time.Microsecond)
		require.GreaterOrEqual(t, gatePause(waited), 50*time.Microsecond)
		require.LessOrEqual(t, gatePause(waited), turn)
		last = pause
	}
	require.Less(t, 10*last, turnPause(0))
}

func TestOneIsBehindTheGateAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	var wg sync.WaitGroup
	inside := 0 // guarded by the gate: the race detector looks
	var mu sync.Mutex
	for range 4 {
		wg.Go(func() {
			g, err := openGate(path, 0o600)
			if !assert.NoError(t, err) {
				return
			}
			defer g.close()
			for range 50 {
				if !assert.NoError(t, g.lock(context.Background())) {
					return
				}
				mu.Lock()
				inside++
				assert.Equal(t, 1, inside)
				inside--
				mu.Unlock()
				assert.NoError(t, g.unlock())
			}
		})
	}
	wg.Wait()
}

func TestTheGateFileRemembersWhatWasReached(t *testing.T) {
	a, b := twoGates(t)
	got, err := a.reached()
	require.NoError(t, err)
	assert.Zero(t, got)
	want := reached{"0f1e", 1 << 40}
	require.NoError(t, a.note(want))
	require.NoError(t, b.read())
	got, err = b.reached()
	require.NoError(t, err)
	assert.Equal(t, want, got)

	line := want.String()
	for i := range line { // any flip is seen
		bad := []byte(line)
		bad[i] ^= 1
		_, err := parseReached(bad)
		require.ErrorIs(t, err, ErrDamaged, "byte %d", i)
	}
	m := meta{id: "0f1e", commits: 1<<40 - 1}
	err = m.atLeast(want)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "remove the gate file to accept it")
	m.commits++
	require.NoError(t, m.atLeast(want))
	m.id = "other"
	require.ErrorIs(t, m.atLeast(want), ErrDamaged)
}

func TestAGateThatWasTakenOffItsPathIsNone(t *testing.T) {
	a, _ := twoGates(t)
	require.NoError(t, a.inPlace())
	require.NoError(t, os.Remove(a.path))
	require.ErrorIs(t, a.inPlace(), ErrDamaged)
}

func TestLocksAreFoundByTheirInode(t *testing.T) {
	const text = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:00:77 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n3: FLOCK  ADVISORY  WRITE 13 fe:00:177 0 EOF\n"
	assert.Equal(t, 4711, findLock(text, 77))
	assert.Equal(t, 13, findLock(text, 177))
	assert.Zero(t, findLock(text, 7))
}

func FuzzParseReached(f *testing.F) {
	f.Add(reached{"id", 3}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseReached([]byte(line))
		if err == nil && r != (reached{}) && r.String() != strings.TrimRight(line, "\x00 \n") {
			t.Errorf("%q is read as %v", line, r)
		}
	})
}
