package initramfs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/cavaliergopher/cpio"
)

// writeAll writes the ramdisk. It is not compressed: a kernel unpacks plain cpio
// fastest, and a test guest is small.
func writeAll(ctx context.Context, to io.Writer, entries []entry) error {
	w := cpio.NewWriter(to)
	for i, e := range entries {
		if ctx.Err() != nil {
			return fmt.Errorf("initramfs: %w", context.Cause(ctx))
		}
		h := &cpio.Header{Name: e.name, Mode: e.mode, Inode: int64(i + 1), Links: 1, Linkname: e.link, Size: int64(len(e.text))}
		if e.link != "" {
			h.Size = int64(len(e.link))
		}
		if e.host != "" {
			info, err := os.Stat(e.host)
			if err != nil {
				return fmt.Errorf("initramfs: %w", err)
			}
			h.Size = info.Size()
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("initramfs: %s: %w", e.name, err)
		}
		if _, err := io.WriteString(w, e.text+e.link); err != nil {
			return fmt.Errorf("initramfs: %s: %w", e.name, err)
		}
		if e.host != "" {
			if n, err := copyFile(w, e.host); err != nil || n != h.Size {
				return fmt.Errorf("initramfs: %s changed while it was packed: %d bytes, want %d: %w", e.host, n, h.Size, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
