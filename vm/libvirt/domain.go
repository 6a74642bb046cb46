package libvirt

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

// host is what the capabilities say of a hypervisor.
type host struct {
	uuid     string
	arch     string
	emulator string
	// types are the domain types offered for that architecture.
	types map[string]bool
}

// parseHost reads the capabilities' XML.
func parseHost(text string) (host, error) {
	var c libvirtxml.Caps
	if err := c.Unmarshal(text); err != nil {
		return host{}, fmt.Errorf("the hypervisor's capabilities cannot be read: %w", err)
	}
	h := host{uuid: c.Host.UUID, types: map[string]bool{}}
	if c.Host.CPU != nil {
		h.arch = c.Host.CPU.Arch
	}
	for _, g := range c.Guests {
		if h.arch == "" {
			h.arch = g.Arch.Name
		}
		if g.OSType != "hvm" || g.Arch.Name != h.arch {
			continue
		}
		h.emulator = g.Arch.Emulator
		for _, d := range g.Arch.Domains {
			h.types[d.Type] = true
		}
	}
	return h, nil
}

// accelerator is how a machine's processor is made, and why so.
type accelerator struct {
	kind string // the domain's type: kvm, qemu (which is TCG) or test
	why  string
}

func (a accelerator) String() string {
	if a.kind == "qemu" {
		return "tcg"
	}
	return a.kind
}

// described is all that a domain's description is made of.
type described struct {
	spec    vm.Spec
	rec     specRecord
	meta    record
	dir     string // where the machine's files will be
	pool    string // the folder of another computer's storage pool
	disks   []vm.Disk
	host    host
	accel   accelerator
	target  target
	memory  int64
	counter int // kHz of the guest's time stamp counter; zero: it finds out
	emu     string
	machine string
	hook    func(*libvirtxml.Domain) error
}

// The kernel's command line is limited (COMMAND_LINE_SIZE of x86).
const mostCmdline = 2047

// cmdline adds what the guest's agent is told, and what a driver must be able to
// rely on: a console, and an end instead of a halt.
func cmdline(s vm.Spec, counter int) (string, error) {
	words := strings.Fields(s.Cmdline)
	has := func(key string) bool {
		for _, w := range words {
			if strings.HasPrefix(w, key) {
				return true
			}
		}
		return false
	}
	if !has("console=") {
		words = append(words, "console=ttyS0")
	}
	if !has("panic=") {
		words = append(words, "panic=-1")
	}
	if counter > 0 && !has("tsc_early_khz=") {
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", counter))
	}
	for _, told := range []struct{ field, key, value string }{
		{"Owner.Incarnation", "bullpen.incarnation", s.Owner.Incarnation},
		{"Secret", "bullpen.secret", s.Secret.Reveal()},
	} {
		if strings.ContainsFunc(told.value, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
			return "", fmt.Errorf("spec: %s has a space, a quote or a control character, which a kernel's command line cannot carry", told.field)
		}
		if told.value != "" {
			words = append(words, told.key+"="+told.value)
		}
	}
	line := strings.Join(words, " ")
	if len(line) > mostCmdline {
		return "", fmt.Errorf("spec: Cmdline is %d bytes with what the agent is told, want at most %d: %w", len(line), mostCmdline, vm.ErrTooLarge)
	}
	return line, nil
}

// describe builds the domain.
func describe(d described) (*libvirtxml.Domain, error) {
	s := d.spec
	meta, err := d.meta.embedded()
	if err != nil {
		return nil, err
	}
	arch := d.host.arch
	dom := &libvirtxml.Domain{
		Type: d.accel.kind, Name: s.Name, UUID: d.rec.UUID,
		Metadata:   &libvirtxml.DomainMetadata{XML: meta},
		Memory:     &libvirtxml.DomainMemory{Value: uint((d.memory + 1023) / 1024), Unit: "KiB"},
		VCPU:       &libvirtxml.DomainVCPU{Value: uint(max(s.CPUs, 1))},
		OS:         &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: arch, Machine: d.machine, Type: "hvm"}},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{Emulator: d.emu},
	}
	if s.Kernel != "" {
		dom.OS.Kernel, dom.OS.Initrd = s.Kernel, s.Initrd
		if dom.OS.Cmdline, err = cmdline(s, d.counter); err != nil {
			return nil, err
		}
	} else {
		dom.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	if d.target.guests() {
		fillGuest(dom, d)
	}
	if s.Network != "" {
		dom.Devices.Interfaces = []libvirtxml.DomainInterface{{
			Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: s.Network}},
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		}}
	}
	if d.hook != nil {
		if err := d.hook(dom); err != nil {
			return nil, fmt.Errorf("Config.Domain: %w", err)
		}
		if dom.Name != s.Name || dom.UUID != d.rec.UUID || dom.Metadata == nil || !strings.Contains(dom.Metadata.XML, meta) {
			return nil, errors.New("Config.Domain changed the name, the uuid or the driver's metadata, want them as they were")
		}
	}
	// Others see no description, only the metadata.
	has := extras(dom)
	d.meta.Network, d.meta.Screen = has.Has(vm.CanAddress), has.Has(vm.CanScreenshot)
	full, err := d.meta.embedded()
	if err != nil {
		return nil, err
	}
	dom.Metadata.XML = strings.Replace(dom.Metadata.XML, meta, full, 1)
	return dom, nil
}

// extras are the capabilities that depend on a domain's devices. libvirt adds a
// video device where there are graphics.
func extras(dom *libvirtxml.Domain) vm.Set {
	var s vm.Set
	if len(dom.Devices.Interfaces) > 0 {
		s |= vm.CanAddress
	}
	if len(dom.Devices.Videos)+len(dom.Devices.Graphics) > 0 {
		s |= vm.CanScreenshot
	}
	return s
}

