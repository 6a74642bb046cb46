package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// config is the file that says what the master has and does. Times are seconds, as
// in what it replaces. Paths are relative to the file's folder.
type config struct {
	// Name is written on the machines: masters with different names share hosts
	// and never touch each other's machines. Empty: "latent".
	Name string `json:"name"`
	// Store is the file with the leases; empty: memory, and no other process can
	// tell what is leased.
	Store string `json:"store"`
	// Dir is for work folders of local workers and what builds bring back; empty:
	// a temporary one.
	Dir string `json:"dir"`
	// Listen is where standard workers connect; Control is a socket file where
	// builds are asked for.
	Listen  string          `json:"listen"`
	TLS     *tlsConfig      `json:"tls"`
	Control string          `json:"control"`
	Hosts   []hostConfig    `json:"hosts"`
	Locks   map[string]int  `json:"locks"`
	Workers []workerConfig  `json:"workers"`
	Builds  []builderConfig `json:"builders"`
	Mail    *mailConfig     `json:"mail"`

	folder string // of the file
}

type tlsConfig struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// hostConfig is a hypervisor on which latent workers are started.
type hostConfig struct {
	Name   string `json:"name"`
	Driver string `json:"driver"` // local or libvirt
	URI    string `json:"uri"`    // of libvirt; empty: an embedded one below Dir
	Dir    string `json:"dir"`    // of local machines, or of libvirt's test guest
	Slots  int    `json:"slots"`
	// Keepalive is how often machines that wait are asked whether they are there;
	// absent: an hour, null: never.
	Keepalive interval `json:"keepalive_interval"`
}

// The types of workers.
const (
	typeLatent   = "latent"   // started on demand
	typeStandard = "standard" // started by hand, connects by itself
	typeLocal    = "local"    // in this process
)

type workerConfig struct {
	Type string `json:"type"`
	Name string `json:"name"`
	// Password is what a standard worker says; PasswordFile has it instead.
	Password     vm.Secret         `json:"password"`
	PasswordFile string            `json:"password_file"`
	Properties   map[string]string `json:"properties"`
	// MaxBuilds is how many builds it runs at once; absent: 1.
	MaxBuilds int      `json:"max_builds"`
	Locks     []string `json:"locks"`
	// Keepalive of a standard or local worker; of latent ones it is the host's.
	Keepalive interval `json:"keepalive_interval"`
	// Notify is told by mail, once, when the worker has been missing for Missing
	// (absent: an hour).
	Notify  addresses `json:"notify_on_missing"`
	Missing interval  `json:"missing_timeout"`

	// Of latent workers only.
	Hosts []string `json:"hosts"` // in this order where they are equally loaded; empty: all
	// Wait is how long it stays up after a build; absent: 10 minutes, 0: not at
	// all, negative: for ever.
	Wait    *float64      `json:"build_wait_timeout"`
	Machine machineConfig `json:"machine"`
}

// machineConfig is what a latent worker is booted from; empty: the driver's own.
type machineConfig struct {
	Kernel  string   `json:"kernel"`
	Initrd  string   `json:"initrd"`
	Cmdline string   `json:"cmdline"`
	Images  []string `json:"images"` // base images, each read-only behind an overlay
	Memory  int64    `json:"memory_mib"`
	CPUs    int      `json:"cpus"`
	Network string   `json:"network"`
}

type builderConfig struct {
	Name    string   `json:"name"`
	Workers []string `json:"workers"`
	// Steps are shell commands; the first that fails ends the build.
	Steps      []string          `json:"steps"`
	Properties map[string]string `json:"properties"` // a worker's go over them
	Timeout    interval          `json:"timeout"`    // absent: an hour
}

// mailConfig is a mail notifier.
type mailConfig struct {
	From  string `json:"from"`
	Relay string `json:"relayhost"` // host or host:port
	// Builders are those whose failed builds are told to To; absent: all, empty:
	// none, so that only mails about missing workers are sent.
	Builders *[]string `json:"builders"`
	To       addresses `json:"to"`
}

// interval is a number of seconds; null is "never".
type interval struct {
	set, never bool
	time.Duration
}

// UnmarshalJSON takes a number or null.
func (i *interval) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*i = interval{set: true, never: true}
		return nil
	}
	var n float64
	if err := json.Unmarshal(text, &n); err != nil {
		return fmt.Errorf("%s is no number of seconds", text)
	}
	*i = interval{set: true, Duration: seconds(n)}
	return nil
}

// or gives the interval, or what stands for an absent one.
func (i interval) or(absent time.Duration) time.Duration {
	if !i.set {
		return absent
	}
	return i.Duration
}

// longest is some hundred years, less than a time.Duration can be.
const longest = 250 * 365 * 24 * time.Hour

func seconds(n float64) time.Duration {
	return time.Duration(min(max(n, -1), longest.Seconds()) * float64(time.Second))
}

// addresses is one mail address or a list of them.
type addresses []string

// UnmarshalJSON takes a string or a list of strings.
func (a *addresses) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = addresses{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("%s is neither an address nor a list of addresses", text)
	}
	*a = list
	return nil
}

// load reads and checks a file.
func load(file string) (*config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	c, err := parse(text, folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// parse is load of a text.
func parse(text []byte, folder string) (*config, error) {
	c := &config{folder: folder}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the configuration")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// path makes a path of the file absolute.
func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.folder, p)
}
