package libvirt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// thirdComputer opens a driver of another computer for the same far one.
func thirdComputer(t *testing.T, h *fakeHost, name string) *Driver {
	t.Helper()
	d, err := open(t.Context(), Config{URI: "qemu+ssh://far.example/system", Root: filepath.Join(h.dir, name)}, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// inputsOf gives the names of the inputs' volumes.
func inputsOf(t *testing.T, h *fakeHost) (names []string) {
	t.Helper()
	for _, name := range volumesOf(t, h) {
		if strings.HasPrefix(name, inputPrefix) {
			names = append(names, name)
		}
	}
	return names
}

// counted counts the pieces of inputs that are sent.
func counted(h *fakeHost) *atomic.Int64 {
	var n atomic.Int64
	h.hooks(func(op, _ string) error {
		if op == "upload" {
			n.Add(1)
		}
		return nil
	}, nil)
	return &n
}

// in gives the file that a machine's place has in its run, or in its next.
func in(t *testing.T, m *machine, place int, live bool) string {
	t.Helper()
	path, err := m.plugged(t.Context(), place, live)
	require.NoError(t, err)
	return path
}

func TestAnInputFarAwayIsSentOnceForAllMachinesAndComputers(t *testing.T) {
	h, d := openFar(t)
	big := fakeImage("big", 3*farPiece)
	n := counted(h)
	var first string
	for range 3 {
		m := startFake(t, d, fakeSpec())
		for place := range 2 {
			require.NoError(t, m.Insert(t.Context(), place, big))
		}
		for _, live := range []bool{true, false} {
			path := in(t, m, 0, live)
			require.NotEmpty(t, path)
			assert.Equal(t, path, in(t, m, 1, live), "one file in both places")
			if first == "" {
				first = path
			}
			assert.Equal(t, first, path, "one file in all machines")
		}
		got, err := os.ReadFile(first)
		require.NoError(t, err)
		want := make([]byte, big.Size())
		_, err = big.ReadAt(want, 0)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, got))
		stock, err := d.Stock(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{big.Digest()}, stock)
	}
	assert.Equal(t, int64(3+3*2), n.Load(), "three pieces, and a byte for each use")
	third := thirdComputer(t, h, "third")
	m := startFake(t, third, fakeSpec())
	require.NoError(t, m.Insert(t.Context(), 0, big))
	assert.Equal(t, first, in(t, m, 0, true))
	assert.Equal(t, int64(3+3*2+1), n.Load())
	assert.Len(t, inputsOf(t, h), 2)
	// Another in its place, and none; the first stays, for others.
	small := fakeImage("small", 4097)
	h.holds.Store(2)
	require.NoError(t, m.Insert(t.Context(), 0, small))
	assert.NotEqual(t, first, in(t, m, 0, true))
	assert.NotEqual(t, first, in(t, m, 0, false))
	require.NoError(t, m.Eject(t.Context(), 0))
	require.NoError(t, m.Eject(t.Context(), 0))
	assert.Empty(t, in(t, m, 0, true))
	assert.Empty(t, in(t, m, 0, false))
	require.NoError(t, m.Destroy(t.Context()))
	stock, err := third.Stock(t.Context())
	require.NoError(t, err)
	assert.Len(t, stock, 2)
	require.ErrorIs(t, startFake(t, d, fakeSpec()).Insert(t.Context(), 5, small), errNoPlace)
}

