//go:build linux

package boot

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// mountAll mounts the kernel's own file systems. What is mounted already stays.
func mountAll() error {
	for _, m := range []struct {
		kind, at string
		flags    uintptr
	}{
		{"proc", "/proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"sysfs", "/sys", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"devtmpfs", "/dev", syscall.MS_NOSUID},
		{"tmpfs", "/tmp", syscall.MS_NOSUID | syscall.MS_NODEV},
		{"tmpfs", "/run", syscall.MS_NOSUID | syscall.MS_NODEV},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
		err := syscall.Mount(m.kind, m.at, m.kind, m.flags, "")
		if err != nil && !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("boot: mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	return nil
}

// loadModules loads the modules that the file lists, in order. One that is
// there already is no error.
func loadModules(list string) error {
	f, err := os.Open(list)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		path := strings.TrimSpace(lines.Text())
		if path == "" || strings.HasPrefix(path, "#") {
			continue
		}
		if err := loadModule(path); err != nil {
			return fmt.Errorf("boot: module %s: %w", path, err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	none := []byte{0}
	_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}

// parameters reads the bullpen.* parameters of a kernel command line.
func parameters(cmdline string) map[string]string {
	got := map[string]string{}
	for _, word := range strings.Fields(cmdline) {
		if rest, ok := strings.CutPrefix(word, "bullpen."); ok {
			key, value, _ := strings.Cut(rest, "=")
			got[key] = value
		}
	}
	return got
}
