//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// baseDisk makes a raw image that begins with a word.
func baseDisk(t *testing.T, word string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.raw")
	b := make([]byte, 1<<20)
	copy(b, word)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// A revert brings memory and disks back in place, on a machine with raw job disks
// attached, and each is proven clean: QEMU's own snapshots cannot.
func TestRevertBringsMemoryAndDisksBackAndEachIsProvenClean(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Disks = []vm.Disk{{Format: "qcow2", Backing: baseDisk(t, "clean"), BackingFormat: "raw"}, {Format: "raw", Size: 1 << 20}}
	began := time.Now()
	m := boot(t, d, s)
	cold := time.Since(began)
	require.NoError(t, vm.ProveClean(t.Context(), m))
	snapshots, ok := vm.As[vm.Snapshotter](m)
	require.True(t, ok)
	began = time.Now()
	require.NoError(t, snapshots.Snapshot(t.Context(), "booted"))
	took := time.Since(began)
	require.NoError(t, vm.ProveClean(t.Context(), m), "it goes on as it was")

	seen := map[string]bool{}
	var costs []time.Duration
	for round := range 3 {
		steps := runJob(t, m, nil, "head -c 5 /dev/vda; head -c 5 /dev/vdb | tr '\\0' 0", "cat /proc/sys/kernel/random/uuid", "hostname", "date +%s",
			"echo stain >/stain; printf dirty | dd of=/dev/vda conv=fsync,notrunc; printf dirty | dd of=/dev/vdb conv=fsync,notrunc; head -c 5 /dev/vda").Parts[0].Steps
		assert.Equal(t, "clean00000", string(steps[0].Stdout), "the disks in round %d: %s", round, steps[0].Stderr)
		assert.False(t, seen[string(steps[1].Stdout)], "a random number came again in round %d", round)
		seen[string(steps[1].Stdout)] = true
		assert.Equal(t, string(m.ID())+"\n", string(steps[2].Stdout))
		at, err := strconv.ParseInt(strings.TrimSpace(string(steps[3].Stdout)), 10, 64)
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), time.Unix(at, 0), 10*time.Second, "the snapshot's clock")
		require.Equal(t, "dirty", string(steps[4].Stdout))
		require.ErrorIs(t, vm.ProveClean(t.Context(), m), vm.ErrDirty)

		owner := s.Owner
		owner.Token, owner.Slot = uint64(100+round), fmt.Sprint("slot ", round)
		require.NoError(t, m.(*machine).SetOwner(t.Context(), owner))
		r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Parent: "none", Snapshot: "booted"})
		require.NoError(t, err)
		require.Equal(t, vm.RungRevert, r.Rung, "%v", r.Skipped)
		costs = append(costs, r.Cost)
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		assert.Equal(t, owner, info.Owner, "the ownership is the present one, not the snapshot's")
	}
	steps := runJob(t, m, nil, "ls /stain; head -c 5 /dev/vda").Parts[0].Steps
	assert.Equal(t, "clean", string(steps[0].Stdout))
	assert.Contains(t, string(steps[0].Stderr), "No such file", "what ran since is forgotten")
	for _, cost := range costs {
		t.Logf("cold %v, snapshot %v, revert to proven clean %v: %.2f of cold", cold.Round(time.Millisecond), took.Round(time.Millisecond), cost.Round(time.Millisecond), float64(cost)/float64(cold))
	}
	require.NoError(t, snapshots.DeleteSnapshot(t.Context(), "booted"))
	left, err := os.ReadDir(m.(*machine).path(snapshotFolder))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// FIELD (c) 30 and 33: a revert that leaves the domain off, and one after another.
//
// A snapshot of a machine that is off has no memory: reverting leaves it off, with
// its disks brought back, and Renew boots it.
func TestRevertToASnapshotOfAMachineThatWasOffBootsItOnItsOldDisks(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Disks = []vm.Disk{{Format: "qcow2", Backing: baseDisk(t, "clean"), BackingFormat: "raw"}}
	made, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, made.Destroy(context.Background())) })
	m := made.(*machine)
	require.NoError(t, m.Snapshot(t.Context(), "new"))
	require.NoError(t, m.Start(t.Context()))
	steps := runJob(t, m, nil, "printf dirty | dd of=/dev/vda conv=fsync,notrunc; head -c 5 /dev/vda").Parts[0].Steps
	require.Equal(t, "dirty", string(steps[0].Stdout))
	require.NoError(t, m.Revert(t.Context(), "new"))
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateStopped, info.State)
	r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Rungs: []vm.Rung{vm.RungRevert}, Snapshot: "new"})
	require.NoError(t, err)
	require.Equal(t, vm.RungRevert, r.Rung)
	steps = runJob(t, m, nil, "head -c 5 /dev/vda").Parts[0].Steps
	assert.Equal(t, "clean", string(steps[0].Stdout))
}

// What the driver did not make it cannot bring back: the ladder goes on, and says
// why.
func TestAMachineWithADiskOfItsUsersIsRenewedColdAndTheReasonIsSaid(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Disks = []vm.Disk{{Path: baseDisk(t, "theirs"), Format: "raw"}}
	m := boot(t, d, s)
	err := m.(*machine).Snapshot(t.Context(), "booted")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "the writable disk vda ("+s.Disks[0].Path+")")
	require.NoError(t, vm.ProveClean(t.Context(), m), "nothing has happened to it")
	again := guestSpec(g)
	r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: again, Rungs: []vm.Rung{vm.RungRevert, vm.RungCold}, Snapshot: "booted"})
	require.NoError(t, err)
	assert.Equal(t, vm.RungCold, r.Rung)
	require.Len(t, r.Skipped, 1)
	require.ErrorIs(t, r.Skipped[0].Err, vm.ErrNotFound)
	require.NoError(t, r.Machine.Destroy(t.Context()))
}

