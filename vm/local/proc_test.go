package local

import (
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const statTail = " 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 9876 1 2 3\n"

func TestAProcessIsReadWhateverItsName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sh", "", "a b", ") S 1", "((", "))", "x) Z 9 9 (y", "line\nbreak", "\xff\x00"} {
		p, err := parseStat([]byte("42 (" + name + ") S 17" + statTail))
		require.NoError(t, err, "%q", name)
		assert.Equal(t, process{procID{42, 9876}, 17, 'S', 3}, p, "%q", name)
	}
}

func TestAProcessThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for _, b := range []string{
		"", "42", "42 (sh", "42 sh) S 17" + statTail, "x (sh) S 17" + statTail, "42 (sh) S", "42 (sh) SS 17" + statTail, "42 (sh) \x00 17" + statTail,
		"42 (sh) S x" + statTail, "42 (sh) S 17 1 2 3", "42 (sh) S 17 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 x 0 9876", "42 (sh) S 17 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 -1",
	} {
		_, err := parseStat([]byte(b))
		assert.Error(t, err, "%q", b)
	}
}

func TestOnlyARealZombieIsDead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state   byte
		threads int
		dead    bool
	}{{'Z', 1, true}, {'Z', 0, true}, {'X', 0, true}, {'x', 0, true}, {'R', 1, false}, {'S', 1, false}, {'D', 1, false}, {'T', 1, false},
		{'Z', 2, false}, // its first thread has ended, another one runs
	} {
		assert.Equal(t, c.dead, process{state: c.state, threads: c.threads}.dead(), "%c with %d threads", c.state, c.threads)
	}
}

func TestAPendingStopIsFoundInAStatus(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"Name:\tsh\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000040000\nSigBlk:\t0000000000000000\n": true,
		"Name:\tsh\nSigPnd:\t0000000000040100\nShdPnd:\t0000000000000000\n":                            true,
		"Name:\tsh\nSigPnd:\t0000000000020000\nShdPnd:\t0000000000080000\nSigBlk:\t0000000000040000\n": false,
		"Name:\tShdPnd:\nShdPnd:\tx\n": false,
		"":                             false,
	} {
		assert.Equal(t, want, stopPending([]byte(text)), "%q", text)
	}
}

func TestThisProcessIsInTheTable(t *testing.T) {
	t.Parallel()
	me, err := self()
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), me.PID)
	assert.NotZero(t, me.Start)
	all, err := table()
	require.NoError(t, err)
	found := false
	for _, p := range all {
		if p.procID == me {
			found = true
			assert.Equal(t, os.Getppid(), p.parent)
		}
	}
	assert.True(t, found)
	require.NoError(t, checkProc())
	hostRun, pids, err := where()
	require.NoError(t, err)
	assert.NotEmpty(t, hostRun)
	assert.Contains(t, pids, "pid:[")
}

func TestAProcessThatIsNotThereIsSaidSo(t *testing.T) {
	t.Parallel()
	_, err := lookup(1 << 30)
	require.ErrorIs(t, err, fs.ErrNotExist)
	alive, err := procID{PID: 1 << 30}.alive()
	require.NoError(t, err)
	assert.False(t, alive)
}

func TestTheMarkInTheLimitsIsRead(t *testing.T) {
	t.Parallel()
	const head = "Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \n"
	v, err := parseLimitMark([]byte(head + "Max realtime timeout      17                   2305843009213693952  us        \n"))
	require.NoError(t, err)
	assert.Equal(t, uint64(1<<61), v)
	v, err = parseLimitMark([]byte(head + "Max realtime timeout      unlimited            unlimited            us"))
	require.NoError(t, err)
	assert.Zero(t, v)
	for _, b := range []string{"", head, head + "Max realtime timeout", head + "Max realtime timeout x", head + "Max realtime timeout 1 x us"} {
		_, err := parseLimitMark([]byte(b))
		assert.Error(t, err, "%q", b)
	}
}

func TestMarksDifferAndHaveNoEffect(t *testing.T) {
	t.Parallel()
	seen := map[uint64]bool{}
	for i := range 1000 {
		v := limitMark(string(rune(i)))
		assert.GreaterOrEqual(t, v, uint64(1<<61))
		assert.Less(t, v, uint64(1<<63)) // the kernel's numbers for infinity start there
		seen[v] = true
	}
	assert.Len(t, seen, 1000)
}

func TestAVariableIsFoundWholeOnly(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]bool{
		"": false, "M=1": true, "M=1\x00": true, "A=\x00M=1\x00B=": true, "M=12\x00": false, "XM=1\x00": false, "A=\nM=1\x00": false, "M=": false,
	} {
		assert.Equal(t, want, hasVar([]byte(env), []byte("M=1")), "%q", env)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (sh) S 17" + statTail))
	f.Add([]byte("42 (a) S 1 (b) S 17" + statTail))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseStat(b); err == nil && p.state == 0 {
			t.Fatal("a process without a state")
		}
	})
}

func FuzzParseLimitMark(f *testing.F) {
	f.Add([]byte("Max realtime timeout      unlimited            2305843009213693952  us        \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseLimitMark(b)
	})
}