// Whoever is first sends; the others wait, or find out and remove their own.
func TestManyWhoInsertTheSameInputAtOnceEndWithOneThatIsWhole(t *testing.T) {
	h, one := openFar(t)
	all := []*Driver{one, thirdComputer(t, h, "b"), thirdComputer(t, h, "c")}
	big := fakeImage("big", 5*farPiece)
	var machines []*machine
	for i := range 9 {
		machines = append(machines, startFake(t, all[i%3], fakeSpec()))
	}
	var work sync.WaitGroup
	errs := make([]error, len(machines))
	for i, m := range machines {
		work.Go(func() { errs[i] = m.Insert(context.Background(), 0, big) })
	}
	work.Wait()
	want := make([]byte, big.Size())
	_, err := big.ReadAt(want, 0)
	require.NoError(t, err)
	for i, m := range machines {
		require.NoError(t, errs[i])
		got, err := os.ReadFile(in(t, m, 0, true))
		require.NoError(t, err, "it is there and stays there")
		assert.True(t, bytes.Equal(want, got), "it is whole")
	}
	whole, half, err := one.inputs(t.Context())
	require.NoError(t, err)
	assert.Empty(t, half)
	assert.LessOrEqual(t, len(whole), 3, "one a computer at the most")
	assert.NotEmpty(t, whole)
}

// FIELD (c) 37: a stale file of the right size is taken for the new one.
func TestAnInputFarAwayThatWasCutShortIsSentAnew(t *testing.T) {
	h, d := openFar(t)
	m := startFake(t, d, fakeSpec())
	big := fakeImage("big", 3*farPiece)
	sent := 0
	broken := func(op, _ string) error {
		switch op {
		case "upload":
			if sent++; sent == 2 {
				return &callError{code: codeSystem, text: "Input/output error"}
			}
		case "remove volume":
			return &callError{code: codeSystem, text: "Input/output error"} // it is as if the process had been killed
		}
		return nil
	}
	h.hooks(broken, nil)
	require.Error(t, m.Insert(t.Context(), 0, big))
	h.hooks(nil, nil)
	half := inputsOf(t, h)
	require.Len(t, half, 1, "it is as large as the input, and not whole")
	stock, err := d.Stock(t.Context())
	require.NoError(t, err)
	assert.Empty(t, stock)
	require.NoError(t, m.Insert(t.Context(), 0, big))
	assert.NotContains(t, in(t, m, 0, true), half[0])
	got, err := os.ReadFile(in(t, m, 0, true))
	require.NoError(t, err)
	assert.NotContains(t, string(got), "\x00", "it is whole")
}

func TestInputsThatNobodyHasAreSweptWhenTheyAreOld(t *testing.T) {
	h, d := openFar(t)
	pool := filepath.Join(h.dir, "pool")
	long := time.Now().Add(-2 * d.conf.KeepInputs)
	m, other := startFake(t, d, fakeSpec()), startFake(t, d, fakeSpec())
	used, idle, recent := fakeImage("used", 5000), fakeImage("idle", 5000), fakeImage("recent", 5000)
	for _, image := range []vm.Image{idle, recent, used} {
		require.NoError(t, m.Insert(t.Context(), 0, image))
	}
	require.NoError(t, m.Kill(t.Context())) // its next run has it
	halfOld, halfNew := inputPrefix+strings.Repeat("a", 64)+"-x"+inputSuffix, inputPrefix+strings.Repeat("b", 64)+"-x"+inputSuffix
	lone := inputPrefix + strings.Repeat("c", 64) + "-x" + wholeSuffix
	for _, name := range []string{halfOld, halfNew, lone} {
		require.NoError(t, os.WriteFile(filepath.Join(pool, name), nil, 0o600))
	}
	for _, name := range inputsOf(t, h) {
		if name != halfNew && !strings.HasPrefix(name, inputPrefix+strings.TrimPrefix(recent.Digest(), "sha256:")) {
			require.NoError(t, os.Chtimes(filepath.Join(pool, name), long, long))
		}
	}
	// A domain that cannot be looked at may have any of them.
	h.hooks(func(op, name string) error {
		if op == "description" && name == string(m.id) {
			return &callError{code: codeInternal, text: "cannot be read"}
		}
		return nil
	}, nil)
	require.Error(t, d.sweepInputs(t.Context()))
	require.Len(t, inputsOf(t, h), 9)
	h.hooks(nil, nil)

	require.NoError(t, other.Insert(t.Context(), 0, fakeImage("new", 5000)), "which sweeps")
	left := strings.Join(inputsOf(t, h), "\n")
	for what, want := range map[string]bool{used.Digest(): true, recent.Digest(): true, fakeImage("new", 5000).Digest(): true, idle.Digest(): false} {
		assert.Equal(t, want, strings.Contains(left, strings.TrimPrefix(what, "sha256:")), what)
	}
	assert.Contains(t, left, halfNew, "somebody may be sending it")
	assert.NotContains(t, left, halfOld)
	assert.NotContains(t, left, lone)
	require.NoError(t, m.Start(t.Context()), "what its description names is there")
}

