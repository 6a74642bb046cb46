package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/bullpen-vm/bullpen/diskio"
)

// On an input disk there are the binary and, below treeFolder, the module as far
// as the tests need it.
const treeFolder = "tree"

// image packs the package's input disk, or finds the one that was packed of the
// same content before. The caller closes it.
func (p *pack) image(ctx context.Context, cache *diskio.Cache, o options) (*diskio.Image, error) {
	tree, err := p.tree(o.module)
	if err != nil {
		return nil, err
	}
	return cache.Pack(ctx, tree, &diskio.PackOptions{Label: "gotest"})
}

// tree is what goes onto the disk.
func (p *pack) tree(module bool) (diskio.Tree, error) {
	place, err := p.place()
	if err != nil {
		return diskio.Tree{}, err
	}
	top := path.Join(treeFolder, filepath.Base(p.root))
	t := diskio.Tree{Files: []diskio.File{{Path: p.program(), Mode: 0o755, Source: p.binary}}}
	if module {
		t.Roots = []diskio.Root{{Dir: p.root, At: top, Skip: []string{".git"}}}
		return t, nil
	}
	if err := addFolder(&t, p.dir, path.Join(treeFolder, place), false); err != nil {
		return t, err
	}
	// Packages share the testdata of folders above them.
	for dir, at := p.dir, path.Join(treeFolder, place); dir != p.root; {
		dir, at = filepath.Dir(dir), path.Dir(at)
		if data := filepath.Join(dir, "testdata"); isDir(data) {
			t.Roots = append(t.Roots, diskio.Root{Dir: data, At: path.Join(at, "testdata")})
		}
	}
	if p.dir != p.root {
		for _, name := range []string{"go.mod", "go.sum"} {
			if file := filepath.Join(p.root, name); isFile(file) {
				t.Files = append(t.Files, diskio.File{Path: path.Join(top, name), Source: file})
			}
		}
	}
	return t, nil
}

// addFolder adds a folder's files and those folders in it that are no packages.
func addFolder(t *diskio.Tree, dir, at string, below bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if below && isPackage(entries) {
		return nil
	}
	for _, e := range entries {
		from, to := filepath.Join(dir, e.Name()), path.Join(at, e.Name())
		info, err := os.Stat(from) // links are followed: what they point at may not be packed
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // a link to nothing
		case err != nil:
			return err
		case info.Mode().IsRegular():
			t.Files = append(t.Files, diskio.File{Path: to, Mode: info.Mode().Perm(), Source: from})
		case !info.IsDir() || e.Type()&fs.ModeSymlink != 0 || e.Name() == ".git":
			continue
		case e.Name() == "testdata":
			t.Roots = append(t.Roots, diskio.Root{Dir: from, At: to})
		default:
			if err := addFolder(t, from, to, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// isPackage reports whether a folder has Go files or is a module of its own.
func isPackage(entries []fs.DirEntry) bool {
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".go") || e.Name() == "go.mod" {
			return true
		}
	}
	return false
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
