package pypi

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// MostUnpacked bounds what is in an archive, unpacked, in bytes; MostEntries the
// number of its files.
const (
	MostUnpacked = 4 << 30
	MostEntries  = 200_000
)

// ReadMetadata reads what the file of a distribution says of itself.
func ReadMetadata(kind Kind, file string) (Metadata, error) {
	if kind == Wheel {
		return wheelMetadata(file)
	}
	return sourceMetadata(file)
}

func wheelMetadata(file string) (Metadata, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return Metadata{}, err
	}
	defer z.Close()
	if err := boundZip(&z.Reader); err != nil {
		return Metadata{}, err
	}
	var found *zip.File
	for _, f := range z.File {
		dir, name := path.Split(f.Name)
		if name == "METADATA" && strings.Count(dir, "/") == 1 && strings.HasSuffix(dir, ".dist-info/") {
			if found != nil {
				return Metadata{}, fmt.Errorf("%s and %s are both there", found.Name, f.Name)
			}
			found = f
		}
	}
	if found == nil {
		return Metadata{}, errors.New("no *.dist-info/METADATA in the wheel")
	}
	r, err := found.Open()
	if err != nil {
		return Metadata{}, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, MostMetadata+1))
	if err != nil {
		return Metadata{}, err
	}
	return ParseMetadata(text)
}

// boundZip refuses what unpacks to too much: archive/zip reads no more of a file
// than its entry says.
func boundZip(z *zip.Reader) error {
	var sum uint64
	for _, f := range z.File {
		sum += min(f.UncompressedSize64, MostUnpacked+1)
		if sum > MostUnpacked {
			return fmt.Errorf("it unpacks to more than %d bytes", MostUnpacked)
		}
	}
	if len(z.File) > MostEntries {
		return fmt.Errorf("it has more than %d files", MostEntries)
	}
	return nil
}

// OpenWheel opens a wheel as a file system; the caller closes it.
func OpenWheel(file string) (*zip.ReadCloser, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return nil, err
	}
	if err := boundZip(&z.Reader); err != nil {
		z.Close()
		return nil, err
	}
	return z, nil
}

// InstalledAt is where a file of a wheel comes to lie: below the top what is to be
// importable, below bin its scripts, below data the rest (PEP 427, "spread").
// Empty: nowhere.
func InstalledAt(name string) string {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || !strings.HasSuffix(first, ".data") {
		return path.Join("site", name)
	}
	kind, rest, ok := strings.Cut(rest, "/")
	switch {
	case !ok:
		return ""
	case kind == "purelib" || kind == "platlib":
		return path.Join("site", rest)
	case kind == "scripts":
		return path.Join("bin", rest)
	}
	return path.Join("data", kind, rest)
}

// sourceMetadata reads PKG-INFO at the top of a source distribution, and the
// requirements that older tools kept in *.egg-info/requires.txt.
func sourceMetadata(file string) (Metadata, error) {
	var info, egg []byte
	err := EachSourceFile(file, func(name string, _ *tar.Header, r io.Reader) (err error) {
		top, rest, _ := strings.Cut(name, "/")
		switch {
		case top != "" && rest == "PKG-INFO":
			info, err = io.ReadAll(io.LimitReader(r, MostMetadata+1))
		case path.Base(name) == "requires.txt" && strings.HasSuffix(path.Dir(name), ".egg-info"):
			egg, err = io.ReadAll(io.LimitReader(r, MostMetadata+1))
		}
		return err
	})
	if err != nil {
		return Metadata{}, err
	}
	if info == nil {
		return Metadata{}, errors.New("no PKG-INFO at the top of the source distribution")
	}
	m, err := ParseMetadata(info)
	if err == nil && len(m.Requires) == 0 && len(egg) <= MostMetadata {
		m.Requires, err = parseEggRequires(string(egg))
	}
	return m, err
}

// EachSourceFile calls do for each regular file of a .tar.gz, with its clean path.
// Links and what would lie outside are left out.
func EachSourceFile(file string, do func(name string, h *tar.Header, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	bounded := &io.LimitedReader{R: unzipped, N: MostUnpacked + 1}
	t := tar.NewReader(bounded)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case bounded.N <= 0:
			return fmt.Errorf("it unpacks to more than %d bytes", MostUnpacked)
		case n > MostEntries:
			return fmt.Errorf("it has more than %d files", MostEntries)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			continue
		}
		if err := do(name, h, t); err != nil {
			return err
		}
	}
}
