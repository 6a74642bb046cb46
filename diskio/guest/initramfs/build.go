package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Config says what goes into a ramdisk.
type Config struct {
	Parts Parts
	// Agent is the static executable that becomes /init; see examples/agent.
	Agent string
	// Modules are loaded in the order that their dependencies want; nil:
	// DefaultModules. Empty but not nil: none.
	Modules []string
	// Files are added, by their path in the guest; values are paths on the
	// host, whose mode is kept.
	Files map[string]string
	// Dir is where ramdisks are kept by content. Required.
	Dir string
}

// Guest is what a machine boots.
type Guest struct {
	Kernel  string
	Initrd  string
	Cmdline string // of the kernel; a driver adds what the agent is told
}

// Cmdline makes a small guest start fast: see the kernel's
// admin-guide/kernel-parameters.rst for each word.
const Cmdline = "console=ttyS0 quiet nokaslr no_timer_check tsc=reliable cryptomgr.notests i8042.noaux ipv6.disable=1 panic=-1"

// applets are the names under which busybox is called in the guest.
const applets = `sh ash cat chmod cmp cp cut date dd df dmesg du echo env expr false find free grep gzip gunzip
	head hostname id kill ln ls mkdir mknod mktemp mount mv nproc od printf ps pwd readlink reboot rm rmdir sed seq sha256sum
	sleep sort stat stty sync tail tar tee test [ top touch tr true umount uname uniq wc which xargs yes poweroff halt`

// Build makes the ramdisk, or finds the one that was made of the same content.
// It is safe for concurrent use, also by several processes: a ramdisk appears
// whole under its name.
func Build(ctx context.Context, c Config) (Guest, error) {
	if c.Dir == "" {
		return Guest{}, fmt.Errorf("initramfs: Config.Dir is empty, want a folder to keep ramdisks in")
	}
	static, err := isStatic(c.Agent)
	switch {
	case err != nil:
		return Guest{}, fmt.Errorf("initramfs: Config.Agent is %q: %w; build it with CGO_ENABLED=0 go build -o agent ./examples/agent", c.Agent, err)
	case !static:
		return Guest{}, fmt.Errorf("initramfs: Config.Agent is %q, which needs an interpreter; build it with CGO_ENABLED=0", c.Agent)
	}
	if c.Modules == nil && c.Parts.Modules != "" {
		c.Modules = DefaultModules()
	}
	entries, err := plan(c)
	if err != nil {
		return Guest{}, err
	}
	name, err := contentName(ctx, entries)
	if err != nil {
		return Guest{}, err
	}
	g := Guest{Kernel: c.Parts.Kernel, Initrd: filepath.Join(c.Dir, name), Cmdline: Cmdline}
	if _, err := os.Stat(g.Initrd); err == nil {
		return g, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	tmp, err := os.CreateTemp(c.Dir, ".new-*")
	if err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	defer os.Remove(tmp.Name()) // fails once it has its name
	if err := writeAll(ctx, tmp, entries); err != nil {
		tmp.Close()
		return Guest{}, err
	}
	if err := tmp.Chmod(0o644); err != nil {
		tmp.Close()
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	if err := tmp.Close(); err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	if err := os.Rename(tmp.Name(), g.Initrd); err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	return g, nil
}

// entry is one file of the ramdisk: a folder, a link, text, or a file of the host.
type entry struct {
	name string // without a leading slash
	mode cpio.FileMode
	link string
	text string
	host string
}

// plan lists the entries, folders before what is in them.
func plan(c Config) ([]entry, error) {
	var list []entry
	made := map[string]bool{".": true}
	var folder func(dir string)
	folder = func(dir string) {
		if made[dir] {
			return
		}
		folder(path.Dir(dir))
		made[dir] = true
		list = append(list, entry{name: dir, mode: cpio.TypeDir | 0o755})
	}
	add := func(e entry) {
		e.name = strings.TrimPrefix(path.Clean("/"+e.name), "/")
		folder(path.Dir(e.name))
		list = append(list, e)
	}
	for _, d := range []string{"dev", "proc", "sys", "tmp", "run", "etc", "root", "work", "in", "bin"} {
		folder(d)
	}
	// The kernel opens it before there is anything mounted, for init's messages.
	add(entry{name: "init", mode: cpio.TypeReg | 0o755, host: c.Agent})
	if len(c.Modules) > 0 {
		files, err := moduleOrder(c.Parts.Modules, c.Modules)
		if err != nil {
			return nil, err
		}
		var order strings.Builder
		for _, f := range files {
			at := path.Join("lib/modules", filepath.ToSlash(f))
			add(entry{name: at, mode: cpio.TypeReg | 0o644, host: filepath.Join(c.Parts.Modules, f)})
			fmt.Fprintf(&order, "/%s\n", at)
		}
		add(entry{name: "etc/bullpen/modules", mode: cpio.TypeReg | 0o644, text: order.String()})
	}
	if c.Parts.Busybox != "" {
		add(entry{name: "bin/busybox", mode: cpio.TypeReg | 0o755, host: c.Parts.Busybox})
		for _, a := range strings.Fields(applets) {
			add(entry{name: "bin/" + a, mode: cpio.TypeSymlink | 0o777, link: "busybox"})
		}
	}
	for _, name := range sorted(c.Files) {
		info, err := os.Stat(c.Files[name])
		if err != nil {
			return nil, fmt.Errorf("initramfs: Config.Files[%q]: %w", name, err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("initramfs: Config.Files[%q] is %q, want a regular file", name, c.Files[name])
		}
		add(entry{name: name, mode: cpio.TypeReg | cpio.FileMode(info.Mode().Perm()), host: c.Files[name]})
	}
	return list, nil
}

// contentName is a file name made of all that goes in.
func contentName(ctx context.Context, entries []entry) (string, error) {
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%q %o %q %q\n", e.name, e.mode, e.link, e.text)
		if e.host == "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return "", context.Cause(ctx)
		}
		if _, err := copyFile(h, e.host); err != nil {
			return "", err
		}
	}
	return "initrd-" + hex.EncodeToString(h.Sum(nil)[:16]) + ".cpio", nil
}

func copyFile(w io.Writer, name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, fmt.Errorf("initramfs: %w", err)
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	if err != nil {
		return n, fmt.Errorf("initramfs: %s: %w", name, err)
	}
	return n, nil
}
