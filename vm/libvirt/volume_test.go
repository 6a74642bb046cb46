package libvirt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// openFar opens a driver of another computer, which is a fake.
func openFar(t *testing.T) (*fakeHost, *Driver) {
	t.Helper()
	h, conf := newFake(t)
	conf.URI = "qemu+ssh://far.example/system"
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return h, d
}

// bytesImage is a vm.Image.
type bytesImage struct {
	*bytes.Reader
	name string
}

func (i bytesImage) Digest() string { return "sha256:" + i.name }

// fakeImage begins with its name and is full of letters.
func fakeImage(name string, size int) vm.Image {
	b := bytes.Repeat([]byte("p"), size)
	copy(b, name)
	sum := sha256.Sum256(b)
	return bytesImage{bytes.NewReader(b), hex.EncodeToString(sum[:])}
}

func volumesOf(t *testing.T, h *fakeHost) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, "pool"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDisksOfAMachineFarAwayAreVolumesAndGoWithIt(t *testing.T) {
	h, d := openFar(t)
	m, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	assert.Len(t, volumesOf(t, h), 3, "two job disks and a console")
	require.NoError(t, m.Destroy(t.Context()))
	assert.Empty(t, volumesOf(t, h))
	require.NoError(t, m.Destroy(t.Context()))
}

func TestWithoutAStoragePoolCreateSaysWhichOneIsWanted(t *testing.T) {
	h, conf := newFake(t)
	conf.URI, conf.Pool = "qemu+ssh://far.example/system", "elsewhere"
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Create(t.Context(), fakeSpec())
	require.ErrorIs(t, err, vm.ErrNotFound)
	require.ErrorContains(t, err, `storage pool "elsewhere" (Config.Pool)`)
	all, err := d.List(t.Context())
	require.NoError(t, err)
	assert.Empty(t, all)
}

// Whatever fails on the way: neither a domain nor a volume is left.
func TestACreateFarAwayThatFailsLeavesNothing(t *testing.T) {
	for _, op := range []string{"define", "make volume"} {
		for name, fault := range map[string]error{"lost": lostError(), "refused": &callError{code: codeSystem, text: "No space left on device"}} {
			h, d := openFar(t)
			h.hooks(nil, once(op, fault))
			s := fakeSpec()
			_, err := d.Create(t.Context(), s)
			require.Error(t, err, "%s %s", op, name)
			if op == "make volume" || name == "lost" {
				assert.Empty(t, volumesOf(t, h), "%s %s", op, name)
				_, err = d.Open(t.Context(), vm.ID(s.Name))
				require.ErrorIs(t, err, vm.ErrNotFound, "%s %s", op, name)
			}
		}
	}
}

func TestAThirdComputerDestroysAndFillsWhatAnotherMade(t *testing.T) {
	h, d := openFar(t)
	m, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	third, err := open(t.Context(), Config{URI: "qemu+ssh://far.example/system", Root: h.dir + "/third"}, h.dial)
	require.NoError(t, err)
	defer third.Close()
	same, err := third.Open(t.Context(), m.ID())
	require.NoError(t, err)
	a, ok := vm.As[vm.Attacher](same)
	require.True(t, ok)
	disk, err := a.JobDisk(t.Context(), 1)
	require.NoError(t, err)
	_, err = disk.WriteAt([]byte("from a third"), 4096)
	require.NoError(t, err)
	require.NoError(t, disk.Close(), "which sends what was written")
	mine, err := m.(*machine).JobDisk(t.Context(), 1)
	require.NoError(t, err)
	b := make([]byte, 12)
	_, err = mine.ReadAt(b, 4096)
	require.NoError(t, err)
	assert.Equal(t, "from a third", string(b))
	require.NoError(t, same.Start(t.Context()))
	_, err = same.(*machine).Channel(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "has its secret")
	require.NoError(t, same.Destroy(t.Context()))
	assert.Empty(t, volumesOf(t, h))
}

