//go:build linux

package boot

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"
)

// raiseLoopback takes the loopback interface up; the kernel gives it 127.0.0.1
// by itself then. Jobs that talk to themselves over it are common, and a new
// network namespace has it down. A kernel without networks is no error.
func raiseLoopback() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("boot: loopback: %w", err)
	}
	defer syscall.Close(fd) // nothing is written to it
	// struct ifreq of linux/if.h: the name, then a union of 24 bytes.
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 && errno != syscall.ENODEV {
		return fmt.Errorf("boot: loopback: %w", errno)
	}
	return nil
}
