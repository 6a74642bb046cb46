// Package diskio moves work into machines and results out of them on disks.
//
// There are two kinds of disks. A job disk carries one job to a guest and its
// results back, as records that are written down in PROTOCOL.md: WriteJob and
// ReadResults are the host's side. An input disk is a read-only file system
// image with files that jobs work on: Pack makes one from folders and files,
// the same bytes from the same tree, Cache keeps images by content, and an
// Image may be shared by any number of machines.
//
// # Reading what a guest wrote
//
// Open reads an ext4 image that a kernel, or an attacker, wrote: without a
// mount, without root and without another program. It gives an fs.FS. Every
// number in the image is checked before it is used, checksums are verified
// where the image has them, a journal that was left dirty is replayed in
// memory, and what cannot be read right is an error and never stale or
// invented data. Extract copies any fs.FS into a folder within limits and
// says what it left out.
//
// Errors are *OpError and name the place; ErrCorrupt, ErrLimit, ErrUnsupported
// and ErrChanged tell the kinds apart.
//
// # Cost
//
// Packing a folder costs about as much as tar. The digest of an image is
// computed when Digest is called for the first time, because it needs a pass
// over the whole image; images from a Cache have it from the start.
//
// Types are safe for concurrent use unless they say otherwise. Images, and file
// systems opened on them, are to be closed by whoever opened them.
package diskio