func TestAJobDiskFarAwayKeepsWritesUntilSyncAndAnswersForItsBounds(t *testing.T) {
	h, d := openFar(t)
	s := fakeSpec()
	s.JobDisks = []int64{16 << 20}
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	file := filepath.Join(h.dir, "pool", volumeName(s.Name, jobDiskFile(0)))
	there := func(at int64, n int) string {
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		b := make([]byte, n)
		_, err = f.ReadAt(b, at)
		require.NoError(t, err)
		return string(b)
	}
	disk, err := m.(*machine).JobDisk(t.Context(), 0)
	require.NoError(t, err)
	for _, w := range []struct {
		at   int64
		text string
	}{{0, "one"}, {3, "two"}, {1, "X"}} { // a later write wins
		_, err = disk.WriteAt([]byte(w.text), w.at)
		require.NoError(t, err)
	}
	assert.Equal(t, "\x00\x00\x00\x00\x00\x00", there(0, 6))
	require.NoError(t, disk.Sync(t.Context()))
	assert.Equal(t, "oXetwo", there(0, 6))
	_, err = disk.WriteAt([]byte("three"), 6)
	require.NoError(t, err)
	b := make([]byte, 8)
	_, err = disk.ReadAt(b, 3)
	require.NoError(t, err)
	assert.Equal(t, "twothree", string(b), "what was written here is read here")
	n, err := disk.ReadAt(b, disk.Size()-3)
	assert.Equal(t, 3, n)
	require.ErrorIs(t, err, io.EOF)
	_, err = disk.ReadAt(b, disk.Size())
	require.ErrorIs(t, err, io.EOF)
	_, err = disk.ReadAt(b, -1)
	require.Error(t, err)
	_, err = disk.WriteAt(b, disk.Size()-3)
	require.ErrorIs(t, err, io.ErrShortWrite)
	// More than it keeps goes at once.
	_, err = disk.WriteAt(make([]byte, farPending-1), 8<<20)
	require.NoError(t, err)
	_, err = disk.WriteAt([]byte("!"), 1<<20)
	require.NoError(t, err)
	assert.Equal(t, "!", there(1<<20, 1))
	// A write that is lost is made again, and what cannot be sent is kept.
	h.hooks(once("upload", lostError()), nil)
	_, err = disk.WriteAt([]byte("again"), 0)
	require.NoError(t, err)
	require.NoError(t, disk.Sync(t.Context()))
	assert.Equal(t, "again", there(0, 5))
	h.hooks(once("upload", &callError{code: codeSystem, text: "No space left on device"}), nil)
	_, err = disk.WriteAt([]byte("kept!"), 0)
	require.NoError(t, err)
	require.ErrorIs(t, disk.Sync(t.Context()), vm.ErrBusy)
	require.NoError(t, disk.Sync(t.Context()))
	assert.Equal(t, "kept!", there(0, 5))
	require.NoError(t, disk.Close())
	require.NoError(t, disk.Close())
	_, err = disk.WriteAt(b, 0)
	require.ErrorIs(t, err, vm.ErrClosed)
	_, err = disk.ReadAt(b, 0)
	require.ErrorIs(t, err, vm.ErrClosed)
	require.NoError(t, m.Destroy(context.Background()))
}

func TestTheConsoleOfAMachineFarAwayIsReadByAllAndOutlivesItsRun(t *testing.T) {
	h, d := openFar(t)
	m := startFake(t, d, fakeSpec())
	got, err := m.Console(t.Context(), 100)
	require.NoError(t, err)
	assert.Empty(t, got)
	file := filepath.Join(h.dir, "pool", volumeName(string(m.id), "console"))
	require.NoError(t, os.WriteFile(file, append(bytes.Repeat([]byte("."), 9000), "Kernel panic - not syncing: it is a test"...), 0o600))
	got, err = m.Console(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, "test", string(got))
	got, err = m.Console(t.Context(), 1<<20)
	require.NoError(t, err)
	assert.Len(t, got, 9040)
	same, err := thirdComputer(t, h, "third").Open(t.Context(), m.id)
	require.NoError(t, err)
	got, err = same.(*machine).Console(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, "test", string(got))
	h.stop(string(m.id), offShutdown)
	end, err := m.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndCrashed, end.Kind, "its console says that it panicked")
	assert.Len(t, end.Console, vm.ConsoleTail)
	require.NoError(t, m.Destroy(t.Context()))
	assert.Empty(t, volumesOf(t, h))
}
