package diskio

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The trees that packing and reading are measured with: C is the Go source
// tree, A 10,000 files of 4 KiB in 200 folders, B one file of 1 GiB, D three
// small files. What counts is the ratio to tar on the same tree.
func benchTree(b *testing.B, name string) string {
	b.Helper()
	if name == "C" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			b.Skipf("go env GOROOT: %v", err)
		}
		return filepath.Join(string(out[:len(out)-1]), "src")
	}
	dir := b.TempDir()
	write := func(name string, data []byte) {
		require.NoError(b, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(b, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	switch name {
	case "A":
		data := pattern(4096)
		for i := range 10_000 {
			write(fmt.Sprintf("%03d/%05d", i%200, i), data)
		}
	case "B":
		f, err := os.Create(filepath.Join(dir, "large"))
		require.NoError(b, err)
		data := pattern(1 << 20)
		for range 1024 {
			_, err := f.Write(data)
			require.NoError(b, err)
		}
		require.NoError(b, f.Close())
	case "D":
		for i := range 3 {
			write(fmt.Sprint(i), pattern(100))
		}
	}
	return dir
}

func BenchmarkPack(b *testing.B) {
	for _, name := range []string{"C", "A", "B", "D"} {
		b.Run(name, func(b *testing.B) {
			dir := benchTree(b, name)
			out := b.TempDir()
			b.Run("tar", func(b *testing.B) {
				for b.Loop() {
					require.NoError(b, exec.Command("tar", "cf", filepath.Join(out, "tar"), "-C", dir, ".").Run())
					b.StopTimer()
					require.NoError(b, os.Remove(filepath.Join(out, "tar")))
					b.StartTimer()
				}
			})
			b.Run("ext4", func(b *testing.B) {
				for b.Loop() {
					image, err := Pack(context.Background(), filepath.Join(out, "image"), Folder(dir), nil)
					require.NoError(b, err)
					require.NoError(b, image.Close())
					b.StopTimer()
					require.NoError(b, os.Remove(filepath.Join(out, "image")))
					b.StartTimer()
				}
			})
			b.Run("cached", func(b *testing.B) {
				c, err := NewCache(filepath.Join(out, "cache"), nil)
				require.NoError(b, err)
				for b.Loop() {
					image, err := c.Pack(context.Background(), Folder(dir), nil)
					require.NoError(b, err)
					require.NoError(b, image.Close())
				}
			})
		})
	}
}

func BenchmarkReadAndExtract(b *testing.B) {
	for _, name := range []string{"C", "A", "B"} {
		b.Run(name, func(b *testing.B) {
			dir := benchTree(b, name)
			out := b.TempDir()
			ball := filepath.Join(out, "tar")
			require.NoError(b, exec.Command("tar", "cf", ball, "-C", dir, ".").Run())
			image, err := Pack(context.Background(), filepath.Join(out, "image"), Folder(dir), nil)
			require.NoError(b, err)
			b.Cleanup(func() { image.Close() })
			b.Run("read archive-tar", func(b *testing.B) {
				for b.Loop() {
					f, err := os.Open(ball)
					require.NoError(b, err)
					r := tar.NewReader(f)
					for {
						if _, err := r.Next(); err != nil {
							break
						}
						_, err := io.Copy(io.Discard, r)
						require.NoError(b, err)
					}
					require.NoError(b, f.Close())
				}
			})
			b.Run("read ext4", func(b *testing.B) {
				buf := make([]byte, 64<<10)
				for b.Loop() {
					f, err := Open(image, image.Size(), nil)
					require.NoError(b, err)
					readAll(b, f, ".", buf)
				}
			})
			b.Run("extract tar", func(b *testing.B) {
				for b.Loop() {
					to, err := os.MkdirTemp(extractTo(out), "x")
					require.NoError(b, err)
					require.NoError(b, exec.Command("tar", "xf", ball, "-C", to).Run())
					b.StopTimer()
					require.NoError(b, os.RemoveAll(to))
					b.StartTimer()
				}
			})
			b.Run("extract ext4", func(b *testing.B) {
				for b.Loop() {
					to, err := os.MkdirTemp(extractTo(out), "x")
					require.NoError(b, err)
					f, err := Open(image, image.Size(), nil)
					require.NoError(b, err)
					_, err = Extract(context.Background(), f, to, Limits{})
					require.NoError(b, err)
					b.StopTimer()
					require.NoError(b, os.RemoveAll(to))
					b.StartTimer()
				}
			})
		})
	}
}

// extractTo is a folder in memory, where there is one.
func extractTo(other string) string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return other
}

func readAll(b *testing.B, f *FS, dir string, buf []byte) {
	entries, err := f.ReadDir(dir)
	require.NoError(b, err)
	for _, e := range entries {
		name := dir + "/" + e.Name()
		if dir == "." {
			name = e.Name()
		}
		if e.IsDir() {
			readAll(b, f, name, buf)
			continue
		}
		if e.Type() != 0 {
			continue
		}
		file, err := f.Open(name)
		require.NoError(b, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, file, buf)
		require.NoError(b, err)
		require.NoError(b, file.Close())
	}
}
