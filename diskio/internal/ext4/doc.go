// Package ext4 writes and reads ext4 file systems in plain code.
//
// The writer lays a whole tree out before the first byte is written: NewPlan
// gives every inode its number and every block its place, all structures in
// front and all file data behind them in one piece, so that structures are one
// sequential write and data can be copied by several workers.
//
// The reader takes images that a kernel or an attacker wrote. It trusts no
// number: each is checked against the image before it is used, loops are
// impossible by construction (extent trees must lose a level at each step,
// directories must name the parent they were reached from), and memory is
// bounded by its limits.
//
// The format is that of the Linux kernel's Documentation/filesystems/ext4; the
// journal's is that of jbd2 in the same place. Names of fields follow the
// kernel's, without their prefixes.
package ext4
