package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

func TestURIsAreTakenApartAndWrongOnesNamed(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]target{
		"test:///default":                         {kind: kindTest},
		"qemu:///embed?root=/a/../b":              {kind: kindEmbed, root: "/b"},
		"qemu:///session":                         {kind: kindSession},
		"qemu:///system":                          {kind: kindSystem},
		"qemu+unix:///system?socket=/run/x":       {kind: kindSystem, socket: "/run/x"},
		"qemu+ssh://root@far.example:2222/system": {kind: kindSystem, host: "far.example"},
	} {
		got, err := parseURI(uri)
		require.NoError(t, err, uri)
		want.uri = uri
		assert.Equal(t, want, got, uri)
	}
	for uri, why := range map[string]string{
		"": "empty", "qemu:///embed": "absolute path", "qemu:///embed?root=x": "absolute path", "xen:///": "none that",
		"qemu+ssh:///system": "names no host", "test://far/default": "inside this process", "qemu+ssh://far/session": "not supported", "\x00": "Config.URI",
	} {
		_, err := parseURI(uri)
		require.Error(t, err, uri)
		assert.Contains(t, err.Error(), why, uri)
		assert.Contains(t, err.Error(), "Config.URI", uri)
	}
}

func TestAConfigThatBreaksARuleIsRefusedByField(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*Config){
		"URI":          func(c *Config) { c.URI = "" },
		"Root":         func(c *Config) { c.Root = "/" + strings.Repeat("x", 100) },
		"BootTimeout":  func(c *Config) { c.BootTimeout = -1 },
		"KillTimeout":  func(c *Config) { c.KillTimeout = -1 },
		"ProbeTimeout": func(c *Config) { c.ProbeTimeout = -1 },
		"Reconnect":    func(c *Config) { c.Reconnect = -1 },
		"Poll":         func(c *Config) { c.Poll = -1 },
		"Memory":       func(c *Config) { c.Memory = 5 },
		"InputSize":    func(c *Config) { c.InputSize = 4097 },
		"Console":      func(c *Config) { c.Console = 1 },
	} {
		c := Config{URI: "qemu:///system"}
		change(&c)
		_, _, err := c.withDefaults()
		require.Error(t, err, field)
		assert.Contains(t, err.Error(), "Config."+field)
	}
	c, _, err := Config{URI: "qemu:///embed?root=/x"}.withDefaults()
	require.NoError(t, err)
	assert.Equal(t, "/x/bullpen", c.Root)
	assert.Equal(t, DefaultKeepalive, c.Keepalive)
	c, _, err = Config{URI: "qemu:///system", Keepalive: -1}.withDefaults()
	require.NoError(t, err)
	assert.Zero(t, c.Keepalive)
}

// Table of what libvirt 9 says at the end of a domain; see FIGURES and
// https://libvirt.org/html/libvirt-libvirt-domain.html.
func TestEndsAreToldApart(t *testing.T) {
	t.Parallel()
	off := func(reason int) domain { return domain{state: domShutoff, reason: reason} }
	panicked := []byte("[ 1.0] Kernel panic - not syncing: sysrq\n")
	for name, c := range map[string]struct {
		d       domain
		events  []event
		console []byte
		want    vm.EndKind
	}{
		"power off":                 {off(offShutdown), []event{{event: eventShutdown, detail: 1}, {event: eventStopped}}, nil, vm.EndPoweredOff},
		"panic without pvpanic":     {off(offShutdown), []event{{event: eventShutdown, detail: 1}, {event: eventStopped}}, panicked, vm.EndCrashed},
		"panic with pvpanic":        {off(offCrashed), []event{{event: eventCrashed}, {event: eventStopped, detail: 2}}, nil, vm.EndCrashed},
		"panic seen by events only": {off(offUnknown), []event{{event: eventCrashed}, {event: eventStopped, detail: 2}}, nil, vm.EndCrashed},
		"kept after a crash":        {domain{state: domCrashed}, nil, nil, vm.EndCrashed},
		"destroy":                   {off(offDestroyed), []event{{event: eventShutdown, detail: shutdownHost}, {event: eventStopped, detail: 1}}, nil, vm.EndKilled},
		"destroy after a panic":     {off(offDestroyed), nil, panicked, vm.EndKilled},
		"SIGTERM from outside":      {off(offShutdown), []event{{event: eventShutdown, detail: shutdownHost}, {event: eventStopped}}, nil, vm.EndKilled},
		"SIGKILL from outside":      {off(offFailed), []event{{event: eventStopped, detail: 5}}, nil, vm.EndCrashed},
		"saved":                     {off(offSaved), nil, nil, vm.EndKilled},
		"daemon":                    {off(offDaemon), nil, nil, vm.EndKilled},
		"from a snapshot":           {off(offFromSnapshot), nil, nil, vm.EndKilled},
		"forgotten by the daemon":   {off(offUnknown), nil, nil, vm.EndUnknown},
		"known from an event":       {off(offUnknown), []event{{event: eventStopped, detail: 1}}, nil, vm.EndKilled},
		"a detail of the future":    {off(offUnknown), []event{{event: eventStopped, detail: 99}}, nil, vm.EndUnknown},
		"a reason of the future":    {off(99), nil, nil, vm.EndUnknown},
		"panic of the run before":   {off(offShutdown), []event{{event: eventCrashed}, {event: eventStarted}}, nil, vm.EndPoweredOff},
	} {
		var f facts
		for _, e := range c.events {
			f.tell(e)
		}
		assert.Equal(t, c.want, endOf(c.d, f, c.console).Kind, name)
		assert.NotEmpty(t, endOf(c.d, f, c.console).Detail, name)
	}
	// It is what a libvirtd says that was away when QEMU ended, of whatever.
	end := endOf(off(offCrashed), facts{}, nil)
	assert.Equal(t, vm.End{Kind: vm.EndCrashed, Detail: qemuDied}, end)
}

