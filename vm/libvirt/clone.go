package libvirt

import (
	"os"
	"syscall"
	"unsafe"
)

// cloneRange shares the first size bytes of src with dst, where the file system
// can. A size that is no multiple of its blocks is refused by most.
func cloneRange(dst, src *os.File, size int64) error {
	r := struct {
		fd            int64
		from, len, to uint64
	}{fd: int64(src.Fd()), len: uint64(size)}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dst.Fd(), ficlonerange, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}