// Why the driver keeps the snapshots of its machines itself. When this fails,
// libvirt can do what it could not.
func TestLibvirtRefusesSnapshotsOfAMachineWithRawJobDisks(t *testing.T) {
	d, g := openEmbed(t)
	s := guestSpec(g)
	s.Disks = []vm.Disk{{Format: "qcow2", Size: 1 << 20}}
	made, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, made.Destroy(context.Background())) })
	withRaw(t, d, string(made.ID()), func(dom *lv.Domain) {
		for _, on := range []bool{false, true} {
			if on {
				require.NoError(t, made.Start(t.Context()))
			}
			for name, text := range map[string]string{
				"all":               "<domainsnapshot><name>x</name></domainsnapshot>",
				"without job disks": "<domainsnapshot><name>x</name><disks><disk name='vda' snapshot='internal'/><disk name='vdb' snapshot='no'/><disk name='vdc' snapshot='no'/></disks></domainsnapshot>",
			} {
				_, err := dom.CreateSnapshotXML(text, 0)
				require.True(t, isCode(err, lv.ERR_CONFIG_UNSUPPORTED), "%s, running %v: %v", name, on, err)
				t.Logf("%s, running %v: %v", name, on, err)
			}
		}
	})
}

// withRaw gives libvirt's own handle of a domain.
func withRaw(t *testing.T, d *Driver, name string, f func(*lv.Domain)) {
	t.Helper()
	require.NoError(t, d.line.use(t.Context(), false, func(c conn) error {
		for {
			switch in := c.(type) {
			case *connection:
				return in.with(name, func(dom *lv.Domain) error { f(dom); return nil })
			case counting:
				c = in.conn
			default:
				return fmt.Errorf("a connection of type %T", c)
			}
		}
	}))
}

// defineForeign defines a domain as its user would, with a disk of qcow2.
func defineForeign(t *testing.T, d *Driver, name string) (disk string) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, makeOverlay(disk, vm.Disk{Format: "qcow2", Size: 1 << 20}))
	x := &libvirtxml.Domain{
		Type: "qemu", Name: name, Memory: &libvirtxml.DomainMemory{Value: 64, Unit: "MiB"},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: d.host.arch, Type: "hvm"}, BootDevices: []libvirtxml.DomainBootDevice{{Dev: "hd"}}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}}, Devices: &libvirtxml.DomainDeviceList{},
	}
	addDisk(x.Devices, disk, "qcow2", "writeback", "", false, &libvirtxml.DomainDiskBackingStore{})
	text, err := x.Marshal()
	require.NoError(t, err)
	require.NoError(t, d.line.use(t.Context(), false, func(c conn) error { return c.Define(text) }))
	t.Cleanup(func() {
		ctx := context.Background()
		assert.NoError(t, d.killDomain(ctx, name))
		assert.NoError(t, d.line.use(ctx, true, func(c conn) error { return c.Undefine(name) }))
	})
	return disk
}

// stain writes to a disk of a machine that is off, and stained reads it.
func stain(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command(need.Tool(t, "qemu-io"), "-f", "qcow2", "-c", "write -P 0x64 0 4096", disk).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func stained(t *testing.T, disk string) bool {
	t.Helper()
	out, err := exec.Command(need.Tool(t, "qemu-io"), "-r", "-f", "qcow2", "-c", "read -P 0x64 0 4096", disk).CombinedOutput()
	require.True(t, err == nil || bytes.Contains(out, []byte("Pattern verification failed")), "%v %s", err, out)
	return err == nil
}

// A machine that its user made, with a snapshot of its user's, is adopted: libvirt
// reverts it, whether the snapshot has memory or not.
func TestAForeignMachineIsRevertedToASnapshotOfItsUsers(t *testing.T) {
	d, _ := openEmbed(t)
	name := "theirs-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	disk := defineForeign(t, d, name)
	m, err := d.Open(t.Context(), vm.ID(name))
	require.NoError(t, err)
	snapshots, ok := vm.As[vm.Snapshotter](m)
	require.True(t, ok)
	require.NoError(t, snapshots.Snapshot(t.Context(), "off"))
	require.NoError(t, m.Start(t.Context()))
	require.NoError(t, snapshots.Snapshot(t.Context(), "on"))
	require.ErrorIs(t, snapshots.Snapshot(t.Context(), "on"), vm.ErrExists)
	names, err := snapshots.Snapshots(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"off", "on"}, names)
	clean := func(ctx context.Context, m vm.Machine) error { // it has no agent: its disk is looked at
		info, err := m.Info(ctx)
		if err == nil && info.State != vm.StateRunning {
			err = fmt.Errorf("it is %v", info.State)
		}
		return err
	}
	for _, snapshot := range []string{"on", "off", "on"} {
		require.NoError(t, m.Kill(t.Context()))
		stain(t, disk)
		require.True(t, stained(t, disk))
		r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: vm.Spec{Name: name}, Rungs: []vm.Rung{vm.RungRevert}, Snapshot: snapshot, Clean: clean})
		require.NoError(t, err, snapshot)
		assert.Equal(t, vm.RungRevert, r.Rung)
		require.NoError(t, m.Kill(t.Context()))
		assert.False(t, stained(t, disk), "the disk after the revert to %s", snapshot)
	}
	require.NoError(t, snapshots.DeleteSnapshot(t.Context(), "on"))
	require.ErrorIs(t, snapshots.Revert(t.Context(), "on"), vm.ErrNotFound)
}
