package diskio

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gunzip reads a file of testdata; make-kernel-images.sh made them.
func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	require.NoError(t, err)
	defer f.Close()
	r, err := gzip.NewReader(f)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

// kernelListing is what the script that made the images prints.
func kernelListing(fsys fs.FS) ([]string, error) {
	var lines []string
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case e.IsDir():
			lines = append(lines, "folder "+name)
		case e.Type() == fs.ModeSymlink:
			target, err := fs.ReadLink(fsys, name)
			lines = append(lines, "link "+name+" "+target)
			return err
		case e.Type() == 0:
			f, err := fsys.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			n, err := io.Copy(h, f)
			lines = append(lines, fmt.Sprintf("file %s %d %x", name, n, h.Sum(nil)))
			return err
		default:
			lines = append(lines, "other "+name)
		}
		return nil
	})
	sort.Strings(lines)
	return lines, err
}

func kernelImages(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.img.gz")
	require.NoError(t, err)
	require.Len(t, names, 11)
	for i, name := range names {
		names[i] = strings.TrimSuffix(filepath.Base(name), ".img.gz")
	}
	return names
}

// Dirty ones among them were copied while they were mounted: what a kernel
// replayed from their journals must be seen, and nothing older.
func TestImagesThatAKernelWroteAreReadAsItReadsThem(t *testing.T) {
	t.Parallel()
	for _, name := range kernelImages(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := gunzip(t, name+".img.gz")
			f, err := Open(bytes.NewReader(image), int64(len(image)), nil)
			require.NoError(t, err)
			got, err := kernelListing(f)
			require.NoError(t, err)
			want := strings.Split(strings.TrimSpace(string(gunzip(t, name+".txt.gz"))), "\n")
			assert.Equal(t, want, got)
		})
	}
}
