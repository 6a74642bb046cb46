package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/ini.v1"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
)

// rootVariable is the environment variable of the original.
const rootVariable = "PYTI_SLAVE_ROOT"

// Defaults of the configuration.
const (
	defaultTotal   = 3
	defaultIndex   = "https://pypi.org/simple/"
	defaultTimeout = time.Hour
	defaultDrain   = time.Minute
	defaultPoll    = time.Second
	defaultPython  = "3.11"
)

// config is what a slave is told.
type config struct {
	Root      string        // absolute
	Total     int           // total_vms: machines at once, over all platforms
	Index     string        // URL or folder
	Timeout   time.Duration // of a recipe, in the guest
	Drain     time.Duration // how long requests may go on after SIGTERM
	Poll      time.Duration // how often the queue is looked at
	Platforms []platform
}

// platform is one kind of machine: what a platform_identifier and an entry of
// platform_variants mean.
type platform struct {
	Name, Variant string // Variant is empty for the platform itself
	Machines      machines.Options
	Image         string // a disk image with a system and the agent in it, qcow2 or raw
	Kernel        string // or a kernel, with an initial ramdisk and a command line
	Initrd        string
	Cmdline       string
	Memory        int64  // bytes; zero: the driver's
	CPUs          int    // zero: 1
	Python        string // debian or guest
	PythonVersion string // what distributions are chosen for; empty: see bench.pythons
	Ready         int    // how many are kept warm
}

// label is what the platform is called in errors: "linux-debian small".
func (p platform) label() string { return strings.TrimSpace(p.Name + " " + p.Variant) }

