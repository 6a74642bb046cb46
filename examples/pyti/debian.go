package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/flock"
)

// debianPackages are those that Python and its library are in; what they need is
// found by apt, without what only an installed system has.
var (
	debianPackages = [...]string{"python3-minimal", "libpython3-stdlib"}
	debianWanted   = regexp.MustCompile(`^(lib|python3|zlib1g$)`)
	debianUnwanted = regexp.MustCompile(`^(libperl|libgcc|libdb|libgdbm|libselinux|libacl|libpcre|libmd0)`)
)

// debianPython gives an image of a root tree with Debian's Python, which the
// caller closes, and the Python's version, such as "3.11". The tree is made once, below the user's cache folder, of packages
// that are downloaded and unpacked, never installed: it takes no root. To have newer
// packages, remove it.
func debianPython(ctx context.Context, images *diskio.Cache) (_ *diskio.Image, version string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, "", fmt.Errorf("python = debian: %w", err)
	}
	home := filepath.Join(cache, "bullpen-pyti")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, "", fmt.Errorf("python = debian: %w", err)
	}
	lock, err := flock.Wait(ctx, filepath.Join(home, "lock"), os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
	if err != nil {
		return nil, "", fmt.Errorf("python = debian: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	tree := filepath.Join(home, "debian-python")
	if _, err := os.Stat(tree); err != nil {
		if err := unpackDebian(ctx, home, tree); err != nil {
			return nil, "", fmt.Errorf("python = debian: %w; a platform whose machines have Python says python = guest", err)
		}
	}
	pythons, _ := filepath.Glob(filepath.Join(tree, "usr/bin/python3.[0-9]*")) // the pattern is good
	if len(pythons) == 0 {
		return nil, "", fmt.Errorf("python = debian: no python3 in %s: remove it to have it made anew", tree)
	}
	image, err := images.Pack(ctx, diskio.Folder(tree), &diskio.PackOptions{Label: "debian-python"})
	return image, strings.TrimPrefix(filepath.Base(pythons[0]), "python"), err
}

// unpackDebian makes the tree; it appears whole or not at all.
func unpackDebian(ctx context.Context, home, tree string) (err error) {
	work, err := os.MkdirTemp(home, ".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	packages, err := debianClosure(ctx)
	if err != nil {
		return err
	}
	debs, root := filepath.Join(work, "debs"), filepath.Join(work, "root")
	if err := errors.Join(os.Mkdir(debs, 0o755), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	// As root, apt wants to drop its rights for a download and cannot in a folder of
	// root's: it then downloads as root, which is what is wanted.
	download := append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)
	if _, err := tool(ctx, debs, "apt-get", download...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) < len(packages) {
		return fmt.Errorf("apt-get brought %d of %d packages", len(files), len(packages))
	}
	for _, deb := range files {
		if _, err := tool(ctx, work, "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	for _, needless := range []string{"usr/share", "etc", "var"} {
		if err := os.RemoveAll(filepath.Join(root, needless)); err != nil {
			return err
		}
	}
	if err := compile(ctx, root); err != nil {
		return err
	}
	return os.Rename(root, tree)
}

// debianClosure lists what is to be downloaded.
func debianClosure(ctx context.Context) ([]string, error) {
	args := append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, debianPackages[:]...)
	text, err := tool(ctx, "", "apt-cache", args...)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if line[0] != ' ' && debianWanted.MatchString(name) && !debianUnwanted.MatchString(name) && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if len(all) < len(debianPackages) {
		return nil, fmt.Errorf("apt-cache knows only %q: apt-get update?", all)
	}
	return all, nil
}

// compile makes Python's library into byte code, with the unpacked Python itself:
// a guest has a read-only disk and would do it anew at each start. The code is not
// bound to the files' times, which a packed disk does not keep.
func compile(ctx context.Context, root string) error {
	loaders, _ := filepath.Glob(filepath.Join(root, "lib/*-linux-gnu*/ld-linux*.so.*")) // the pattern is good
	pythons, _ := filepath.Glob(filepath.Join(root, "usr/bin/python3.[0-9]*"))
	if len(loaders) == 0 || len(pythons) == 0 {
		return fmt.Errorf("no loader or no python3 in the packages")
	}
	library := filepath.Join(root, "usr/lib", filepath.Base(pythons[0]))
	arch := filepath.Base(filepath.Dir(loaders[0]))
	paths := filepath.Join(root, "lib", arch) + ":" + filepath.Join(root, "usr/lib", arch)
	_, err := tool(ctx, root, "env", "-i", "PYTHONHOME="+filepath.Join(root, "usr"), loaders[0], "--library-path", paths,
		pythons[0], "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/", library)
	return err
}

// tool runs a program and gives its output.
func tool(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		text := strings.TrimSpace(stderr.String())
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, text[max(0, len(text)-500):])
	}
	return out, nil
}
