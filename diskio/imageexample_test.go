package diskio_test

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/diskio"
)

func ExamplePack() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// diskio.Folder("build") would be a whole folder of the host.
	src := diskio.Tree{Files: []diskio.File{
		{Path: "bin/tool", Mode: 0o755, Data: []byte("#!/bin/sh\necho hello\n")},
		{Path: "etc/tool.conf", Data: []byte("greeting = hello\n")},
	}}
	image, err := diskio.Pack(context.Background(), filepath.Join(dir, "input.img"), src, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	fmt.Println(image.Size(), "bytes")
	fmt.Println(image.Digest()) // the same on each machine and at any time
	// Output:
	// 40960 bytes
	// sha256:b0d685f0c57d0ba6878e11133d45165ee12ffc5e8989c658658b4185de911b80
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	src := diskio.Tree{Files: []diskio.File{{Path: "results/report.txt", Data: []byte("3 passed\n")}}}
	image, err := diskio.Pack(context.Background(), filepath.Join(dir, "disk.img"), src, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()

	// The image may be one that a guest wrote to: it is read without a mount.
	fsys, err := diskio.Open(image, image.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	report, err := fs.ReadFile(fsys, "results/report.txt")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(report))
	// Output: 3 passed
}

func ExampleExtract() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, "theirs"), 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "theirs/log"), []byte("ok\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "theirs/shortcut")); err != nil {
		log.Fatal(err)
	}

	report, err := diskio.Extract(context.Background(), os.DirFS(filepath.Join(dir, "theirs")), filepath.Join(dir, "mine"),
		diskio.Limits{Bytes: 1 << 20, Files: 100, Symlinks: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Files, "file,", report.Bytes, "bytes")
	for _, refused := range report.Refused {
		fmt.Println("left out:", refused)
	}
	// Output:
	// 1 file, 3 bytes
	// left out: shortcut: symbolic link to /etc/passwd, which is not a relative path
}

func ExampleCache_Pack() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cache, err := diskio.NewCache(filepath.Join(dir, "cache"), nil)
	if err != nil {
		log.Fatal(err)
	}
	src := diskio.Tree{Files: []diskio.File{{Path: "data", Data: []byte("shared by all")}}}
	first, err := cache.Pack(context.Background(), src, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	second, err := cache.Pack(context.Background(), src, nil) // is not packed again
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	fmt.Println(first.Path() == second.Path())
	// Output: true
}
