package machines

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
)

// TestGuest makes a small guest of a kernel and the agent, kept in dir.
// BULLPEN_KERNEL names a kernel that was unpacked elsewhere than in /boot, as
// <root>/boot/vmlinuz-*.
func TestGuest(ctx context.Context, dir string) (initramfs.Guest, error) {
	root := ""
	if kernel := os.Getenv("BULLPEN_KERNEL"); kernel != "" {
		root = filepath.Dir(filepath.Dir(kernel))
	}
	parts, err := initramfs.Find(root)
	if err != nil {
		return initramfs.Guest{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return initramfs.Guest{}, err
	}
	agent := filepath.Join(dir, "agent")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s", "-o", agent, "github.com/bullpen-vm/bullpen/examples/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return initramfs.Guest{}, fmt.Errorf("build the agent (in a checkout of Bullpen; -C names another place for packages): %w: %s", err, text)
	}
	return initramfs.Build(ctx, initramfs.Config{Parts: parts, Agent: agent, Dir: dir})
}
