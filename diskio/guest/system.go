package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// These are the hooks of a machine of its own, for Config. They need root, and
// change the whole system: never give them to an agent that shares its kernel.

// Reseed stirs entropy into the kernel's random numbers and credits it: clones
// of one saved state must not go on with the same numbers.
func Reseed(entropy []byte) error {
	const rndAddEntropy = 0x40085203 // RNDADDENTROPY, linux/random.h
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close() // nothing is buffered
	// struct rand_pool_info: bits, bytes, the bytes.
	b := binary.NativeEndian.AppendUint32(nil, uint32(8*len(entropy)))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(entropy)))
	b = append(b, entropy...)
	return ioctl(f, rndAddEntropy, unsafe.Pointer(&b[0]))
}

// SetClock sets the wall clock.
func SetClock(t time.Time) error {
	tv := syscall.NsecToTimeval(t.UnixNano())
	return os.NewSyscallError("settimeofday", syscall.Settimeofday(&tv))
}

// SetHostName sets the host name until the next boot.
func SetHostName(name string) error {
	return os.NewSyscallError("sethostname", syscall.Sethostname([]byte(name)))
}

// MachineIDFile makes a hook that writes the machine id to a file, such as
// /etc/machine-id.
func MachineIDFile(path string) func(id string) error {
	return func(id string) error { return os.WriteFile(path, []byte(id+"\n"), 0o444) }
}

// PowerOff writes everything back and ends the machine; it does not return
// when it can.
func PowerOff() {
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // there is nobody to tell
}

// OpenDisk opens a block device, or a file, as a job disk. What the kernel had
// cached of a device is dropped first: the host may have written to it since.
func OpenDisk(path string) (Disk, error) {
	const blkFlsBuf = 0x1261 // BLKFLSBUF, linux/fs.h
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		if err = ioctl(f, blkFlsBuf, nil); errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EINVAL) {
			err = nil // a plain file
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &deviceDisk{f, size}, nil
}

// deviceDisk is a device or a file with the size that it had.
type deviceDisk struct {
	*os.File
	size int64
}

func (d *deviceDisk) Size() int64 { return d.size }

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("ioctl", errno)
	}
	return err
}