func TestStatesAreMapped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state, reason int
		ran           bool
		want          vm.State
	}{
		{domRunning, 1, true, vm.StateRunning}, {domBlocked, 0, true, vm.StateRunning}, {domShutdown, 0, true, vm.StateRunning},
		{domPaused, 1, true, vm.StatePaused}, {domPaused, pausedStartingUp, true, vm.StateStarting}, {domPMSuspended, 0, true, vm.StatePaused},
		{domShutoff, 0, false, vm.StateDefined}, {domShutoff, offDestroyed, true, vm.StateStopped}, {domCrashed, 0, true, vm.StateCrashed},
		{domNoState, 0, true, vm.StateUnknown}, {42, 0, true, vm.StateUnknown},
	} {
		assert.Equal(t, c.want, stateOf(domain{state: c.state, reason: c.reason}, c.ran), "%+v", c)
	}
}

func TestErrorsOfLibvirtGetTheWordsOfPackageVM(t *testing.T) {
	t.Parallel()
	for want, e := range map[error]*callError{
		vm.ErrNotFound:        {code: codeNoDomain},
		vm.ErrState:           {code: codeInvalid},
		vm.ErrBusy:            {code: codeTimeout},
		errors.ErrUnsupported: {code: codeConfigSupport},
		vm.ErrHostLost:        {code: codeInternal, lost: true},
		syscall.EBADF:         {code: codeInternal, text: "x"}, // nothing
	} {
		assert.Equal(t, want != syscall.EBADF, errors.Is(e, want), "%v", e)
	}
	assert.ErrorIs(t, &callError{code: codeInternal, text: "qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory"}, vm.ErrBusy)
	assert.ErrorIs(t, full(&os.PathError{Err: syscall.ENOSPC}), vm.ErrBusy)
	assert.Contains(t, (&callError{code: 42, text: "gone"}).Error(), "42")
}

func TestMetadataKeepAnyOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.Rune())
		r := record{Version: recordVersion, Template: text.Draw(t, "template"), Dir: text.Draw(t, "dir"), Incarnation: "i", OnExit: "die",
			Created: time.Unix(1e9, 0).UTC(), Owner: vm.Owner{Pool: text.Draw(t, "pool"), Lock: text.Draw(t, "lock"), Token: rapid.Uint64().Draw(t, "token")}}
		for _, f := range []func() (string, error){r.encode, r.embedded} {
			e, err := f()
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeRecord(e)
			if err != nil || *got != r {
				t.Fatalf("%+v, %v, want %+v; as %s", got, err, r, e)
			}
		}
	})
}