var goodLabel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$`)

// readConfig reads the file, if one is named, over the environment, over the
// defaults. base is what the flags say of machines.
func readConfig(path string, getenv func(string) string, base machines.Options) (config, error) {
	c := config{Total: defaultTotal, Index: defaultIndex, Timeout: defaultTimeout, Drain: defaultDrain, Poll: defaultPoll}
	c.Root = getenv(rootVariable)
	from := "environment: " + rootVariable
	file := ini.Empty()
	if path != "" {
		var err error
		// As Python's configparser reads it: keys in any case, and a dot in a section's
		// name means nothing. A comment behind a value has a space in front.
		how := ini.LoadOptions{InsensitiveKeys: true, SpaceBeforeInlineComment: true, ChildSectionDelimiter: "\x00"}
		if file, err = ini.LoadSources(how, path); err != nil {
			return config{}, fmt.Errorf("config %s: %w", path, err)
		}
		if file.Section("config").HasKey("pyti_slave_root") {
			c.Root, from = "", fmt.Sprintf("config %s: [config] pyti_slave_root", path)
		}
	}
	where := "config " + path
	for _, section := range file.Sections() {
		var err error
		words := strings.Fields(section.Name())
		switch {
		case section.Name() == ini.DefaultSection && len(section.Keys()) == 0:
		case section.Name() == "config":
			err = c.readMain(section)
		case len(words) >= 2 && len(words) <= 3 && words[0] == "platform":
			err = c.readPlatform(file, section, words[1:], base)
		default:
			err = fmt.Errorf("is unknown, want [config], [platform NAME] or [platform NAME VARIANT]")
		}
		if err != nil {
			return config{}, fmt.Errorf("%s: [%s] %w", where, section.Name(), err)
		}
	}
	if c.Root == "" && !file.Section("config").HasKey("pyti_slave_root") {
		home, err := os.UserHomeDir()
		if err != nil {
			return config{}, fmt.Errorf("set %s, or pyti_slave_root in a configuration: %w", rootVariable, err)
		}
		c.Root = filepath.Join(home, "pyti")
	}
	if !filepath.IsAbs(c.Root) {
		return config{}, fmt.Errorf("%s is %q, want an absolute path", from, c.Root)
	}
	c.Root = filepath.Clean(c.Root)
	if err := c.checkReady(); err != nil {
		return config{}, fmt.Errorf("%s: %w", where, err)
	}
	if len(c.Platforms) == 0 {
		p := platform{Name: hostPlatform(base.Driver), Machines: base}
		p.setPython("")
		c.Platforms = []platform{p}
	}
	return c, nil
}

// checkReady: warm machines leave room for the others. On one hypervisor they make
// room themselves.
func (c config) checkReady() error {
	sum, on := 0, map[machines.Options]bool{}
	for _, p := range c.Platforms {
		sum += p.Ready
		on[p.Machines] = true
	}
	if sum > c.Total || len(on) > 1 && sum >= c.Total {
		return fmt.Errorf("ready is %d in all platforms together, want at most total_vms (%d), and less on several hypervisors", sum, c.Total)
	}
	return nil
}

var goodPython = regexp.MustCompile(`^3\.\d{1,2}(\.\d{1,2})?$`)

// keyReader reads the keys of a section and remembers the first fault.
type keyReader struct {
	section *ini.Section
	known   []string
	err     error
}

func (k *keyReader) text(key string, set func(value string) error) {
	k.known = append(k.known, key)
	if k.err != nil || !k.section.HasKey(key) {
		return
	}
	value := k.section.Key(key).String()
	if err := set(value); err != nil {
		k.err = fmt.Errorf("%s is %q, want %w", key, value, err)
	}
}

func (k *keyReader) number(key string, least, most int, to *int) {
	k.text(key, func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("a whole number from %d to %d", least, most)
		}
		*to = n
		return nil
	})
}

func (k *keyReader) duration(key string, least time.Duration, to *time.Duration) {
	k.text(key, func(value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < least {
			return fmt.Errorf("a duration such as 90s or 1h, %v or more", least)
		}
		*to = d
		return nil
	})
}

func (k *keyReader) oneOf(key string, to *string, allowed ...string) {
	k.text(key, func(value string) error {
		if !slices.Contains(allowed, value) {
			return fmt.Errorf("%s", strings.Join(allowed, " or "))
		}
		*to = value
		return nil
	})
}

// end tells the first fault, or a key that nobody has asked for.
func (k *keyReader) end() error {
	for _, key := range k.section.KeyStrings() {
		if k.err == nil && !slices.Contains(k.known, key) {
			k.err = fmt.Errorf("%s is no key, want some of %s", key, strings.Join(k.known, ", "))
		}
	}
	return k.err
}

func (c *config) readMain(section *ini.Section) error {
	k := &keyReader{section: section}
	k.text("pyti_slave_root", func(value string) error { c.Root = value; return nil })
	k.number("total_vms", 1, 1000, &c.Total)
	k.text("index", func(value string) error {
		if c.Index = value; value == "" {
			return fmt.Errorf("a URL or a folder")
		}
		return nil
	})
	k.duration("timeout", time.Second, &c.Timeout)
	k.duration("drain", 0, &c.Drain)
	k.duration("poll", time.Millisecond, &c.Poll)
	return k.end()
}

// readPlatform reads [platform NAME] and [platform NAME VARIANT]; a variant has the
// keys of its platform where it has none of its own.
func (c *config) readPlatform(file *ini.File, section *ini.Section, words []string, base machines.Options) error {
	p := platform{Name: words[0], Machines: base}
	sections := []*ini.Section{section}
	if len(words) == 2 {
		p.Variant = words[1]
		if parent, err := file.GetSection("platform " + p.Name); err == nil {
			sections = []*ini.Section{parent, section}
		}
	}
	for _, name := range words {
		if !goodLabel.MatchString(name) {
			return fmt.Errorf("is named %q, want letters, digits and . _ -", name)
		}
	}
	if slices.ContainsFunc(c.Platforms, func(o platform) bool { return o.Name == p.Name && o.Variant == p.Variant }) {
		return fmt.Errorf("is there twice")
	}
	python := ""
	for _, s := range sections {
		k := &keyReader{section: s}
		k.oneOf("driver", &p.Machines.Driver, "local", "libvirt")
		real := func(to *string) func(string) error {
			return func(value string) error {
				if p.Machines.Driver != "libvirt" {
					return errors.New("it only with driver = libvirt")
				}
				*to = value
				return nil
			}
		}
		file := func(to *string) func(string) error {
			return func(value string) error {
				if info, err := os.Stat(value); !filepath.IsAbs(value) || err != nil || !info.Mode().IsRegular() {
					return errors.New("the absolute path of a file that is there")
				}
				return real(to)(value)
			}
		}
		k.text("uri", real(&p.Machines.URI))
		k.text("image", file(&p.Image))
		k.text("kernel", file(&p.Kernel))
		k.text("initrd", file(&p.Initrd))
		k.text("cmdline", real(&p.Cmdline))
		k.text("dir", func(value string) error {
			if p.Machines.Dir = value; !filepath.IsAbs(value) {
				return errors.New("an absolute path")
			}
			return nil
		})
		memory := 0
		if k.number("memory_mb", 64, 1<<20, &memory); memory > 0 {
			p.Memory = int64(memory) << 20
		}
		k.number("cpus", 1, 256, &p.CPUs)
		k.number("ready", 0, c.Total, &p.Ready)
		k.oneOf("python", &python, "debian", "guest")
		k.text("python_version", func(value string) error {
			if p.PythonVersion = value; !goodPython.MatchString(value) {
				return fmt.Errorf("3.N or 3.N.N")
			}
			return nil
		})
		if err := k.end(); err != nil {
			return err
		}
	}
	if p.Image != "" && p.Kernel != "" {
		return errors.New("image and kernel are both there, want one of them")
	}
	p.setPython(python)
	c.Platforms = append(c.Platforms, p)
	return nil
}

// setPython: machines of a bare kernel have no Python of their own, others have.
func (p *platform) setPython(said string) {
	switch {
	case said != "":
		p.Python = said
	case p.Machines.Driver == "libvirt" && p.Image == "":
		p.Python = "debian"
	default:
		p.Python = "guest"
	}
}

// hostPlatform names the platform that there is when none is configured: Debian,
// whose Python real machines get, or else what this computer runs.
func hostPlatform(driver string) string {
	if driver == "libvirt" {
		return "linux-debian"
	}
	text, _ := os.ReadFile("/etc/os-release") // a system without one is just linux
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
			if name := "linux-" + strings.Trim(id, `"'`); goodLabel.MatchString(name) {
				return name
			}
		}
	}
	return "linux"
}
