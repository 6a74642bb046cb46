// Package boot makes the agent of diskio/guest the first process of a Linux
// machine: it mounts what a kernel needs, loads modules, finds the channel's
// port and the disks by the names that the host gave them, and powers the
// machine off at the end. examples/agent is the whole program around it; package
// initramfs makes a bootable initramfs of that program.
//
// # What the host provides
//
//   - a virtio-serial port named "bullpen.0": the channel;
//   - virtio-blk disks with the serials "bullpen-job-<n>" and
//     "bullpen-in-<place>": the reserved job disks and the inputs;
//   - on the kernel's command line, bullpen.incarnation=<text> and
//     bullpen.secret=<text>: what the hello carries.
//
// A file /etc/bullpen/modules names the modules to load, in order, one path a
// line.
//
// # Sources
//
// The kernel's admin guide for init and the initramfs
// (Documentation/filesystems/ramfs-rootfs-initramfs.rst), random(4) for
// RNDADDENTROPY and RNDRESEEDCRNG, and Documentation/ABI for
// /sys/class/virtio-ports.
package boot
