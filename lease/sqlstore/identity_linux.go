package sqlstore

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// statxNumber gives the number of statx(2), which package syscall does not know.
func statxNumber() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 332
	case "arm64", "riscv64", "loong64":
		return 291
	}
	return 0
}

// statx is the struct of that name.
type statx struct {
	mask, blksize            uint32
	attributes               uint64
	nlink, uid, gid          uint32
	mode                     uint16
	_                        uint16
	ino, size, blocks, known uint64
	times                    [4][2]uint64
	rdevMajor, rdevMinor     uint32
	devMajor, devMinor       uint32
	_                        [14]uint64
}

// identify tells which file path names, without asking for its times: since Linux
// 6.13 who asks makes the next write note its time to the nanosecond, and then
// each fsync of another file commits that as well. It doubled the time of an
// acquire.
func identify(path string) (identity, error) {
	nr := statxNumber()
	name, err := syscall.BytePtrFromString(path)
	if nr == 0 || err != nil {
		return identifyByStat(path)
	}
	const (
		here    = ^uintptr(99) // AT_FDCWD
		wantIno = 0x100        // STATX_INO
	)
	var s statx
	for {
		_, _, errno := syscall.Syscall6(nr, here, uintptr(unsafe.Pointer(name)), 0, wantIno, uintptr(unsafe.Pointer(&s)), 0)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.ENOSYS || errno == syscall.EPERM || errno == 0 && s.mask&wantIno == 0:
			return identifyByStat(path)
		case errno != 0:
			return identity{}, &os.PathError{Op: "statx", Path: path, Err: errno}
		}
		return identity{dev: uint64(s.devMajor)<<32 | uint64(s.devMinor), ino: s.ino}, nil
	}
}

func identifyByStat(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, errors.ErrUnsupported
	}
	return identity{dev: s.Dev, ino: s.Ino}, nil
}