func TestForeignOrDamagedMetadataAreNoRecord(t *testing.T) {
	t.Parallel()
	got, err := decodeRecord("")
	assert.NoError(t, err)
	assert.Nil(t, got)
	for _, e := range []string{"<machine>", "<machine>x</machine>", `<machine>{"version":2}</machine>`, "noise"} {
		got, err := decodeRecord(e)
		assert.Error(t, err, e)
		assert.Nil(t, got)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(`<machine>{"version":1}</machine>`)
	f.Fuzz(func(t *testing.T, s string) { _, _ = decodeRecord(s) })
}

func FuzzReadSave(f *testing.F) {
	f.Add(savedState([]byte("<domain/>"), []byte("<cookie/>")))
	f.Add(savedState([]byte("<domain/>"), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := readSave(bytes.NewReader(b))
		if err != nil && !errors.Is(err, errSaveFormat) {
			t.Fatal(err)
		}
		if err == nil && len(d.xml)+len(d.cookie) > len(b) {
			t.Fatal("more than there is")
		}
	})
}

func TestASavedStateGetsAnotherDescriptionOfTheSameLength(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	whole := append(savedState([]byte("<domain>old</domain>"), []byte("<cookie/>")), "the state of QEMU"...)
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	d, err := readSave(f)
	require.NoError(t, err)
	assert.Equal(t, "<domain>old</domain>", string(d.xml))
	for _, text := range []string{"<domain>a much longer one</domain>", "<d/>"} {
		d.xml = []byte(text)
		require.NoError(t, writeSave(f, d))
		again, err := readSave(f)
		require.NoError(t, err)
		assert.Equal(t, d, again)
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.HasSuffix(b, []byte("the state of QEMU")))
	assert.Len(t, b, len(whole))
	d.xml = bytes.Repeat([]byte("x"), 16384)
	require.ErrorContains(t, writeSave(f, d), "room")
	for at, wrong := range map[int]byte{0: 'l', 16: 3, 28: 1, 23: 0xff, 34: 0xff} {
		bad := bytes.Clone(whole)
		bad[at] = wrong
		_, err := readSave(bytes.NewReader(bad))
		assert.ErrorIs(t, err, errSaveFormat, "byte %d", at)
	}
}

func describedGuest(s vm.Spec) described {
	return described{spec: s, rec: specRecord{UUID: "u", Console: "/c&c", Socket: "/s"}, meta: record{Version: 1}, dir: "/m", disks: s.Disks,
		host: host{arch: "x86_64"}, accel: accelerator{kind: "qemu"}, target: target{kind: kindSystem}, memory: 100 << 20}
}

func TestTheDescriptionSaysWhatTheGuestLooksFor(t *testing.T) {
	t.Parallel()
	s := vm.Spec{Name: "n", Kernel: "/k", Initrd: "/i", Cmdline: "quiet", JobDisks: []int64{4096}, Inputs: 1, Secret: "s3", Network: "default", CPUs: 2,
		Owner: vm.Owner{Incarnation: "inc"}, Disks: []vm.Disk{{Path: "/root.qcow2", Format: "qcow2", Backing: "/b", BackingFormat: "raw"}}}
	dom, err := describe(describedGuest(s))
	require.NoError(t, err)
	text, err := dom.Marshal()
	require.NoError(t, err)
	for _, want := range []string{
		"quiet console=ttyS0 panic=-1 bullpen.incarnation=inc bullpen.secret=s3", "<serial>bullpen-job-0</serial>", "<serial>bullpen-in-0</serial>",
		`name="bullpen.0"`, `path="/c&amp;c"`, "<on_crash>destroy</on_crash>", `<panic model="isa">`, `type="raw" cache="unsafe"`, `<source network="default">`,
		`type="qcow2" cache="writeback"`, `<format type="raw">`,
	} {
		assert.Contains(t, text, want)
	}
	assert.Equal(t, 3, strings.Count(text, "<backingStore"), "nothing is probed:\n%s", text)
	var back libvirtxml.Domain
	require.NoError(t, back.Unmarshal(text))
	assert.Len(t, back.Devices.Disks, 3)
	for _, disk := range back.Devices.Disks {
		assert.Equal(t, "report", disk.Driver.ErrorPolicy, "QEMU stops a guest whose disk has no room on the host")
	}
}

func TestACommandLineCarriesNoSpacesAndHasALimit(t *testing.T) {
	t.Parallel()
	for _, s := range []vm.Spec{
		{Owner: vm.Owner{Incarnation: "a b"}}, {Owner: vm.Owner{Incarnation: "a\"b"}}, {Secret: "a\nb"}, {Cmdline: strings.Repeat("x", 2100)},
	} {
		_, err := cmdline(s, 0)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "a\nb", "the secret is told to nobody")
	}
	got, err := cmdline(vm.Spec{Cmdline: "console=hvc0 panic=5"}, 0)
	require.NoError(t, err)
	assert.Equal(t, "console=hvc0 panic=5", got)
	got, err = cmdline(vm.Spec{Cmdline: "console=hvc0 panic=5"}, 2596103)
	require.NoError(t, err)
	assert.Equal(t, "console=hvc0 panic=5 tsc_early_khz=2596103", got)
	got, err = cmdline(vm.Spec{Cmdline: "console=hvc0 panic=5 tsc_early_khz=7"}, 2596103)
	require.NoError(t, err)
	assert.Equal(t, "console=hvc0 panic=5 tsc_early_khz=7", got, "who says it knows better")
}

