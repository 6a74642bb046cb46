package initramfs

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// static builds a static program to stand for the agent.
func static(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\nfunc main() {}\n"), 0o644))
	out := filepath.Join(dir, "agent")
	cmd := exec.Command("go", "build", "-o", out, "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, string(text))
	return out
}

// read lists a ramdisk: names to contents, links as "-> target".
func read(t *testing.T, path string) (names []string, content map[string]string) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r := cpio.NewReader(f)
	content = map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, content
		}
		require.NoError(t, err)
		names = append(names, h.Name)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		content[h.Name] = string(b)
		if h.Linkname != "" {
			content[h.Name] = "-> " + h.Linkname
		}
	}
}

func TestARamdiskHoldsTheAgentAsInitAndWhatWasAdded(t *testing.T) {
	t.Parallel()
	agent := static(t)
	extra := filepath.Join(t.TempDir(), "extra")
	require.NoError(t, os.WriteFile(extra, []byte("more"), 0o600))
	dir := t.TempDir()
	c := Config{Agent: agent, Dir: dir, Modules: []string{}, Parts: Parts{Kernel: "/k", Busybox: agent}, Files: map[string]string{"/opt/a/extra": extra}}
	g, err := Build(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, "/k", g.Kernel)
	names, content := read(t, g.Initrd)
	want, err := os.ReadFile(agent)
	require.NoError(t, err)
	assert.Equal(t, string(want), content["init"])
	assert.Equal(t, "more", content["opt/a/extra"])
	assert.Equal(t, "-> busybox", content["bin/sh"])
	seen := map[string]bool{}
	for _, n := range names {
		assert.False(t, seen[n], "%s is there twice", n)
		seen[n] = true
		if parent := filepath.Dir(n); parent != "." {
			assert.True(t, seen[parent], "%s comes before its folder", n)
		}
	}

	again, err := Build(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, g, again, "the same content has the same name")
	c.Files = nil
	other, err := Build(t.Context(), c)
	require.NoError(t, err)
	assert.NotEqual(t, g.Initrd, other.Initrd)
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestWhatIsMissingIsNamedWithTheCommandThatProvidesIt(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	_, err := Find(root)
	require.ErrorIs(t, err, ErrMissing)
	assert.Contains(t, err.Error(), "apt-get download")
	assert.Contains(t, err.Error(), root)

	for _, v := range []string{"6.9.0-1", "6.10.0-1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, "lib/modules", v, "kernel"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(root, "boot"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, "boot/vmlinuz-"+v), nil, 0o644))
	}
	p, err := Find(root)
	require.ErrorIs(t, err, ErrMissing)
	assert.Contains(t, err.Error(), "busybox-static")
	assert.Equal(t, "6.10.0-1", p.Version, "6.10 is newer than 6.9")

	require.NoError(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	agent := static(t)
	require.NoError(t, os.Link(agent, filepath.Join(root, "bin/busybox")))
	p, err = Find(root)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(root, "bin/busybox"), p.Busybox)
}

func TestABadConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755))
	agent := static(t)
	for _, c := range []struct {
		name string
		conf Config
		want string
	}{
		{"no folder", Config{Agent: agent}, "Config.Dir is empty"},
		{"no agent", Config{Dir: t.TempDir(), Agent: "/nowhere"}, `Config.Agent is "/nowhere"`},
		{"an agent that is no executable", Config{Dir: t.TempDir(), Agent: text}, "Config.Agent"},
		{"a file that is not there", Config{Dir: t.TempDir(), Agent: agent, Files: map[string]string{"a": "/nowhere"}}, `Config.Files["a"]`},
		{"a file that is a folder", Config{Dir: t.TempDir(), Agent: agent, Files: map[string]string{"a": "/"}}, "want a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Build(t.Context(), c.conf)
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
}

// modules makes a folder of modules, each with what it depends on.
func modules(t *testing.T, builtin string, deps map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "kernel"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte(builtin), 0o644))
	for name, on := range deps {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "kernel", name), object(t, on), 0o644))
	}
	return dir
}

// object assembles a relocatable file with a .modinfo section.
func object(t *testing.T, depends string) []byte {
	t.Helper()
	as, err := exec.LookPath("as")
	if err != nil {
		t.Skip("no assembler: apt-get install --no-install-recommends binutils")
	}
	out := filepath.Join(t.TempDir(), "o")
	cmd := exec.Command(as, "-o", out)
	cmd.Stdin = strings.NewReader(`.section .modinfo,"a"` + "\n" + `.asciz "license=GPL"` + "\n" + `.asciz "depends=` + depends + "\"\n")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, string(text))
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	return b
}

func TestModulesComeAfterWhatTheyDependOn(t *testing.T) {
	t.Parallel()
	dir := modules(t, "kernel/fs/ext4/ext4.ko\n", map[string]string{
		"virtio_ring.ko": "", "virtio.ko": "virtio_ring", "virtio-pci.ko": "virtio,virtio_ring", "blk.ko": "virtio",
		"a.ko": "b", "b.ko": "a", "packed.ko.xz": "",
	})
	order, err := moduleOrder(dir, []string{"virtio_pci", "blk", "ext4"})
	require.NoError(t, err)
	assert.Equal(t, []string{"kernel/virtio_ring.ko", "kernel/virtio.ko", "kernel/virtio-pci.ko", "kernel/blk.ko"}, order)
	for names, want := range map[string]string{"nothing": "neither", "a": "a -> b -> a", "packed": "compressed"} {
		_, err := moduleOrder(dir, []string{names})
		require.Error(t, err, names)
		assert.Contains(t, err.Error(), want)
	}
}
