package main

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/examples/pyti/pypi"
)

// The names of the input disks in a guest, below $BULLPEN_IN.
const (
	projectInput = "project"
	pythonInput  = "python"
)

// payload is a distribution with its dependencies on an IO disk:
//
//	dists/  the files as they came from the index
//	site/   what is in the wheels, to be imported
//	bin/    their scripts
//	data/   the rest of them
//	src/    source distributions, one folder each, unpacked and not built
type payload struct {
	dists []pypi.Dist
	paths []string // of PYTHONPATH, below the input
	image *diskio.Image
}

func (p *payload) close() { p.image.Close() }

// prepare downloads a request's distributions for a Python and packs them.
func (b *bench) prepare(ctx context.Context, req request, python string) (_ *payload, err error) {
	want := pypi.Requirement{Name: pypi.Normalize(req.Project)}
	if req.Version != "" {
		v, err := pep440.Parse(req.Version)
		if err != nil {
			return nil, err
		}
		want.Specs = pypi.Exactly(v)
	}
	p := &payload{paths: []string{"site"}}
	if p.dists, err = pypi.Resolve(ctx, b.index, want, python, pypi.Linux(python)); err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "pyti-unpack-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	var tree diskio.Tree
	for _, d := range p.dists {
		tree.Files = append(tree.Files, diskio.File{Path: path.Join("dists", d.Filename), Source: d.Path})
		if d.Kind == pypi.Wheel {
			wheel, err := pypi.OpenWheel(d.Path)
			if err != nil {
				return nil, fmt.Errorf("file %s: %w", d.Filename, err)
			}
			defer wheel.Close() // packed by then
			tree.Roots = append(tree.Roots, diskio.Root{FS: wheel, Rename: pypi.InstalledAt})
			if files := scripts(wheel); len(files) > 0 {
				tree.Files = append(tree.Files, files...)
			}
			continue
		}
		roots, err := unpackSource(d, scratch)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", d.Filename, err)
		}
		p.paths = append(p.paths, roots...)
	}
	tree.Roots = append(tree.Roots, diskio.Root{Dir: scratch, At: "src"})
	if p.image, err = b.images.Pack(ctx, tree, &diskio.PackOptions{Label: "pyti"}); err != nil {
		return nil, fmt.Errorf("IO disk of %s: %w", req.Project, err)
	}
	return p, nil
}

// unpackSource unpacks a source distribution and says what of it goes into
// PYTHONPATH: its folder src where there is one, else its top.
func unpackSource(d pypi.Dist, scratch string) ([]string, error) {
	root, err := os.OpenRoot(scratch)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	tops := map[string]string{}
	err = pypi.EachSourceFile(d.Path, func(name string, h *tar.Header, r io.Reader) error {
		top, rest, ok := strings.Cut(name, "/")
		if !ok || strings.HasPrefix(top, ".") {
			return nil
		}
		if tops[top] == "" {
			tops[top] = path.Join("src", top)
		}
		if strings.HasPrefix(rest, "src/") {
			tops[top] = path.Join("src", top, "src")
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm()|0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	})
	return slices.Sorted(maps.Values(tops)), err
}

// scripts makes the programs of a wheel's console_scripts.
func scripts(wheel *zip.ReadCloser) (files []diskio.File) {
	for _, f := range wheel.File {
		if path.Base(f.Name) != "entry_points.txt" || !strings.HasSuffix(path.Dir(f.Name), ".dist-info") || strings.Count(f.Name, "/") != 1 {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil // packing the wheel tells it
		}
		text, _ := io.ReadAll(io.LimitReader(r, 1<<20))
		r.Close()
		for name, target := range pypi.ConsoleScripts(string(text)) {
			module, function, _ := strings.Cut(target, ":")
			// A shell finds python3 where the guest has it: not all have /usr/bin/env.
			body := fmt.Sprintf("#!/bin/sh\n'''exec' python3 \"$0\" \"$@\"\n' '''\nimport sys\nfrom %s import %s\nsys.exit(%s())\n", module, strings.SplitN(function, ".", 2)[0], function)
			files = append(files, diskio.File{Path: path.Join("bin", name), Mode: 0o755, Data: []byte(body)})
		}
	}
	return files
}

// useDebian makes an unpacked root tree of Debian the guest's own, where that has
// none: its loader, libraries and Python are then where they were built for. What
// is written to the guest is rolled back with it.
const useDebian = `if [ -d "$BULLPEN_IN/` + pythonInput + `/usr" ] && ! command -v python3 >/dev/null; then
	for d in lib lib64 usr/lib usr/lib64 usr/share; do
		[ -d "$BULLPEN_IN/` + pythonInput + `/$d" ] || continue
		mkdir -p "/$d"
		for f in "$BULLPEN_IN/` + pythonInput + `/$d"/*; do
			[ -e "/$d/${f##*/}" ] || ln -s "$f" "/$d/${f##*/}"
		done
	done
	mkdir -p /usr/bin
	for f in "$BULLPEN_IN/` + pythonInput + `"/usr/bin/python3*; do
		ln -sf "$f" "/usr/bin/${f##*/}"
	done
fi
`

// job is a recipe on a platform.
func (p *payload) job(on platform, recipe []diskio.Step, python *diskio.Image) diskio.Job {
	in := "$BULLPEN_IN/" + projectInput
	var paths []string
	for _, at := range p.paths {
		paths = append(paths, in+"/"+at)
	}
	j := diskio.Job{
		Steps:  slices.Clone(recipe),
		Inputs: []diskio.Input{{Name: projectInput, Image: p.image}},
		Env: map[string]string{
			"PYTI_PROJECT": p.dists[0].Name, "PYTI_VERSION": p.dists[0].Version.String(), "PYTI_PLATFORM": on.Name, "PYTI_VARIANT": on.Variant,
			"PYTHONDONTWRITEBYTECODE": "1",
		},
		Before: fmt.Sprintf("export PYTI_DISTS=\"%s/dists\" PYTHONPATH=\"%s\" PATH=\"%s/bin:$PATH\"\n", in, strings.Join(paths, ":"), in),
	}
	if on.Python == "debian" {
		j.Inputs = append(j.Inputs, diskio.Input{Name: pythonInput, Image: python})
		j.Before = useDebian + j.Before
	}
	return j
}
