package vmtest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"testing/fstest"
)

// sameTar compares the files of a tar stream with a tree: names, content, and
// whether they may be executed.
func sameTar(r io.Reader, want fstest.MapFS) error {
	seen := map[string]bool{}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		name := path.Clean(h.Name)
		f := want[name]
		if f == nil || seen[name] {
			return fmt.Errorf("it has %q, which is not of it or twice there", h.Name)
		}
		seen[name] = true
		got, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, f.Data) {
			return fmt.Errorf("%s has %d other bytes than the %d that were sent", name, len(got), len(f.Data))
		}
		if (h.Mode&0o100 != 0) != (f.Mode&0o100 != 0) {
			return fmt.Errorf("%s has the mode %o, want %o", name, h.Mode, f.Mode)
		}
	}
	if len(seen) != len(want) {
		return fmt.Errorf("it has %d files, want %d", len(seen), len(want))
	}
	return nil
}
