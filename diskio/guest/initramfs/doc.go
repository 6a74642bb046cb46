// Package initramfs makes a bootable test guest of a Linux kernel, its modules
// and a static agent: an initial ramdisk (cpio, newc) whose first process is the
// agent. It needs no root, no mount and no external program.
//
// [Find] looks for the kernel and busybox where Debian's packages put them, in
// the root or in a folder into which the packages were unpacked:
//
//	apt-get download linux-image-cloud-amd64-version busybox-static
//	dpkg-deb -x linux-image-*.deb root && dpkg-deb -x busybox-static_*.deb root
//
// What is missing is said with the command that provides it. [Build] makes the
// ramdisk and keeps it by content.
//
// # Sources
//
// The kernel's Documentation/driver-api/early-userspace/buffer-format.rst for
// the ramdisk, and modinfo sections of modules for what they depend on: packages
// carry no modules.dep, which depmod makes when they are installed.
package initramfs