func TestTheHookMayChangeMuchButNotWhatTheDriverNeeds(t *testing.T) {
	t.Parallel()
	d := describedGuest(vm.Spec{Name: "n", Firmware: "/ovmf.fd"})
	d.hook = func(dom *libvirtxml.Domain) error { dom.Title = "mine"; return nil }
	dom, err := describe(d)
	require.NoError(t, err)
	assert.Equal(t, "mine", dom.Title)
	assert.Equal(t, "pflash", dom.OS.Loader.Type)
	d.hook = func(dom *libvirtxml.Domain) error { dom.Metadata = nil; return nil }
	_, err = describe(d)
	require.ErrorContains(t, err, "metadata")
	d.hook = func(*libvirtxml.Domain) error { return os.ErrInvalid }
	_, err = describe(d)
	require.ErrorIs(t, err, os.ErrInvalid)
}

func TestDiskNamesGoOnBehindZ(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "vda", 25: "vdz", 26: "vdaa", 27: "vdab", 701: "vdzz", 702: "vdaaa"} {
		assert.Equal(t, want, diskName(n))
	}
}

func TestOverlaysAreWhatQEMUCallsAnOverlay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, over, empty := filepath.Join(dir, "base"), filepath.Join(dir, "over"), filepath.Join(dir, "empty")
	require.NoError(t, makeDisk(base, 3<<20, "base"))
	require.NoError(t, makeOverlay(over, vm.Disk{Format: "qcow2", Backing: base, BackingFormat: "raw"}))
	require.NoError(t, makeOverlay(empty, vm.Disk{Format: "qcow2", Size: 10 << 30}))
	size, err := virtualSize(over, "qcow2")
	require.NoError(t, err)
	assert.Equal(t, int64(3<<20), size)
	_, err = virtualSize(base, "qcow2")
	require.ErrorContains(t, err, "no qcow2")
	require.Error(t, makeOverlay(filepath.Join(dir, "huge"), vm.Disk{Format: "qcow2", Size: 1 << 60}))
	require.NoError(t, makeOverlay(filepath.Join(dir, "raw"), vm.Disk{Format: "raw", Size: 4096}))
	need.Thing(t, "qemu")
	for _, path := range []string{over, empty} {
		out, err := exec.Command("qemu-img", "check", path).CombinedOutput()
		require.NoError(t, err, string(out))
		assert.Contains(t, string(out), "No errors")
	}
	out, err := exec.Command("qemu-img", "info", over).CombinedOutput()
	require.NoError(t, err)
	assert.Contains(t, string(out), "backing file format: raw")
	assert.Contains(t, string(out), "3 MiB")
}

func TestTheTinyGuestOfTheProbeIsABootSector(t *testing.T) {
	t.Parallel()
	b := bootSector()
	assert.Len(t, b, 512)
	assert.Equal(t, uint16(0xaa55), binary.LittleEndian.Uint16(b[510:]))
}

func TestAConsoleIsCutToItsNewestHalf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c")
	require.NoError(t, trimConsole(path, 100))
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("0123456789"), 11), 0o600))
	require.NoError(t, trimConsole(path, 100))
	b, err := consoleTail(path, 1000)
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("0123456789", 5), string(b))
	b, err = consoleTail(path, 3)
	require.NoError(t, err)
	assert.Equal(t, "789", string(b))
}

func TestWithoutLibvirtOpenSaysHowToBuild(t *testing.T) {
	if real {
		t.Skip("this program has libvirt")
	}
	_, err := Open(context.Background(), Config{URI: "qemu:///system"})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	assert.Contains(t, err.Error(), "-tags libvirt_dlopen")
	assert.Contains(t, err.Error(), "-tags libvirt ")
	_, err = Open(context.Background(), Config{})
	require.ErrorContains(t, err, "Config.URI")
}
