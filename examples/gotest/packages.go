package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// pack is a Go package to test.
type pack struct {
	name string // import path
	dir  string // of its source
	root string // of its module
	// broken is what cannot be done with it, such as "build", and output what the
	// go command or the binary said to that; empty: it was built.
	broken, output string
	binary         string // the test binary; empty: it has no tests
	tests          []string
}

// place is where the package's folder is in the tree on its input disk: below a
// folder of the module root's name, for tests of the standard library look for
// one called src.
func (p *pack) place() (string, error) {
	rel, err := filepath.Rel(p.root, p.dir)
	if err != nil {
		return "", err
	}
	return path.Join(filepath.Base(p.root), filepath.ToSlash(rel)), nil
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir           string
	Standard                  bool
	Module                    *struct{ Dir string }
	TestGoFiles, XTestGoFiles []string
	Error                     *struct{ Err string }
}

// list asks the go tool which packages the patterns mean.
func list(ctx context.Context, dir string, patterns []string) ([]*pack, error) {
	args := append([]string{"list", "-e", "-json=ImportPath,Dir,Standard,Module,TestGoFiles,XTestGoFiles,Error", "--"}, patterns...)
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = dir
	out, err := output(c)
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var found []*pack
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p := &pack{name: l.ImportPath, dir: l.Dir, root: l.Dir}
		switch {
		case l.Error != nil:
			p.broken, p.output = "list", l.Error.Err+"\n"
		case l.Module != nil && l.Module.Dir != "":
			p.root = l.Module.Dir
		case l.Standard:
			p.root = strings.TrimSuffix(l.Dir, string(filepath.Separator)+filepath.FromSlash(l.ImportPath))
		}
		found = append(found, p)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no packages", strings.Join(patterns, " "))
	}
	return found, nil
}

// output runs a command; its error says what the command wrote to its standard
// error.
func output(c *exec.Cmd) ([]byte, error) {
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// isDir reports whether a folder is there.
func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
