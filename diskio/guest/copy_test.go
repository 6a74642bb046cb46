package guest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		data := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(data)), ""
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(data))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func (h *host) putTar(stream uint32, c wire.Copy, b []byte) wire.Copied {
	h.t.Helper()
	h.send(stream, wire.KindPut, c)
	for len(b) > 0 {
		n := min(len(b), wire.MaxBody)
		h.send(stream, wire.KindData, b[:n])
		b = b[n:]
	}
	h.send(stream, wire.KindData, []byte{})
	var done wire.Copied
	h.next(stream, wire.KindCopied, &done)
	return done
}

func TestCopiesGoInAndOutAsTar(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	// In these headers the link's name is the content of files.
	done := h.putTar(1, wire.Copy{Path: "/some/where"}, tarOf(t,
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555, ModTime: when},
		tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o640, Linkname: "content", ModTime: when},
		tar.Header{Name: "./new/g", Typeflag: tar.TypeReg, Mode: 0o755, Linkname: "more", ModTime: when},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/f"}))
	require.Equal(t, wire.Copied{Files: 3, Bytes: 11}, done)
	b, err := os.ReadFile(filepath.Join(root, "some/where/l"))
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
	for name, mode := range map[string]os.FileMode{"d": os.ModeDir | 0o555, "d/f": 0o640, "new/g": 0o755} {
		info, err := os.Stat(filepath.Join(root, "some/where", name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
		require.True(t, info.ModTime().Equal(when), name)
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "some/where/d"), 0o755))

	get := func(c wire.Copy) (map[string]string, wire.Copied) {
		h.send(2, wire.KindGet, c)
		var archive []byte
		for {
			f := h.any(2)
			if f.Kind == wire.KindData {
				archive = append(archive, f.Body...)
				continue
			}
			var done wire.Copied
			require.Equal(t, wire.KindCopied, f.Kind, string(f.Body))
			require.NoError(t, wire.Decode(f.Kind, f.Body, &done))
			got := map[string]string{}
			for r := tar.NewReader(bytes.NewReader(archive)); ; {
				e, err := r.Next()
				if err != nil {
					break
				}
				b, err := io.ReadAll(r)
				require.NoError(t, err)
				got[e.Name] = string(b) + e.Linkname
			}
			return got, done
		}
	}
	got, copied := get(wire.Copy{Path: "some/where"})
	require.Equal(t, map[string]string{"d/": "", "d/f": "content", "new/": "", "new/g": "more", "l": "d/f"}, got)
	require.Equal(t, wire.Copied{Files: 3, Bytes: 11}, copied)
	got, _ = get(wire.Copy{Path: "some/where/d/f"})
	require.Equal(t, map[string]string{"f": "content"}, got)
	got, _ = get(wire.Copy{Path: "some/where/l"})
	require.Equal(t, map[string]string{"l": "content"}, got, "a link that was asked for by name is followed")
	_, copied = get(wire.Copy{Path: "absent"})
	require.NotEmpty(t, copied.Error)
	_, copied = get(wire.Copy{Path: "some/where", MaxBytes: 10})
	require.Contains(t, copied.Error, "at most 10")
}

func TestCopiesStayInsideTheirFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	require.NoError(t, os.Mkdir(root, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644))
	require.NoError(t, os.Symlink("..", filepath.Join(root, "up")))
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	file := func(name string) []byte {
		return tarOf(t, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Linkname: "x"})
	}
	for name, c := range map[string]struct {
		path string
		tar  []byte
	}{
		"parent":         {"d", file("../../evil")},
		"absolute":       {"d", file(filepath.Join(outside, "evil"))},
		"through a link": {"up", file("evil")},
		"a link and then through it": {"d", tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside},
			tar.Header{Name: "l/evil", Typeflag: tar.TypeReg, Linkname: "x"})},
		"device":    {"d", tarOf(t, tar.Header{Name: "evil", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})},
		"hard link": {"d", tarOf(t, tar.Header{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../secret"})},
		"no tar":    {"d", []byte(strings.Repeat("evil", 1000))},
	} {
		done := h.putTar(1, wire.Copy{Path: c.path}, c.tar)
		require.NotEmpty(t, done.Error, name)
		require.False(t, exists(t, filepath.Join(outside, "evil")), name)
		require.False(t, exists(t, filepath.Join(root, "d", "evil")), name)
	}
	done := h.putTar(1, wire.Copy{Path: "../../d"}, file("fine"))
	require.Empty(t, done.Error, "a path of the host's is below the root whatever it says")
	require.True(t, exists(t, filepath.Join(root, "d", "fine")))
	done = h.putTar(1, wire.Copy{Path: "d", MaxBytes: 3}, tarOf(t, tar.Header{Name: "big", Typeflag: tar.TypeReg, Linkname: "four"}))
	require.Contains(t, done.Error, "at most 3")
	h.send(2, wire.KindGet, wire.Copy{Path: "up/secret"})
	var copied wire.Copied
	h.next(2, wire.KindCopied, &copied)
	require.NotEmpty(t, copied.Error)
}

func TestACancelledCopyEnds(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "big"), make([]byte, 4*wire.InitialWindow), 0o644))
	h := start(t, func(c *Config) { c.Root = root })
	h.welcome(wire.Welcome{})
	h.send(1, wire.KindPut, wire.Copy{Path: "d"})
	h.send(1, wire.KindData, make([]byte, 100))
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	var done wire.Copied
	h.next(1, wire.KindCopied, &done)
	require.Contains(t, done.Error, "cancelled")
	h.send(2, wire.KindGet, wire.Copy{Path: "big"}) // nobody grants more
	h.next(2, wire.KindData, nil)
	h.send(2, wire.KindCancel, wire.Cancel{Kill: true})
	h.next(2, wire.KindCopied, &done)
	require.Contains(t, done.Error, "cancelled")
}

func TestWithoutARootCopiesReachTheWholeMachine(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	dir := t.TempDir()
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "absolute")))
	done := h.putTar(1, wire.Copy{Path: filepath.Join(dir, "absolute", "x")}, tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o600, Linkname: "x"}))
	require.Empty(t, done.Error)
	require.True(t, exists(t, filepath.Join(dir, "x", "f")))
}
