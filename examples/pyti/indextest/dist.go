package indextest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Dist is a distribution to be made. Name and Version are required.
type Dist struct {
	Name, Version string
	Requires      []string // Requires-Dist
	Python        string   // Requires-Python
	// Files are what is installed, by path. In a source distribution they lie below
	// its top.
	Files map[string]string
	Tag   string // of a wheel; empty: py3-none-any
	// Metadata replaces what Name to Python say.
	Metadata string
}

func (d Dist) metadata() string {
	if d.Metadata != "" {
		return d.Metadata
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Metadata-Version: 2.1\nName: %s\nVersion: %s\n", d.Name, d.Version)
	if d.Python != "" {
		fmt.Fprintf(&b, "Requires-Python: %s\n", d.Python)
	}
	for _, r := range d.Requires {
		fmt.Fprintf(&b, "Requires-Dist: %s\n", r)
	}
	return b.String() + "\nMade by a test.\n"
}

func (d Dist) stem() string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(d.Name) + "-" + d.Version
}

// Wheel gives a wheel's file name and bytes.
func (d Dist) Wheel() (name string, content []byte) {
	tag := d.Tag
	if tag == "" {
		tag = "py3-none-any"
	}
	info := d.stem() + ".dist-info/"
	files := maps.Clone(d.Files)
	if files == nil {
		files = map[string]string{}
	}
	files[info+"METADATA"] = d.metadata()
	files[info+"WHEEL"] = "Wheel-Version: 1.0\nGenerator: indextest\nRoot-Is-Purelib: true\nTag: " + tag + "\n"
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	record := ""
	write := func(path, text string) {
		w, err := z.Create(path)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			panic(err) // into memory: never
		}
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		write(path, files[path])
		sum := sha256.Sum256([]byte(files[path]))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", path, base64.RawURLEncoding.EncodeToString(sum[:]), len(files[path]))
	}
	write(info+"RECORD", record+info+"RECORD,,\n")
	if err := z.Close(); err != nil {
		panic(err)
	}
	return d.stem() + "-" + tag + ".whl", b.Bytes()
}

// Sdist gives a source distribution's file name and bytes.
func (d Dist) Sdist() (name string, content []byte) {
	top := d.Name + "-" + d.Version
	files := map[string]string{top + "/PKG-INFO": d.metadata()}
	for path, text := range d.Files {
		files[top+"/"+path] = text
	}
	var b bytes.Buffer
	g := gzip.NewWriter(&b)
	t := tar.NewWriter(g)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		err := t.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(files[path])), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write([]byte(files[path]))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := t.Close(); err != nil {
		panic(err)
	}
	if err := g.Close(); err != nil {
		panic(err)
	}
	return top + ".tar.gz", b.Bytes()
}
