//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// What shipped in other systems, on real machines.

// FIELD (c) 29: a clone boots the base; one overlay is used by two machines.
func TestOverlaysOfOneBaseAreEachMachinesOwnAndTheBaseStays(t *testing.T) {
	d, g := openEmbed(t)
	base := filepath.Join(t.TempDir(), "base.img")
	text := bytes.Repeat([]byte("base"), 1<<18)
	require.NoError(t, os.WriteFile(base, text, 0o600))
	s := guestSpec(g)
	s.Disks = []vm.Disk{{Format: "qcow2", Backing: base, BackingFormat: "raw"}}
	one := boot(t, d, s)
	write := func(m vm.Machine, word string) string {
		// vda is the overlay: it stands before the job disks.
		results := runJob(t, m, nil, "head -c 4 /dev/vda; printf "+word+" | dd of=/dev/vda bs=4 count=1 conv=notrunc,fsync 2>/dev/null; head -c 4 /dev/vda")
		return string(results.Parts[0].Steps[0].Stdout)
	}
	assert.Equal(t, "baseONE!", write(one, "ONE!"))
	s = guestSpec(g)
	s.Disks = []vm.Disk{{Format: "qcow2", Backing: base, BackingFormat: "raw"}}
	two := boot(t, d, s)
	assert.Equal(t, "baseTWO!", write(two, "TWO!"), "the other's write")
	assert.Equal(t, "ONE!again"[:4]+"one.", write(one, "one."), "its own write")
	now, err := os.ReadFile(base)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(text, now), "the base was written to")
	// It is a parent neither: its disk would have to be frozen with it.
	require.ErrorIs(t, one.(*machine).Save(t.Context(), "with a disk"), errors.ErrUnsupported)
}

// FIELD (c) 37: results are read while the guest writes, or of a disk that is not
// what it was.
func TestGarbageOnTheJobDiskIsToldAsDamage(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	disk, err := m.(*machine).JobDisk(t.Context(), 0)
	require.NoError(t, err)
	defer disk.Close()
	_, err = disk.WriteAt(bytes.Repeat([]byte("garbage."), 1<<14), 0)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), jobTime)
	defer cancel()
	_, err = vm.Run(ctx, m, vm.RunOptions{Go: diskio.Go{Nonce: strings.Repeat("ab", 16)}.Encode(), Grace: -1})
	require.Error(t, err)
	require.ErrorContains(t, err, "damaged")

	// A job that writes over its own results.
	ticket, err := diskio.WriteJob(ctx, disk, disk.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands("echo before", "dd if=/dev/urandom of=/dev/vda bs=65536 count=16 2>/dev/null; sync")}}}, nil)
	require.NoError(t, err)
	end, err := vm.Run(ctx, m, vm.RunOptions{Go: diskio.Go{Nonce: ticket.Nonce}.Encode(), Grace: -1})
	t.Logf("%+v, %v", end.Kind, err)
	results, err := diskio.ReadResults(t.Context(), disk, disk.Size(), ticket, nil)
	if err == nil {
		assert.False(t, results.Complete)
		assert.NotEmpty(t, results.Damage)
	} else {
		require.ErrorContains(t, err, "damaged")
	}
	require.NoError(t, m.Destroy(t.Context()))
}

// A disk of the host that is full is a real one here.
func TestAFullDiskEndsWhatNeedsRoomAndNothingElse(t *testing.T) {
	g := testGuest(t)
	need.Thing(t, "root")
	if !alone(t) { // its root is mounted over
		return
	}
	_ = g
	dir := filepath.Join(shared.dir, "full")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	c := testConfig(t, embedURI())
	c.Root = filepath.Join(dir, "r")
	d, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	m := boot(t, d, guestSpec(shared.guest))
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	block := make([]byte, 4096)
	for err == nil {
		_, err = filler.Write(block)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, filler.Close())

	// The driver's own writes.
	_, err = d.Create(t.Context(), guestSpec(shared.guest))
	require.ErrorIs(t, err, vm.ErrBusy)
	require.ErrorIs(t, m.(*machine).Insert(t.Context(), 0, picture(1<<20)), vm.ErrBusy)
	disk, err := m.(*machine).JobDisk(t.Context(), 0)
	require.NoError(t, err)
	defer disk.Close()
	_, err = diskio.WriteJob(t.Context(), disk, disk.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands("true")}}}, nil)
	require.ErrorIs(t, err, vm.ErrBusy)

	// Room for the job, but not for what it says: the guest is told.
	require.NoError(t, os.Truncate(filler.Name(), fileSize(t, filler.Name())-64<<10))
	ctx, cancel := context.WithTimeout(t.Context(), jobTime)
	defer cancel()
	ticket, err := diskio.WriteJob(ctx, disk, disk.Size(), []diskio.Part{{ID: "task", Job: diskio.Job{Steps: diskio.Commands("echo before", "dd if=/dev/urandom bs=65536 count=6 2>/dev/null | od", "echo after")}}}, nil)
	require.NoError(t, err)
	began := time.Now()
	end, err := vm.Run(ctx, m, vm.RunOptions{Go: diskio.Go{Nonce: ticket.Nonce}.Encode(), Grace: -1})
	t.Logf("after %v: %v %q, %v", time.Since(began).Round(time.Millisecond), end.Kind, end.Detail, err)
	// A guest that QEMU stops for want of room would wait until the deadline.
	require.ErrorContains(t, err, "input/output error")
	require.NotErrorIs(t, err, context.DeadlineExceeded)

	// With room again all goes on.
	require.NoError(t, os.Remove(filler.Name()))
	require.NoError(t, m.Destroy(t.Context()))
	results := runJob(t, boot(t, d, guestSpec(shared.guest)), nil, "echo fine")
	assert.Equal(t, "fine\n", string(results.Parts[0].Steps[0].Stdout))
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	return fi.Size()
}
