package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/vm"
)

func iniFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pyti.ini")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func environment(root string) func(string) string {
	return func(name string) string {
		if name == rootVariable {
			return root
		}
		return ""
	}
}

func TestTheFileWinsOverTheEnvironmentWhichWinsOverTheDefault(t *testing.T) {
	t.Parallel()
	file := iniFile(t, "[config]\npyti_slave_root = /from/file\ntotal_vms = 3\n") // as in the original
	silent := iniFile(t, "[config]\ntotal_vms = 7\n")
	home, err := os.UserHomeDir()
	require.NoError(t, err)
	for _, row := range []struct {
		path, env, want string
		total           int
	}{
		{file, "/from/env", "/from/file", 3},
		{silent, "/from/env", "/from/env", 7},
		{"", "/from/env", "/from/env", defaultTotal},
		{file, "", "/from/file", 3},
		{"", "", filepath.Join(home, "pyti"), defaultTotal},
	} {
		c, err := readConfig(row.path, environment(row.env), machines.Options{})
		require.NoError(t, err)
		assert.Equal(t, row.want, c.Root)
		assert.Equal(t, row.total, c.Total)
	}
}

func TestAConfigurationHasPlatformsAndVariants(t *testing.T) {
	t.Parallel()
	kernel := iniFile(t, "a kernel")
	c, err := readConfig(iniFile(t, `# a comment
[config]
PYTI_SLAVE_ROOT = /srv/pyti
index = /srv/wheels#a ; not a comment before the space
timeout = 90s
drain = 5m
poll = 50ms
; another
[platform linux-debian]
driver = libvirt
uri = qemu:///system
memory_mb = 512
cpus = 2
ready = 1
[platform linux-debian small]
memory_mb = 128
python_version = 3.12
[platform linux.2]
[platform own]
driver = libvirt
kernel = `+kernel+`
initrd = `+kernel+`
cmdline = quiet x=1
python = guest
[platform disk]
driver = libvirt
image = `+kernel+`
`), environment(""), machines.Options{Driver: "local"})
	require.NoError(t, err)
	assert.Equal(t, "/srv/wheels#a", c.Index)
	assert.Equal(t, []time.Duration{90 * time.Second, 5 * time.Minute, 50 * time.Millisecond}, []time.Duration{c.Timeout, c.Drain, c.Poll})
	debian := platform{Name: "linux-debian", Machines: machines.Options{Driver: "libvirt", URI: "qemu:///system"}, Memory: 512 << 20, CPUs: 2, Python: "debian", Ready: 1}
	small := debian
	small.Variant, small.Memory, small.PythonVersion = "small", 128<<20, "3.12"
	assert.Equal(t, []platform{
		debian, small,
		{Name: "linux.2", Machines: machines.Options{Driver: "local"}, Python: "guest"},
		{Name: "own", Machines: machines.Options{Driver: "libvirt"}, Kernel: kernel, Initrd: kernel, Cmdline: "quiet x=1", Python: "guest"},
		{Name: "disk", Machines: machines.Options{Driver: "libvirt"}, Image: kernel, Python: "guest"},
	}, c.Platforms)
	standard := vm.Spec{Kernel: "k", Memory: 192 << 20}
	assert.Equal(t, vm.Spec{Kernel: "k", Memory: 512 << 20, CPUs: 2}, c.Platforms[0].spec(standard))
	assert.Equal(t, vm.Spec{Kernel: kernel, Initrd: kernel, Cmdline: "quiet x=1"}, c.Platforms[3].spec(standard))
	assert.Equal(t, vm.Spec{Disks: []vm.Disk{{Format: "qcow2", Backing: kernel, BackingFormat: "raw"}}}, c.Platforms[4].spec(standard))
}

func TestAWrongConfigurationNamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[config]\npyti_slave_root = pyti\n":                 `[config] pyti_slave_root is "pyti", want an absolute path`,
		"[config]\npyti_slave_root =\n":                      `[config] pyti_slave_root is "", want an absolute path`,
		"[config]\ntotal_vms = 0\n":                          `[config] total_vms is "0", want a whole number from 1 to 1000`,
		"[config]\ntotal_vms = three\n":                      `[config] total_vms is "three", want a whole number from 1 to 1000`,
		"[config]\ntotal = 3\n":                              `[config] total is no key, want some of pyti_slave_root, total_vms`,
		"[config]\ntimeout = 10\n":                           `[config] timeout is "10", want a duration such as 90s or 1h, 1s or more`,
		"[config]\npoll = 0s\n":                              `[config] poll is "0s", want a duration`,
		"[config]\nindex =\n":                                `[config] index is "", want a URL or a folder`,
		"[conf]\n":                                           `[conf] is unknown, want [config], [platform NAME] or [platform NAME VARIANT]`,
		"total_vms = 3\n":                                    `[DEFAULT] is unknown`,
		"[platform a b c]\n":                                 `[platform a b c] is unknown`,
		"[platform a/b]\n":                                   `is named "a/b", want letters, digits and . _ -`,
		"[platform a]\ndriver = xen\n":                       `[platform a] driver is "xen", want local or libvirt`,
		"[platform a]\npython = snake\n":                     `[platform a] python is "snake", want debian or guest`,
		"[platform a]\npython_version = 2.7\n":               `[platform a] python_version is "2.7", want 3.N or 3.N.N`,
		"[platform a]\nready = 4\n":                          `[platform a] ready is "4", want a whole number from 0 to 3`,
		"[platform a]\nready = 2\n[platform b]\nready = 2\n": `ready is 4 in all platforms together, want at most total_vms (3)`,
		"[config]\ntotal_vms = 1\n[platform a]\nready = 1\n[platform b]\ndir = /x\n": `ready is 1 in all platforms together, want at most total_vms (1), and less on several`,
		"[platform a]\nuri = x\n":                        `[platform a] uri is "x", want it only with driver = libvirt`,
		"[platform a]\ndriver = libvirt\nkernel = /no\n": `[platform a] kernel is "/no", want the absolute path of a file that is there`,
		"[platform a]\ndir = x\n":                        `[platform a] dir is "x", want an absolute path`,
		"[platform a]\nmemory_mb = 1\n":                  `[platform a] memory_mb is "1", want a whole number from 64 to 1048576`,
	} {
		_, err := readConfig(iniFile(t, text), environment(""), machines.Options{})
		assert.ErrorContains(t, err, want, text)
	}
	_, err := readConfig("", environment("relative"), machines.Options{})
	assert.ErrorContains(t, err, `environment: PYTI_SLAVE_ROOT is "relative", want an absolute path`)
}

func TestWhereNoPlatformIsConfiguredThereIsOne(t *testing.T) {
	t.Parallel()
	c, err := readConfig("", environment("/r"), machines.Options{Driver: "libvirt"})
	require.NoError(t, err)
	assert.Equal(t, []platform{{Name: "linux-debian", Machines: machines.Options{Driver: "libvirt"}, Python: "debian"}}, c.Platforms)
	c, err = readConfig("", environment("/r"), machines.Options{})
	require.NoError(t, err)
	assert.Regexp(t, "^linux", c.Platforms[0].Name)
	assert.Equal(t, "guest", c.Platforms[0].Python)
}

func TestTheConfigurationInTheReadmeIsOne(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(text), "```ini\n")
	require.True(t, ok)
	block, _, _ = strings.Cut(block, "```")
	block = strings.ReplaceAll(block, "/srv/debian.qcow2", iniFile(t, "a disk"))
	c, err := readConfig(iniFile(t, block), environment(""), machines.Options{})
	require.NoError(t, err)
	assert.Equal(t, []any{"/srv/pyti", 3, defaultIndex, defaultTimeout, defaultDrain, defaultPoll}, []any{c.Root, c.Total, c.Index, c.Timeout, c.Drain, c.Poll})
	require.Len(t, c.Platforms, 2)
	assert.Equal(t, []any{"linux-debian", "small", int64(192 << 20), "debian"}, []any{c.Platforms[1].Name, c.Platforms[1].Variant, c.Platforms[1].Memory, c.Platforms[1].Python})
}
