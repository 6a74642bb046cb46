//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest"
)

// diskWait bounds the wait for a disk that the host has just put in.
const diskWait = 30 * time.Second

// blkflsbuf drops what the kernel keeps of a block device (BLKFLSBUF of
// linux/fs.h): the host writes to disks behind the guest's back.
const blkflsbuf = 0x1261

// findDisk waits for the block device with that serial.
func findDisk(ctx context.Context, sys, serial string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	for {
		files, err := filepath.Glob(filepath.Join(sys, "block/*/serial"))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(text)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		if err := pause(ctx); err != nil {
			return "", fmt.Errorf("boot: no disk with the serial %q after %v: %w", serial, diskWait, err)
		}
	}
}

// flush makes the next read come from the host.
func flush(f *os.File) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), blkflsbuf, 0); errno != 0 {
		return fmt.Errorf("boot: flush %s: %w", f.Name(), errno)
	}
	return nil
}

// jobDisk is a reserved job disk.
type jobDisk struct {
	*os.File
	size int64
}

func (d jobDisk) Size() int64 { return d.size }

func openJobDisk(ctx context.Context, sys string, n int) (guest.Disk, error) {
	path, err := findDisk(ctx, sys, fmt.Sprintf("bullpen-job-%d", n))
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = flush(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return jobDisk{f, size}, nil
}

// mountInput mounts an input read-only in a folder below dir.
func mountInput(ctx context.Context, sys, dir string, in diskio.GoInput) (string, func() error, error) {
	path, err := findDisk(ctx, sys, fmt.Sprintf("bullpen-in-%d", in.Place))
	if err != nil {
		return "", nil, err
	}
	f, err := os.Open(path)
	if err == nil {
		err = errors.Join(flush(f), f.Close())
	}
	if err != nil {
		return "", nil, fmt.Errorf("boot: %w", err)
	}
	at := filepath.Join(dir, fmt.Sprintf("place-%d", in.Place))
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", nil, fmt.Errorf("boot: %w", err)
	}
	const how = syscall.MS_RDONLY | syscall.MS_NODEV | syscall.MS_NOSUID
	if err := syscall.Mount(path, at, "ext4", how, "noload"); err != nil {
		return "", nil, fmt.Errorf("boot: mount input %q (%s, place %d): %w", in.Name, path, in.Place, err)
	}
	return at, func() error {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("boot: unmount %s: %w", at, err)
		}
		return nil
	}, nil
}
