package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Parts are the files that a guest is made of.
type Parts struct {
	Kernel  string // the bzImage
	Version string // the kernel's release, such as 6.1.0-30-cloud-amd64
	Modules string // lib/modules/<version>; empty: the kernel needs none
	Busybox string // static; empty: the guest has no shell
}

// ErrMissing: something a guest is made of is not there. The text says which
// command provides it.
var ErrMissing = errors.New("missing")

// Find looks for the newest kernel below root that has its modules beside it,
// and for a static busybox. An empty root means "/".
func Find(root string) (Parts, error) {
	if root == "" {
		root = "/"
	}
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil {
		return Parts{}, fmt.Errorf("initramfs: %w", err)
	}
	slices.SortFunc(kernels, func(a, b string) int { return compareVersions(b, a) })
	var p Parts
	for _, k := range kernels {
		version := strings.TrimPrefix(filepath.Base(k), "vmlinuz-")
		dir := filepath.Join(root, "lib/modules", version)
		if f, err := os.Open(k); err == nil { // Ubuntu's are readable by root only
			if info, err := os.Stat(filepath.Join(dir, "kernel")); err == nil && info.IsDir() {
				p.Kernel, p.Version, p.Modules = k, version, dir
			}
			if err := f.Close(); err != nil {
				return Parts{}, fmt.Errorf("initramfs: %w", err)
			}
		}
		if p.Kernel != "" {
			break
		}
	}
	if p.Kernel == "" {
		return Parts{}, fmt.Errorf("initramfs: %w: a readable boot/vmlinuz-<version> with lib/modules/<version> below %s; run in an empty folder: "+
			"apt-get download $(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ {print $2; exit}') && dpkg-deb -x linux-image-*.deb root, and name that root", ErrMissing, root)
	}
	for _, name := range []string{"bin/busybox", "usr/bin/busybox"} {
		path := filepath.Join(root, name)
		static, err := isStatic(path)
		if err == nil && static {
			p.Busybox = path
			return p, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Parts{}, fmt.Errorf("initramfs: %s: %w", path, err)
		}
	}
	return p, fmt.Errorf("initramfs: %w: a static bin/busybox below %s; run: apt-get download busybox-static && dpkg-deb -x busybox-static_*.deb root, and name that root", ErrMissing, root)
}

// compareVersions compares names number by number: 6.10 comes after 6.9.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, restA := chunk(a)
		y, restB := chunk(b)
		if d := compareChunks(x, y); d != 0 {
			return d
		}
		a, b = restA, restB
	}
	return len(a) - len(b)
}

// chunk cuts the leading run of digits, or of anything else, off.
func chunk(s string) (head, rest string) {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	i := 1
	for i < len(s) && digit(s[i]) == digit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func compareChunks(a, b string) int {
	if a[0] >= '0' && a[0] <= '9' && b[0] >= '0' && b[0] <= '9' {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if d := len(a) - len(b); d != 0 {
			return d
		}
	}
	return strings.Compare(a, b)
}
