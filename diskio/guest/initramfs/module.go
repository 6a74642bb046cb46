package initramfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultModules are what a guest needs of a Debian cloud kernel to find its
// channel and disks: names as modinfo has them.
func DefaultModules() []string { return []string{"virtio_pci", "virtio_blk", "virtio_console"} }

// moduleOrder gives the files of the modules and of all that they depend on,
// each after its dependencies, relative to dir. What is built into the kernel
// needs no file; a module that is neither there nor built in is an error.
func moduleOrder(dir string, names []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := filepath.Base(path); d.Type().IsRegular() {
			if name, _, ok := strings.Cut(base, ".ko"); ok {
				rel, err := filepath.Rel(dir, path)
				if err != nil {
					return err
				}
				files[moduleName(name)] = rel
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("initramfs: modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("initramfs: modules: %w", err)
	}
	within := map[string]bool{}
	for _, line := range strings.Fields(string(builtin)) {
		name, _, _ := strings.Cut(filepath.Base(line), ".ko")
		within[moduleName(name)] = true
	}
	var order []string
	var add func(name string, path []string) error
	add = func(name string, path []string) error {
		name = moduleName(name)
		file, ok := files[name]
		switch {
		case within[name] || slices.Contains(order, file) && ok:
			return nil
		case !ok:
			return fmt.Errorf("initramfs: module %s is neither in %s nor built into the kernel: %w", name, dir, ErrMissing)
		case slices.Contains(path, name):
			return fmt.Errorf("initramfs: modules depend on each other: %s", strings.Join(append(path, name), " -> "))
		case filepath.Ext(file) != ".ko":
			return fmt.Errorf("initramfs: module %s is compressed (%s); decompress it, or use Debian's kernels, whose modules are not", name, filepath.Base(file))
		}
		needs, err := depends(filepath.Join(dir, file))
		if err != nil {
			return fmt.Errorf("initramfs: module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n, append(slices.Clone(path), name)); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, n := range names {
		if err := add(n, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName makes file names and module names the same: the kernel takes
// dashes for underscores.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// depends reads the names that a module's modinfo section gives: those it
// depends on, and those it would like to come first.
func depends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no .modinfo section", filepath.Base(path))
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range bytes.Split(text, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok {
			for _, n := range strings.Split(list, ",") {
				if n != "" {
					names = append(names, n)
				}
			}
		}
	}
	return names, nil
}

// isStatic reports whether an executable needs no interpreter.
func isStatic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
