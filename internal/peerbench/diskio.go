package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
)

func diskioBars() []bar {
	return []bar{
		{pkg: "diskio", name: "pack the Go source tree, to tar cf", most: 1.65, stretch: 1.3, measure: packBar(goSource)},
		{pkg: "diskio", name: "pack 10k files of 4 KiB, to tar cf", most: 1.65, stretch: 1.4, measure: packBar(smallFiles)},
		{pkg: "diskio", name: "read the Go source tree back, to archive/tar", most: 1, stretch: 0.95, measure: readBar(goSource)},
		{pkg: "diskio", name: "read 10k files back, to archive/tar", most: 1, stretch: 0.88, measure: readBar(smallFiles)},
	}
}

// goSource gives the source tree of the go command that is in PATH.
func goSource(ctx context.Context, _ string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	return filepath.Join(strings.TrimSpace(string(out)), "src"), err
}

// smallFiles makes 10,000 files of 4 KiB in 200 folders below dir.
func smallFiles(_ context.Context, dir string) (string, error) {
	root := filepath.Join(dir, "small")
	content := make([]byte, 4096)
	for i := range 10_000 {
		folder := filepath.Join(root, fmt.Sprintf("folder%03d", i%200))
		if i < 200 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return "", err
			}
		}
		for j := range content {
			content[j] = byte(i >> (j % 16) * 7)
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file%05d", i)), content, 0o644); err != nil {
			return "", err
		}
	}
	return root, nil
}

type maker func(ctx context.Context, dir string) (string, error)

// prepared makes a folder to work in and the tree, and reads the tree once so
// that both sides find it in the cache.
func prepared(ctx context.Context, tree maker) (dir, root string, err error) {
	dir, err = os.MkdirTemp("", "peerbench")
	if err != nil {
		return "", "", err
	}
	root, err = tree(ctx, dir)
	if err == nil {
		err = makeTar(ctx, root, filepath.Join(dir, "warm.tar"))
	}
	if err != nil {
		return "", "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, root, nil
}

// makeTar writes a file, not /dev/null: tar does not read the files for that.
func makeTar(ctx context.Context, root, to string) error {
	out, err := exec.CommandContext(ctx, "tar", "-C", root, "-cf", to, ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}

func packBar(tree maker) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		dir, root, err := prepared(ctx, tree)
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, os.RemoveAll(dir)) }()
		rounds := 6
		if full {
			rounds = 21
		}
		image, archive := filepath.Join(dir, "image"), filepath.Join(dir, "tar")
		return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
			took, err := timed(func() error {
				i, err := diskio.Pack(ctx, image, diskio.Folder(root), nil)
				if err != nil {
					return err
				}
				return i.Close()
			})
			return took, errors.Join(err, os.Remove(image))
		}, func(ctx context.Context) (time.Duration, error) {
			took, err := timed(func() error { return makeTar(ctx, root, archive) })
			return took, errors.Join(err, os.Remove(archive))
		})
	}
}

func readBar(tree maker) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		dir, root, err := prepared(ctx, tree)
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, os.RemoveAll(dir)) }()
		packed, err := diskio.Pack(ctx, filepath.Join(dir, "image"), diskio.Folder(root), nil)
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, packed.Close()) }()
		rounds := 6
		if full {
			rounds = 21
		}
		var ours, theirs int64
		value, note, err = pairs(ctx, rounds, func(context.Context) (time.Duration, error) {
			return timed(func() (err error) { ours, err = readImage(packed); return err })
		}, func(context.Context) (time.Duration, error) {
			return timed(func() (err error) { theirs, err = readTar(filepath.Join(dir, "warm.tar")); return err })
		})
		if err == nil && ours != theirs {
			err = fmt.Errorf("read %d bytes of files, archive/tar %d", ours, theirs)
		}
		return value, note, err
	}
}

func readImage(i *diskio.Image) (int64, error) {
	fsys, err := diskio.Open(i, i.Size(), nil)
	if err != nil {
		return 0, err
	}
	var total int64
	buffer := make([]byte, 256<<10)
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		n, err := io.CopyBuffer(onlyWriter{io.Discard}, f, buffer)
		total += n
		return errors.Join(err, f.Close())
	})
	return total, err
}

func readTar(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	buffer := make([]byte, 256<<10)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		n, err := io.CopyBuffer(onlyWriter{io.Discard}, r, buffer)
		total += n
		if err != nil {
			return total, err
		}
	}
}

// onlyWriter hides ReadFrom, which would take the buffer's place.
type onlyWriter struct{ io.Writer }
