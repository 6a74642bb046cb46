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
	g := gathering{
		root: p.root, at: path.Join(treeFolder, filepath.Base(p.root)), files: map[string]bool{},
		tree: diskio.Tree{Files: []diskio.File{{Path: p.program(), Mode: 0o755, Source: p.binary}}},
	}
	if module {
		g.tree.Roots = []diskio.Root{{Dir: p.root, At: g.at, Skip: []string{".git"}}}
		return g.tree, nil
	}
	if err := g.folder(p.dir, false); err != nil {
		return g.tree, err
	}
	// Packages share the testdata of folders above them.
	for dir := p.dir; dir != p.root; {
		dir = filepath.Dir(dir)
		if data := filepath.Join(dir, "testdata"); isDir(data) {
			g.all(data)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := g.named(filepath.Join(p.root, name)); err != nil {
			return g.tree, err
		}
	}
	paths, err := relativePaths(p.dir)
	if err != nil {
		return g.tree, err
	}
	for _, name := range paths {
		if err := g.named(name); err != nil {
			return g.tree, err
		}
	}
	return g.tree, nil
}

// gathering collects files of a module, each once, at their places in it.
type gathering struct {
	root, at string // the module's, on the host and in the tree
	tree     diskio.Tree
	files    map[string]bool // by path on the host
}

// place gives a path's place in the tree; false: it is outside of the module, or
// there already.
func (g *gathering) place(name string) (string, bool) {
	rel, err := filepath.Rel(g.root, name)
	if err != nil || !filepath.IsLocal(rel) || g.files[name] {
		return "", false
	}
	for _, r := range g.tree.Roots {
		if name == r.Dir || strings.HasPrefix(name, r.Dir+string(filepath.Separator)) {
			return "", false
		}
	}
	return path.Join(g.at, filepath.ToSlash(rel)), true
}

// named adds what a path names, if it is there: a file or a folder.
func (g *gathering) named(name string) error {
	rel, err := filepath.Rel(g.root, name)
	if inside := err == nil && filepath.IsLocal(rel); !inside {
		return nil
	}
	info, err := os.Stat(name)
	switch there := err == nil; {
	case !there: // a string that looks like a path need not be one
	case info.Mode().IsRegular():
		g.file(name, info)
	case info.IsDir():
		return g.folder(name, false)
	}
	return nil
}

func (g *gathering) file(name string, info fs.FileInfo) {
	if at, ok := g.place(name); ok {
		g.files[name] = true
		g.tree.Files = append(g.tree.Files, diskio.File{Path: at, Mode: info.Mode().Perm(), Source: name})
	}
}

// all adds a folder with all that is in it.
func (g *gathering) all(dir string) {
	if at, ok := g.place(dir); ok {
		g.tree.Roots = append(g.tree.Roots, diskio.Root{Dir: dir, At: at})
	}
}

// folder adds a folder's files and those folders in it that are no packages.
func (g *gathering) folder(dir string, below bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if below && isPackage(entries) {
		return nil
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name) // links are followed: what they point at may not be packed
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // a link to nothing
		case err != nil:
			return err
		case info.Mode().IsRegular():
			g.file(name, info)
		case !info.IsDir() || e.Type()&fs.ModeSymlink != 0 || e.Name() == ".git":
			continue
		case e.Name() == "testdata":
			g.all(name)
		default:
			if err := g.folder(name, true); err != nil {
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