// fillGuest adds what only a domain with a guest has.
func fillGuest(dom *libvirtxml.Domain, d described) {
	s := d.spec
	x86 := d.host.arch == "x86_64" || d.host.arch == "i686"
	if d.machine == "" {
		// pc starts somewhat faster than q35 under TCG.
		if dom.OS.Type.Machine = "virt"; x86 {
			dom.OS.Type.Machine = "pc"
		}
	}
	if s.Firmware != "" {
		dom.OS.Loader = &libvirtxml.DomainLoader{Path: s.Firmware, Readonly: "yes", Type: "rom"}
		if strings.HasSuffix(s.Firmware, ".fd") {
			dom.OS.Loader.Type = "pflash"
		}
	}
	dom.Features = &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}}
	dev := dom.Devices
	dev.Controllers = []libvirtxml.DomainController{{Type: "usb", Model: "none"}}
	dev.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "none"}
	if x86 {
		// Tells a guest's panic from its power off, where the guest has pvpanic.
		dev.Panics = []libvirtxml.DomainPanic{{Model: "isa"}}
	}
	for n, disk := range d.disks {
		cache := "writeback"
		if s.Disks[n].Path == "" {
			cache = "unsafe" // made by the driver: it goes with the machine
		}
		addDisk(dev, disk.Path, disk.Format, cache, "", disk.ReadOnly, backing(disk))
	}
	// What is read back has to outlive QEMU, not the host: the host's page
	// cache, which both sides see, is enough, and no flush is waited for.
	for n := range s.JobDisks {
		addDisk(dev, d.file(jobDiskFile(n)), "raw", "unsafe", fmt.Sprintf("bullpen-job-%d", n), false, &libvirtxml.DomainDiskBackingStore{})
	}
	if m := dom.OS.Type.Machine; d.target.remote() && s.Inputs > 0 && m != "pc" && !strings.HasPrefix(m, "pc-i440fx") {
		// Only the root bus of pc takes devices without a port that waits for them;
		// libvirt gives the ports to the devices that are there first.
		dev.Controllers = append(dev.Controllers, pciPorts(len(dev.Disks)+s.Inputs+4)...)
	}
	for place := range s.Inputs {
		if d.target.remote() {
			break // they are plugged in when there are any: see farInsert
		}
		addDisk(dev, d.file(inputFile(place)), "raw", "writeback", inputSerial(place), true, &libvirtxml.DomainDiskBackingStore{})
	}
	zero := uint(0)
	if d.target.remote() {
		// Paths of this computer mean nothing there: of the channel libvirt chooses it.
		dev.Serials = []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: filepath.Join(d.pool, d.rec.FarConsole), Append: "on"}},
			Target: &libvirtxml.DomainSerialTarget{Port: &zero},
		}}
		dev.Channels = []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: channelName}},
		}}
		return
	}
	dev.Serials = []libvirtxml.DomainSerial{{
		Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: d.rec.Console, Append: "on"}},
		Target: &libvirtxml.DomainSerialTarget{Port: &zero},
	}}
	dev.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: d.rec.Socket}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: channelName}},
	}}
}

// pciPorts are a PCIe root and ports of it.
func pciPorts(n int) []libvirtxml.DomainController {
	all := make([]libvirtxml.DomainController, 0, n+1)
	for index := range uint(n) + 1 {
		model := "pcie-root-port"
		if index == 0 {
			model = "pcie-root"
		}
		all = append(all, libvirtxml.DomainController{Type: "pci", Index: &index, Model: model})
	}
	return all
}

// inputSerial is by which the guest finds a place.
func inputSerial(place int) string { return fmt.Sprint(inputSerialPrefix, place) }

const inputSerialPrefix = "bullpen-in-"

// channelName is the channel's in the guest.
const channelName = "bullpen.0"

// file is where a disk of the machine will be.
func (d described) file(name string) string {
	if d.target.remote() {
		return filepath.Join(d.pool, volumeName(d.spec.Name, name))
	}
	return filepath.Join(d.dir, name)
}

// addDisk adds a virtio disk behind those that are there. No format is ever
// probed, not even that of a raw disk's absent base. Errors are the guest's to
// see: QEMU would stop it where the host has no room, until somebody makes room.
func addDisk(dev *libvirtxml.DomainDeviceList, path, format, cache, serial string, readOnly bool, base *libvirtxml.DomainDiskBackingStore) {
	d := libvirtxml.DomainDisk{
		Device:       "disk",
		Driver:       &libvirtxml.DomainDiskDriver{Name: "qemu", Type: format, Cache: cache, ErrorPolicy: "report"},
		Source:       &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}},
		Target:       &libvirtxml.DomainDiskTarget{Dev: diskName(len(dev.Disks)), Bus: "virtio"},
		Serial:       serial,
		BackingStore: base,
	}
	if readOnly {
		d.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	dev.Disks = append(dev.Disks, d)
}

// backing states the base of an overlay, and that there is none below it.
func backing(d vm.Disk) *libvirtxml.DomainDiskBackingStore {
	if d.Backing == "" {
		return &libvirtxml.DomainDiskBackingStore{}
	}
	return &libvirtxml.DomainDiskBackingStore{
		Format: &libvirtxml.DomainDiskFormat{Type: d.BackingFormat},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Backing}},
	}
}

// diskName is vda to vdz, then vdaa.
func diskName(n int) string {
	name := ""
	for n++; n > 0; n = (n - 1) / 26 {
		name = string(rune('a'+(n-1)%26)) + name
	}
	return "vd" + name
}
