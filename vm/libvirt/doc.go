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
//	                           console.log  bounded by Config.Console
//	                           job-<n>      the job disks: raw sparse files
//	                           input-<n>    the inputs, as large as Config.InputSize, and their digests
//	                           disk-<n>     the disks that the driver made: overlays
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
// and inputs are raw volumes of a storage pool there (Config.Pool), which libvirt's
// storage driver writes and reads: a job disk keeps what is written to it until
// Sync, and each read fetches. An input is sent once for each machine and place,
// not again while it is there, whoever asks; a note beside it says so. The channel
// is a stream of the connection: when that breaks, a job in progress has lost its
// host, and the next Channel is another. There are no consoles and no parents, and
// a harness on a third computer may fill, end and remove such a machine but has no
// channel to it.
//
// # Networks and screens
//
// A machine with Spec.Network has vm.Addresser; one to which Config.Domain added a
// video device has vm.Screenshotter. A machine with a network is no parent: those
// made of it would all have its hardware address.
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
// # Sources
//
// https://libvirt.org/formatdomain.html, https://libvirt.org/uri.html,
// https://libvirt.org/drvqemu.html#driver-instances for the embedded driver.
package libvirt
