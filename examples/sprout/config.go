package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// config is the file that -config names. Relative paths in it are relative to its
// folder.
type config struct {
	// Store is where the leases are: "memory" (of this process alone), a file of
	// SQLite, or postgres://...
	Store string `json:"store"`
	Hosts []host `json:"hosts"`

	Templates []template `json:"templates"`
	// Providers are the keys of the management systems that tests name in their
	// parameters, as in test_vm.py::test_start[vsphere55].
	Providers []string `json:"management_systems"`
	Suite     suite    `json:"suite"`

	// Poll is the pause between two looks at a request, in seconds; 0: 5.
	Poll float64 `json:"poll_seconds"`
	// Respawns is how often a worker may fail one time after the other, with no group
	// done between, before it is given up; 0: 3.
	Respawns int `json:"respawns"`
	// Backoff is the pause before a worker is started again, in seconds, doubled
	// each time; 0: 1.
	Backoff float64 `json:"backoff_seconds"`
}

// host is a hypervisor with room for appliances.
type host struct {
	Name   string `json:"name"`
	Driver string `json:"driver"` // local or libvirt; empty: local
	URI    string `json:"uri"`    // of libvirt; empty: an embedded one in Dir
	Dir    string `json:"dir"`    // of the machines; empty: one in the temporary folder
	Slots  int    `json:"slots"`
	// Properties are told to the appliances: "provider" is the provider that they
	// are on, empty: the host's name; "address" is for machines that cannot tell
	// their own.
	Properties map[string]string `json:"properties"`
}

// template is what appliances are made from. The newest of a group is the one with
// the highest version, then the latest date.
type template struct {
	Name    string   `json:"name"`
	Group   string   `json:"group"`
	Version string   `json:"version"`
	Date    string   `json:"date"`  // 2026-11-20
	Hosts   []string `json:"hosts"` // names; empty: all
	// Spec is what the machine is; nothing: the driver's own, which on libvirt is
	// the test guest.
	Spec       *vm.Spec          `json:"spec"`
	Properties map[string]string `json:"properties"`
}

// suite says how tests are listed and run in an appliance.
type suite struct {
	Folder string `json:"folder"` // laid out in each appliance, where the commands run
	// Collect prints the tests' ids, one a line; Run is given one id as its last
	// argument and passes by exit code 0.
	Collect []string `json:"collect"`
	Run     []string `json:"run"`
	// Timeout is that of one test, in seconds; 0: 600.
	Timeout float64 `json:"timeout_seconds"`
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (s suite) timeout() time.Duration { return seconds(s.Timeout) }

// loadConfig reads the file and fills in what is not said.
func loadConfig(path string) (config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return config{}, err
	}
	c, err := parseConfig(text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return c, err
	}
	beside := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if !ownStore(c.Store) {
		beside(&c.Store)
	}
	for i := range c.Hosts {
		beside(&c.Hosts[i].Dir)
	}
	beside(&c.Suite.Folder)
	return c, nil
}

func parseConfig(text []byte) (config, error) {
	var c config
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return c, errors.New("there is more behind the configuration")
	}
	return c, c.check()
}

// check reports the first field that breaks a rule, and fills in the defaults.
func (c *config) check() error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s is %v, want %s", field, value, want)
	}
	if c.Store == "" {
		return bad("store", "empty", "memory, a file, or postgres://...")
	}
	if len(c.Hosts) == 0 {
		return bad("hosts", "empty", "at least one")
	}
	var names []string
	for i := range c.Hosts {
		h := &c.Hosts[i]
		field := fmt.Sprintf("hosts[%d].", i)
		switch {
		case h.Name == "" || slices.Contains(names, h.Name):
			return bad(field+"name", fmt.Sprintf("%q", h.Name), "a name that no other host has")
		case h.Driver != "" && h.Driver != "local" && h.Driver != "libvirt":
			return bad(field+"driver", fmt.Sprintf("%q", h.Driver), "local or libvirt")
		case h.URI != "" && h.Driver != "libvirt":
			return bad(field+"uri", fmt.Sprintf("%q", h.URI), "none: it is for libvirt")
		case h.Slots < 1:
			return bad(field+"slots", h.Slots, "1 or more")
		}
		names = append(names, h.Name)
	}
	var templates []string
	for i, t := range c.Templates {
		field := fmt.Sprintf("templates[%d].", i)
		switch {
		case t.Name == "" || slices.Contains(templates, t.Name):
			return bad(field+"name", fmt.Sprintf("%q", t.Name), "a name that no other template has")
		case t.Group == "":
			return bad(field+"group", "empty", "the group by which it is requested")
		}
		if t.Date != "" {
			if _, err := time.Parse(time.DateOnly, t.Date); err != nil {
				return bad(field+"date", fmt.Sprintf("%q", t.Date), "a day such as 2026-11-20")
			}
		}
		for j, h := range t.Hosts {
			if !slices.Contains(names, h) {
				return bad(fmt.Sprintf("%shosts[%d]", field, j), fmt.Sprintf("%q", h), "the name of a host")
			}
		}
		templates = append(templates, t.Name)
	}
	for i, p := range c.Providers {
		if p == "" {
			return bad(fmt.Sprintf("management_systems[%d]", i), "empty", "a provider's key")
		}
	}
	return c.checkRest(bad)
}

func (c *config) checkRest(bad func(string, any, string) error) error {
	switch {
	case len(c.Suite.Collect) == 0 || c.Suite.Collect[0] == "":
		return bad("suite.collect", "empty", "a program and its arguments")
	case len(c.Suite.Run) == 0 || c.Suite.Run[0] == "":
		return bad("suite.run", "empty", "a program and its arguments")
	case c.Suite.Timeout < 0:
		return bad("suite.timeout_seconds", c.Suite.Timeout, "0 (600) or more")
	case c.Poll < 0:
		return bad("poll_seconds", c.Poll, "0 (5) or more")
	case c.Respawns < 0:
		return bad("respawns", c.Respawns, "0 (3) or more")
	case c.Backoff < 0:
		return bad("backoff_seconds", c.Backoff, "0 (1) or more")
	}
	if c.Suite.Timeout == 0 {
		c.Suite.Timeout = 600
	}
	if c.Respawns == 0 {
		c.Respawns = defaultRespawns
	}
	if c.Poll == 0 {
		c.Poll = 5
	}
	return nil
}
