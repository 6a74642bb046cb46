// Package libvirt is the driver for virtual machines through libvirt: QEMU on
// this computer, with KVM or emulated, and libvirt's own test driver.
//
// # Building
//
// libvirt is a C library. A program that uses this package is built with cgo and
// one of two tags; without them Open answers an error that says so, and all else
// still compiles:
//
//	go build -tags libvirt_dlopen   # no headers; libvirt.so.0 is loaded when Open is called
//	go build -tags libvirt          # linked; needs libvirt-dev and pkg-config
//
// # Hypervisors
//
//   - test:///default: inside this process, no guests; for tests of a harness.
//   - qemu:///embed?root=DIR: libvirt's QEMU driver inside this process, no daemon,
//     no root needed. One process at a time has a root, one root a process, and
//     such a process reaches no daemon of this computer any more.
//     Without an etc/qemu.conf in it, Open writes one. libvirt's warnings go
//     to DIR/log/libvirt.log unless LIBVIRT_LOG_OUTPUTS is set.
//   - qemu:///session, qemu:///system, qemu+unix:///system?socket=...: a daemon.
//     QEMU of the system's daemon usually runs as another user, who must be able
//     to get to Config.Root.
//   - qemu+ssh://HOST/system: another computer, where the files of this one mean
//     nothing; see Another computer.
//
// # Machines
//
// A machine is a persistent domain of the same name, which says whose it is in
// its metadata (see Namespace) from the moment it is defined. Its files are in a
// folder below Config.Root:
//
//	<root>/<hypervisor>/<name>/spec.json    what it is; written once
//	                           secret       the secret of Spec, mode 0600
//	                           run.json     its last start
//	                           end.json     how that run ended: a daemon forgets
//	                           op.lock      flocked during an operation
//	                           channel.lock flocked by the driver that has the channel
//	                           place.lock   flocked while an input is plugged in, on another computer
//	                           console.log  bounded by Config.Console
//	                           job-<n>      the job disks: raw sparse files
//	                           input-<n>    the inputs, as large as Config.InputSize, and their digests
//	                           disk-<n>     the disks that the driver made: overlays
//	                           snapshots/   see Snapshots
//	<root>/<hypervisor>/.sockets/           where QEMU listens for channels
//	                    .parents/           saved machines; see Driver.Fork
//	                    .kvm.json           what trying KVM has shown, for some hours
//
// Folders are made as .new-* and removed as .dead-*; the domain is defined last
// and removed first. So whatever a killed process leaves is either a domain, which
// is listed and can be destroyed, or a folder without one, which the next Open
// or List removes.
//
// The secret stands on the kernel's command line, because that is the one thing
// a kernel hands to its first process: who may read the domain's description or
// QEMU's arguments on the host can read it.
//
// # Another computer
//
// Kernel, initrd and disks of a Spec are paths there, and exist there. Job disks
// and consoles are raw volumes of a storage pool there (Config.Pool), which
// libvirt's storage driver writes and reads: a job disk keeps what is written to it
// until Sync, and each read fetches. libvirt shrinks no volume below what it holds,
// so a console is bounded by virtlogd there (max_size of virtlogd.conf), not by
// Config.Console; with stdio_handler="file" nobody bounds it. The channel is a
// stream of the connection: when that breaks, a job in progress has lost its host,
// and the next Channel is another. A harness on a third computer may fill, end and
// remove such a machine, and read its console, but has no channel to it and no
// snapshots of it.
//
// An input is sent once for all machines and harnesses, and lies in the pool under
// its digest; the driver is a vm.Stocker. It counts only when another volume says
// that it is whole, so half an upload is never used. Of harnesses of one computer
// one sends; of several computers each may, and one input is kept. One that no
// machine has is removed by an upload that comes Config.KeepInputs after its last
// use. A machine gets it by hotplug, a virtio disk with the place's serial: its
// kernel must know PCI hotplug, by ACPI for machine type pc, of PCIe for others. So
// its input disks are as large as the input, not Config.InputSize, and a guest that
// hangs does not let go of one.
//
// There are no parents there. A parent's saved state would have to be copied for
// each machine, so that two computers may rewrite its head at once, and the
// snapshots below bring a machine back as fast.
//
// # Networks and screens
//
// A machine with Spec.Network has vm.Addresser; one to which Config.Domain added a
// video device has vm.Screenshotter. A machine with a network is no parent: those
// made of it would all have its hardware address.
//
// Addresses asks libvirt for leases, QEMU's guest agent and the host's neighbours
// (ARP), in this order; the last fails with libvirt 9.0 under newer kernels ("wrong
// nlmsg len").
//
// With Destroy goes the log that libvirt keeps for each name that a domain ever had,
// where this process may remove it.
//
// An emulated guest is told the rate of this computer's time stamp counter
// (tsc_early_khz=), which it reads, unless Spec.Cmdline says one: on a busy host
// kernels were seen to find out a wrong one, with a clock five times too fast.
//
// # Parents
//
// Save has libvirt write a booted machine's state to a file; Fork defines a new
// machine, puts its description into the file's head in place of the parent's,
// and has it restored (vm.RungRestore). The head is private to libvirt: another
// version than the known one is refused, and vm.Renew falls back to a cold
// boot. It needs a file that this process may write, so QEMU and the daemon run
// as its user, or it as root. The guest's agent must see its host leave
// (diskio/guest/boot does). Restores from one parent follow one another; a
// restored machine has no AUTODESTROY.
//
// # Snapshots
//
// libvirt takes no internal snapshot of a machine with a raw disk that may be
// written, as job disks are: qemuSnapshotPrepare of src/qemu/qemu_snapshot.c wants
// qcow2 ("internal snapshot for disk vdb unsupported for storage type raw"), and
// that no such disk is left out, whether the machine runs or not ("disk 'vdb' must
// use snapshot mode 'internal'", "internal and full system snapshots require all
// disks to be selected for snapshot"). External ones it reverts from 9.9 on only.
// So of the machines that it made, the driver keeps the snapshots itself, by calls
// that every version has, and libvirt knows nothing of them: Snapshot has libvirt
// save the machine's state to a file, copies the disks that the driver made beside
// it (sharing blocks where the file system can), and restores it, so the machine
// goes on; Revert kills it, brings the disks back and restores the state, with the
// present ownership in place of the old. Name, UUID and paths stay, so no head is
// rewritten. The guest gets fresh entropy and the time in its welcome, as after
// Fork. A machine that is off has no state: it is off after Revert too.
//
// Job disks and inputs are not part of it: a snapshot is of an idle machine. One
// with another writable disk (of Spec.Disks[].Path or Config.Domain), an nvram file
// or a TPM is refused, and vm.Renew falls back to a cold boot and says why. The
// channel of a machine that runs ends with Snapshot and with Revert: Channel gives
// the next. Other processes see the machine off for a moment. It has no AUTODESTROY
// afterwards.
//
// Of machines that others made, and of test:///default, the snapshots are libvirt's
// own, such as their users' ("virsh snapshot-create-as").
//
// # When the harness dies
//
// Machines with OnExit Die end with their harness's connection to a daemon
// (AUTODESTROY), unless the daemon was started anew meanwhile. An embedded driver
// has no such thing: there, as everywhere, the ownership in the metadata lets
// the next harness find and destroy them, and the agent powers off when it has
// heard nothing for Config.Keepalive.
//
// Processes of QEMU become orphans of the process that started them. Where the
// computer's first process does not reap these at once, as in many containers,
// each kill takes a second longer: run libvirtd, or the harness, under a
// subreaper.
//
// A libvirtd that is killed in the first milliseconds of a start takes the machine
// for one that is being started for ever, and destroying it ends with vm.ErrBusy
// ("cannot acquire state change lock"; seen with 9.0). An embedded driver is rid of
// that when it is opened. For a daemon the administrator has to: stop libvirtd, remove
// the files in /run/libvirt/qemu that begin with a <domstatus> of pid='0', start it.
//
// # Sources
//
// https://libvirt.org/formatdomain.html, https://libvirt.org/uri.html,
// https://libvirt.org/drvqemu.html#driver-instances for the embedded driver.
package libvirt