// Between a look and its use an input may be swept by another computer.
func TestAnInputThatIsSweptUnderAnInsertIsSentAgain(t *testing.T) {
	h, d := openFar(t)
	m := startFake(t, d, fakeSpec())
	image := fakeImage("it", 5000)
	require.NoError(t, m.Insert(t.Context(), 1, image))
	require.NoError(t, m.Eject(t.Context(), 1))
	before := inputsOf(t, h)
	var done atomic.Bool
	h.hooks(nil, func(op, _ string) error {
		if op == "attach" && done.CompareAndSwap(false, true) {
			for _, name := range before {
				if err := os.Remove(filepath.Join(h.dir, "pool", name)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	require.NoError(t, m.Insert(t.Context(), 0, image))
	_, err := os.Stat(in(t, m, 0, true))
	require.NoError(t, err)
	_, err = os.Stat(in(t, m, 0, false))
	require.NoError(t, err)
}

func TestADigestThatNamesNoFileIsRefused(t *testing.T) {
	for _, bad := range []string{"", "sha256:", "sha256:../../x", "sha256:" + strings.Repeat("g", 64), "sha256:" + strings.Repeat("A", 64), "md5:" + strings.Repeat("a", 64)} {
		_, err := inputName(bad)
		require.Error(t, err, bad)
	}
}

// Two computers that send the same input at once keep one of the two.
func TestOfTwoComputersThatSendAnInputOneRemovesItsOwn(t *testing.T) {
	h, d := openFar(t)
	third := thirdComputer(t, h, "third")
	m := startFake(t, d, fakeSpec())
	image := fakeImage("it", 5000)
	name, err := inputName(image.Digest())
	require.NoError(t, err)
	var done atomic.Bool
	h.hooks(nil, func(op, _ string) error {
		if op == "upload" && done.CompareAndSwap(false, true) {
			return third.send(context.Background(), name+"-", image) // before all others
		}
		return nil
	})
	require.NoError(t, m.Insert(t.Context(), 0, image))
	assert.Equal(t, name+"-"+inputSuffix, filepath.Base(in(t, m, 0, true)))
	assert.Equal(t, []string{name + "-" + inputSuffix, name + "-" + wholeSuffix}, inputsOf(t, h))
}

func TestAGuestThatDoesNotLetGoOfAnInputCanBeKilled(t *testing.T) {
	h, d := openFar(t)
	d.conf.KillTimeout = 5 * time.Second // shorter than the guest is waited for
	m := startFake(t, d, fakeSpec())
	require.NoError(t, m.Insert(t.Context(), 0, fakeImage("it", 5000)))
	h.holds.Store(1 << 30)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Eject(short, 0), context.DeadlineExceeded)
	ejected, asked := make(chan error, 1), make(chan struct{})
	var once sync.Once
	h.hooks(nil, func(op, _ string) error {
		if op == "detach" {
			once.Do(func() { close(asked) })
		}
		return nil
	})
	go func() { ejected <- m.Eject(context.Background(), 0) }()
	<-asked

	require.NoError(t, m.Kill(t.Context()))
	require.NoError(t, <-ejected, "it is gone with its run")
	require.NoError(t, m.Start(t.Context()))
	assert.Empty(t, in(t, m, 0, true))
}
