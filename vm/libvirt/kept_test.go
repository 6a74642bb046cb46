package libvirt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

func ready(t *testing.T, m *machine) *vm.Channel {
	t.Helper()
	ch, err := m.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.Ready(t.Context())
	require.NoError(t, err)
	return ch
}

func TestASnapshotEndsTheChannelAndThereIsAnother(t *testing.T) {
	_, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	before := ready(t, m)
	require.NoError(t, m.Snapshot(t.Context(), "clean"))
	<-before.Done()
	after := ready(t, m)
	assert.NotSame(t, before, after)
	require.NoError(t, m.Revert(t.Context(), "clean"))
	<-after.Done()
	ready(t, m)
	require.NoError(t, m.Destroy(t.Context()))
	_, err := os.Stat(d.dir(m.id))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestASnapshotThatFailsLeavesTheMachineAsItWas(t *testing.T) {
	noRoom := &callError{code: codeSystem, text: "No space left on device"}
	for _, c := range []struct {
		op   string
		runs bool
	}{{"description", true}, {"save", true}, {"restore", false}, {"saved xml", false}} {
		h, d := openFake(t, nil)
		m := startFake(t, d, fakeSpec())
		ready(t, m)
		h.hooks(once(c.op, noRoom), nil)
		err := m.Snapshot(t.Context(), "clean")
		require.ErrorIs(t, err, vm.ErrBusy, c.op)
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		names, err := m.Snapshots(t.Context())
		require.NoError(t, err)
		assert.Empty(t, names, c.op)
		left, err := os.ReadDir(m.path(snapshotFolder))
		if !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
		assert.Empty(t, left, c.op)
		if c.runs {
			assert.NotNil(t, d.own(m.id), "%s: it is supervised as before", c.op)
		}
		if !c.runs { // its state went with the attempt; nothing else of it did
			assert.Equal(t, vm.StateStopped, info.State, c.op)
			require.NoError(t, m.Start(t.Context()))
		}
		require.NoError(t, vm.ProveClean(t.Context(), m), c.op)
		require.NoError(t, m.Snapshot(t.Context(), "clean"), c.op)
	}
}

func TestASaveThatFailsLeavesTheMachineAsItWas(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ready(t, m)
	h.hooks(once("save", &callError{code: codeSystem, text: "No space left on device"}), nil)
	require.ErrorIs(t, m.Save(t.Context(), "p"), vm.ErrBusy)
	assert.NotNil(t, d.own(m.id), "it is supervised as before")
	require.NoError(t, vm.ProveClean(t.Context(), m))
	early, stop := context.WithCancel(t.Context())
	defer stop()
	ch, before := ready(t, m), d.own(m.id)
	go func() {
		<-ch.Done()
		stop()
	}()
	require.ErrorIs(t, m.Save(early, "p"), context.Canceled)
	require.Eventually(t, func() bool { return d.own(m.id) != nil && d.own(m.id) != before }, 30*time.Second, time.Millisecond, "nor is it left alone when nobody waits for it")
	require.NoError(t, vm.ProveClean(t.Context(), m))
	require.NoError(t, m.Save(t.Context(), "p"))
}

func TestCloseBesideASaveThatFailsLeavesNothingRunning(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ready(t, m)
	closed := make(chan error, 1)
	h.hooks(func(op, _ string) error {
		if op != "save" {
			return nil
		}
		go func() { closed <- d.Close() }()
		<-d.calls.Context().Done()
		for range 100 { // Close has looked for what runs
			runtime.Gosched()
		}
		return &callError{code: codeSystem, text: "No space left on device"}
	}, nil)
	require.ErrorIs(t, m.Save(t.Context(), "p"), vm.ErrClosed)
	require.NoError(t, <-closed)
	h.mu.Lock()
	defer h.mu.Unlock()
	assert.False(t, active(h.domains[string(m.id)].state))
}

func TestCloseBesideASaveThatIsGivenUpLeavesNothingRunning(t *testing.T) {
	for range 10 {
		h, d := openFake(t, nil)
		m := startFake(t, d, fakeSpec())
		ctx, stop := context.WithCancel(t.Context())
		ch := ready(t, m)
		go func() {
			<-ch.Done()
			stop()
		}()
		require.ErrorIs(t, m.Save(ctx, "p"), context.Canceled)
		require.NoError(t, d.Close())
		h.mu.Lock()
		assert.False(t, active(h.domains[string(m.id)].state))
		h.mu.Unlock()
	}
}

func TestARevertThatFailsLeavesTheMachineOffAndCanBeMadeAgain(t *testing.T) {
	h, d := openFake(t, nil)
	s := fakeSpec()
	m := startFake(t, d, s)
	ready(t, m)
	require.NoError(t, m.Snapshot(t.Context(), "clean"))
	h.hooks(once("restore", &callError{code: codeFailed, text: "operation failed: domain is not running"}), nil)
	require.NoError(t, m.Revert(t.Context(), "clean"), "libvirt has taken it for the one before")
	require.NoError(t, vm.ProveClean(t.Context(), m))
	h.hooks(once("restore", &callError{code: codeInternal, text: "internal error"}), nil)
	require.Error(t, m.Revert(t.Context(), "clean"))
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, vm.StateStopped, info.State)
	r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Snapshot: "clean"})
	require.NoError(t, err)
	assert.Equal(t, vm.RungRevert, r.Rung)
	require.Len(t, r.Skipped, 2)
}

