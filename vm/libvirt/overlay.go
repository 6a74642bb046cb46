package libvirt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/vm"
)

// The format of qcow2 is docs/interop/qcow2.txt of QEMU's source. An image
// without content is a header, a refcount table, one block of refcounts and an
// empty table of the first level, a cluster each but the last.
const (
	qcowMagic       = 0x514649fb
	qcowClusterBits = 16
	qcowCluster     = 1 << qcowClusterBits
	qcowBackingFmt  = 0xe2792aca // header extension
	qcowHeaderSize  = 104
)

// makeOverlay makes a disk: an empty one, or an overlay of its base.
func makeOverlay(path string, disk vm.Disk) error {
	if disk.Format == "raw" {
		return makeDisk(path, disk.Size, "Size")
	}
	size := disk.Size
	base := disk.Backing
	if base != "" {
		var err error
		if base, err = filepath.Abs(base); err != nil {
			return err
		}
		if size, err = virtualSize(base, disk.BackingFormat); err != nil {
			return err
		}
	}
	head, tables, err := qcowHeader(size, base, disk.BackingFormat)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	if err == nil {
		err = f.Truncate(tables)
	}
	return errors.Join(err, f.Close())
}

// virtualSize is how large a disk seems to a guest, in bytes.
func virtualSize(path, format string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if format == "raw" {
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if !fi.Mode().IsRegular() {
			return 0, fmt.Errorf("%s is a %v, want a plain file", path, fi.Mode().Type())
		}
		return fi.Size(), nil
	}
	var head [32]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return 0, fmt.Errorf("%s is no qcow2 image: %w", path, err)
	}
	if binary.BigEndian.Uint32(head[:]) != qcowMagic {
		return 0, fmt.Errorf("%s is no qcow2 image", path)
	}
	return int64(binary.BigEndian.Uint64(head[24:])), nil
}

// qcowHeader gives the first clusters of an empty image of version 3 and the
// whole image's length.
func qcowHeader(size int64, base, baseFormat string) (head []byte, length int64, err error) {
	if size <= 0 || size > 1<<50 {
		return nil, 0, fmt.Errorf("size is %d bytes: %w", size, vm.ErrTooLarge)
	}
	if len(base) > 1023 {
		return nil, 0, fmt.Errorf("the base's path is %d bytes, want at most 1023: %w", len(base), vm.ErrTooLarge)
	}
	// One entry of the first level is for a cluster of 8-byte entries.
	const perEntry = qcowCluster * (qcowCluster / 8)
	entries := (size + perEntry - 1) / perEntry
	l1 := (entries*8 + qcowCluster - 1) / qcowCluster // clusters
	clusters := 3 + l1
	if clusters > qcowCluster/2 {
		return nil, 0, fmt.Errorf("size is %d bytes: %w", size, vm.ErrTooLarge)
	}
	head = make([]byte, 3*qcowCluster)
	be := binary.BigEndian
	be.PutUint32(head[0:], qcowMagic)
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[20:], qcowClusterBits)
	be.PutUint64(head[24:], uint64(size))
	be.PutUint32(head[36:], uint32(entries))
	be.PutUint64(head[40:], 3*qcowCluster) // first level
	be.PutUint64(head[48:], qcowCluster)   // refcount table
	be.PutUint32(head[56:], 1)             // of one cluster
	be.PutUint32(head[96:], 4)             // refcounts of 16 bits
	be.PutUint32(head[100:], qcowHeaderSize)
	at := qcowHeaderSize
	if base != "" {
		be.PutUint32(head[at:], qcowBackingFmt)
		be.PutUint32(head[at+4:], uint32(len(baseFormat)))
		copy(head[at+8:], baseFormat)
		at += 8 + (len(baseFormat)+7)&^7
	}
	at += 8 // the end of the extensions is zero
	if base != "" {
		be.PutUint64(head[8:], uint64(at))
		be.PutUint32(head[16:], uint32(len(base)))
		copy(head[at:], base)
	}
	be.PutUint64(head[qcowCluster:], 2*qcowCluster) // the only block of refcounts
	for i := range clusters {
		be.PutUint16(head[2*qcowCluster+2*i:], 1)
	}
	return head, clusters * qcowCluster, nil
}
