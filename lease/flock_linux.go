package lease

import (
	"os"
	"syscall"
)

// Magic numbers of statfs(2) of file systems on which a flock may be a matter
// of one machine while the file is everyone's.
const (
	magicNFS   = 0x6969
	magicSMB   = 0x517b
	magicSMB2  = 0xfe534d42
	magicCIFS  = 0xff534d42
	magicCeph  = 0x00c36400
	magic9P    = 0x01021997
	magicFUSE  = 0x65735546
	magicAFS   = 0x5346414f
	magicGFS2  = 0x01161970
	magicOCFS2 = 0x7461636f
)

// localLocks tells whether f's file system belongs to this machine alone.
func localLocks(f *os.File) bool {
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &s); err != nil {
		return false
	}
	switch uint32(s.Type) { //nolint:gosec // the magic numbers have 32 bits
	case magicNFS, magicSMB, magicSMB2, magicCIFS, magicCeph, magic9P, magicFUSE, magicAFS, magicGFS2, magicOCFS2:
		return false
	}
	return true
}