func TestWhatTheDriverDidNotMakeIsNoPartOfASnapshot(t *testing.T) {
	for what, change := range map[string]func(*libvirtxml.Domain){
		"the writable disk vdz (/else/where)": func(d *libvirtxml.Domain) {
			addDisk(d.Devices, "/else/where", "raw", "", "", false, nil)
			d.Devices.Disks[len(d.Devices.Disks)-1].Target.Dev = "vdz"
		},
		"the writable disk vdz (no file)": func(d *libvirtxml.Domain) {
			d.Devices.Disks = append(d.Devices.Disks, libvirtxml.DomainDisk{Target: &libvirtxml.DomainDiskTarget{Dev: "vdz"},
				Source: &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: "/dev/sdz"}}})
		},
		"an nvram file": func(d *libvirtxml.Domain) { d.OS.NVRam = &libvirtxml.DomainNVRam{NVRam: "/vars"} },
		"a TPM":         func(d *libvirtxml.Domain) { d.Devices.TPMs = []libvirtxml.DomainTPM{{}} },
	} {
		h, d := openFake(t, nil)
		m, err := d.Create(t.Context(), fakeSpec())
		require.NoError(t, err)
		h.mu.Lock()
		change(h.domains[string(m.ID())].xml)
		h.mu.Unlock()
		err = m.(*machine).Snapshot(t.Context(), "x")
		require.ErrorIs(t, err, errors.ErrUnsupported, what)
		require.ErrorContains(t, err, "it has "+what+", which the driver did not make")
	}
}

// Who has the channel of a machine that another process started is asked first: the
// guest would not see its host leave.
func TestTheStateOfAMachineWhoseChannelAnotherHasIsNotTaken(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ready(t, m)
	other, err := open(t.Context(), d.conf, h.dial)
	require.NoError(t, err)
	defer other.Close()
	same, err := other.Open(t.Context(), m.id)
	require.NoError(t, err)
	err = same.(*machine).Snapshot(t.Context(), "x")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "has its only channel")
	err = same.(*machine).Save(t.Context(), "p")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "has its only channel")
	require.NoError(t, vm.ProveClean(t.Context(), m))
}

func TestASnapshotThatIsDamagedIsNeverTakenForNone(t *testing.T) {
	_, d := openFake(t, nil)
	made, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	m := made.(*machine)
	require.NoError(t, m.Snapshot(t.Context(), "a/../b\x00"), "any name will do")
	names, err := m.Snapshots(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"a/../b\x00"}, names)
	file := filepath.Join(m.snapshotDir(names[0]), snapshotFile)
	require.NoError(t, os.WriteFile(file, []byte(`{"version":`), 0o600))
	_, err = m.Snapshots(t.Context())
	require.ErrorContains(t, err, "is damaged")
	require.NoError(t, os.WriteFile(file, []byte(`{"version": 9, "name": "x"}`), 0o600))
	require.ErrorContains(t, m.Snapshot(t.Context(), "other"), "is of version 9")
	require.NoError(t, m.Destroy(t.Context()))
	_, err = m.Snapshots(t.Context())
	require.ErrorIs(t, err, vm.ErrNotFound)
}

// What a killed process left half made is not listed, and goes with the next.
func TestHalfASnapshotIsNone(t *testing.T) {
	_, d := openFake(t, nil)
	made, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	m := made.(*machine)
	half := filepath.Join(m.path(snapshotFolder), newPrefix+"half")
	require.NoError(t, os.MkdirAll(half, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(half, snapshotFile), []byte("{}"), 0o600))
	names, err := m.Snapshots(t.Context())
	require.NoError(t, err)
	assert.Empty(t, names)
	require.NoError(t, m.Snapshot(t.Context(), "whole"))
	_, err = os.Stat(half)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A hypervisor's own snapshot has the ownership of its time.
func TestARevertByTheHypervisorLeavesTheOwnershipAlone(t *testing.T) {
	h, conf := newFake(t)
	conf.URI = "test:///default"
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer d.Close()
	s := fakeSpec()
	s.JobDisks, s.Inputs = nil, 0
	m := startFake(t, d, s)
	require.NoError(t, m.Snapshot(t.Context(), "old"))
	owner := s.Owner
	owner.Token = 77
	require.NoError(t, m.SetOwner(t.Context(), owner))
	require.NoError(t, m.Revert(t.Context(), "old"))
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, owner, info.Owner)
	require.NoError(t, m.Destroy(t.Context()))
}

func TestACopyOfASparseFileIsThatFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for name, pieces := range map[string]map[int64]string{
		"empty": {}, "at the start": {0: "a"}, "at the end": {12<<20 - 1: "z"},
		"here and there": {0: "a", 70001: "b", 4 << 20: strings.Repeat("c", 3<<20), 12<<20 - 1: "z"},
	} {
		f, err := os.Create(from)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(12<<20))
		for at, text := range pieces {
			_, err := f.WriteAt([]byte(text), at)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		require.NoError(t, copySparse(t.Context(), to, from))
		want, err := os.ReadFile(from)
		require.NoError(t, err)
		got, err := os.ReadFile(to)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got), name)
	}
	require.NoError(t, os.WriteFile(from, nil, 0o600))
	require.NoError(t, copySparse(t.Context(), to, from), "a shorter one replaces it")
	fi, err := os.Stat(to)
	require.NoError(t, err)
	assert.Zero(t, fi.Size())
	require.ErrorIs(t, copySparse(context.Background(), to, from+"-none"), os.ErrNotExist)
}

// On another computer the state is a volume, which goes with the snapshot or with
// the machine.
func TestTheSnapshotsOfAMachineFarAwayAreVolumesThere(t *testing.T) {
	h, d := openFar(t)
	m := startFake(t, d, fakeSpec())
	s := fakeSpec()
	s.Name = string(m.id) + "-" + strings.TrimSuffix(statePrefix, "-") // whose volumes begin with the other's name
	namesake := startFake(t, d, s)
	ready(t, namesake)
	ready(t, m)
	count := func() int {
		states, err := d.stateVolumes(t.Context(), record{Pool: DefaultPool, Spec: &specRecord{Name: string(m.id)}})
		require.NoError(t, err)
		return len(states)
	}
	before := len(volumesOf(t, h))
	require.NoError(t, m.Insert(t.Context(), 1, fakeImage("it", 5000)))
	err := m.Snapshot(t.Context(), "a")
	require.ErrorIs(t, err, vm.ErrState)
	require.ErrorContains(t, err, "Eject it first")
	require.NoError(t, m.Eject(t.Context(), 1))
	require.NoError(t, m.Snapshot(t.Context(), "a"))
	require.NoError(t, m.Snapshot(t.Context(), "b"))
	assert.Equal(t, 2, count())
	require.NoError(t, m.DeleteSnapshot(t.Context(), "a"))
	assert.Equal(t, 1, count())
	// What is in a place when it is reverted was not there at the time.
	require.NoError(t, m.Insert(t.Context(), 1, fakeImage("it", 5000)))
	require.NoError(t, m.Revert(t.Context(), "b"))
	assert.Empty(t, in(t, m, 1, true))
	assert.Empty(t, in(t, m, 1, false))
	ready(t, m)
	// An attempt that fails leaves no volume.
	h.hooks(once("restore", &callError{code: codeFailed, text: "operation failed"}), nil)
	require.Error(t, m.Snapshot(t.Context(), "c"))
	h.hooks(nil, nil)
	assert.Equal(t, 1, count())

	third, err := thirdComputer(t, h, "third").Open(t.Context(), m.id)
	require.NoError(t, err)
	_, ok := vm.As[vm.Snapshotter](third)
	assert.False(t, ok, "the computer that made it keeps them")
	require.NoError(t, third.Destroy(t.Context()))
	assert.Zero(t, count())
	require.NoError(t, namesake.Kill(t.Context()))
	require.NoError(t, namesake.Start(t.Context()), "it has all its volumes")
	require.NoError(t, namesake.Destroy(t.Context()))
	assert.Less(t, len(volumesOf(t, h)), before, "all but the input's")
	assert.Equal(t, len(inputsOf(t, h)), len(volumesOf(t, h)))
}

// What comes to be after its caller has left is taken back.
func TestASnapshotThatComesTooLateIsForgottenAndTheMachineGoesOn(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ready(t, m)
	for _, op := range []string{"save", "restore"} {
		ctx, cancel := context.WithCancel(t.Context())
		h.hooks(nil, func(o, _ string) error {
			if o == op {
				cancel()
			}
			return nil
		})
		require.ErrorIs(t, m.Snapshot(ctx, "late"), context.Canceled, op)
		h.hooks(nil, nil)
		// Which waits for the other to be through.
		require.ErrorIs(t, m.DeleteSnapshot(t.Context(), "late"), vm.ErrNotFound, op)
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		assert.Equal(t, vm.StateRunning, info.State, op)
		require.NoError(t, vm.ProveClean(t.Context(), m), op)
	}
	require.NoError(t, m.Snapshot(t.Context(), "late"), "the name is free")
}

func TestARevertThatComesTooLateLeavesTheMachineOff(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ready(t, m)
	require.NoError(t, m.Snapshot(t.Context(), "clean"))
	ctx, cancel := context.WithCancel(t.Context())
	h.hooks(nil, func(op, _ string) error {
		if op == "restore" {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, m.Revert(ctx, "clean"), context.Canceled)
	h.hooks(nil, nil)
	require.NoError(t, m.Kill(t.Context())) // waits for the revert to be through
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateStopped, info.State)
	require.NoError(t, m.Revert(t.Context(), "clean"))
	require.NoError(t, vm.ProveClean(t.Context(), m))
}
