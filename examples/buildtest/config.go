package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// SiteConfiguration is a configuration that was read and validated.
type SiteConfiguration struct {
	// Executors by name: "machine.<name>" and "batch.<name>".
	Executors map[string]ExecutorConfig
}

// ExecutorConfig is one executor of the configuration, the defaults filled in.
type ExecutorConfig struct {
	Description  string            `yaml:"description"`
	Shell        string            `yaml:"shell"`         // runs the tests; "sh"
	BeforeScript string            `yaml:"before_script"` // sourced in each test
	Labels       map[string]string `yaml:"labels"`        // what builders may want
	Limits       `yaml:",inline"`

	// Of machines: how many, how many of them are kept booted ahead, and MiB each.
	Machines int `yaml:"machines"`
	Ready    int `yaml:"ready"`
	Memory   int `yaml:"memory"`

	// Of batch queues: the slots of a spooler of this run's own, or the socket of
	// one that runs already.
	Slots  int    `yaml:"slots"`
	Socket string `yaml:"socket"`

	kind string
}

// Limits may be given to an executor, as defaults to all of them, and on the command
// line, which goes before both. All are optional; times are in seconds.
type Limits struct {
	Account      string `yaml:"account"`      // to charge for batch jobs
	MaxPendTime  *int   `yaml:"maxpendtime"`  // until a job that does not run is cancelled
	PollInterval *int   `yaml:"pollinterval"` // between two polls
	Timeout      *int   `yaml:"timeout"`      // for the run of one test
	MaxJobs      *int   `yaml:"max_jobs"`     // at once
}

// over fills in what is missing from others.
func (l Limits) over(others Limits) Limits {
	if l.Account == "" {
		l.Account = others.Account
	}
	for _, f := range []struct{ to, from **int }{
		{&l.MaxPendTime, &others.MaxPendTime}, {&l.PollInterval, &others.PollInterval},
		{&l.Timeout, &others.Timeout}, {&l.MaxJobs, &others.MaxJobs},
	} {
		if *f.to == nil {
			*f.to = *f.from
		}
	}
	return l
}

// validate names the field that is wrong, as where.field.
func (l Limits) validate(where string) (errs []error) {
	for _, f := range []struct {
		name string
		v    *int
	}{{"maxpendtime", l.MaxPendTime}, {"pollinterval", l.PollInterval}, {"timeout", l.Timeout}, {"max_jobs", l.MaxJobs}} {
		if f.v != nil && (*f.v < 1 || *f.v > 1<<30) {
			errs = append(errs, fmt.Errorf("%s%s is %d, want 1 or more, or nothing", where, f.name, *f.v))
		}
	}
	if strings.ContainsFunc(l.Account, func(r rune) bool { return r <= ' ' }) {
		errs = append(errs, fmt.Errorf("%saccount is %q, want a name without blanks", where, l.Account))
	}
	return errs
}

func seconds(n *int) time.Duration {
	if n == nil {
		return 0
	}
	return time.Duration(*n) * time.Second
}

func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

const (
	kindMachine = "machine"
	kindBatch   = "batch"
)

// LoadConfiguration reads and validates a configuration.
func LoadConfiguration(path string) (*SiteConfiguration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfiguration(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfiguration validates a configuration. The error has a line for each fault:
// the field, its value, the rule.
func ParseConfiguration(text []byte) (*SiteConfiguration, error) {
	var file struct {
		Executors struct {
			Defaults Limits                    `yaml:"defaults"`
			Machine  map[string]ExecutorConfig `yaml:"machine"`
			Batch    map[string]ExecutorConfig `yaml:"batch"`
		} `yaml:"executors"`
	}
	if err := strict(text, &file); err != nil {
		return nil, err
	}
	errs := file.Executors.Defaults.validate("executors.defaults.")
	c := &SiteConfiguration{Executors: map[string]ExecutorConfig{}}
	for _, section := range []struct {
		kind string
		all  map[string]ExecutorConfig
	}{{kindMachine, file.Executors.Machine}, {kindBatch, file.Executors.Batch}} {
		for _, name := range slices.Sorted(maps.Keys(section.all)) {
			e := section.all[name]
			e.kind = section.kind
			where := "executors." + section.kind + "." + name
			if !validName.MatchString(name) {
				errs = append(errs, fmt.Errorf("%s: the name is %q, want letters, digits, - and _", where, name))
			}
			errs = append(errs, e.validate(where+".")...)
			e.Limits = e.over(file.Executors.Defaults)
			c.Executors[section.kind+"."+name] = e
		}
	}
	if len(c.Executors) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("executors has none, want at least one in executors.machine or executors.batch"))
	}
	return c, errors.Join(errs...)
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// validate checks one executor and fills in what it does not say.
func (e *ExecutorConfig) validate(where string) []error {
	errs := e.Limits.validate(where)
	wrong := func(field string, v any, rule string) {
		errs = append(errs, fmt.Errorf("%s%s is %v, want %s", where, field, v, rule))
	}
	if e.Shell == "" {
		e.Shell = "sh"
	}
	if strings.ContainsFunc(e.Shell, func(r rune) bool { return r <= ' ' }) {
		wrong("shell", fmt.Sprintf("%q", e.Shell), "the name or path of a shell")
	}
	if strings.ContainsRune(e.BeforeScript, 0) {
		wrong("before_script", "binary", "a shell script")
	}
	if kind, is := e.Labels["kind"]; is && kind != e.kind {
		wrong("labels.kind", kind, e.kind+", which it is")
	}
	foreign := func(name string) {
		errs = append(errs, fmt.Errorf("%s%s is set, want nothing: it is not a field of %s executors", where, name, e.kind))
	}
	switch e.kind {
	case kindMachine:
		if e.Machines == 0 {
			e.Machines = 1
		}
		if e.Memory == 0 {
			e.Memory = 192
		}
		if e.Machines < 1 || e.Machines > 1000 {
			wrong("machines", e.Machines, "1 to 1000")
		}
		if e.Ready < 0 || e.Ready > e.Machines {
			wrong("ready", e.Ready, fmt.Sprintf("0 to machines (%d)", e.Machines))
		}
		if e.Memory < 64 {
			wrong("memory", e.Memory, "64 or more (MiB)")
		}
		if e.Slots != 0 {
			foreign("slots")
		}
		if e.Socket != "" {
			foreign("socket")
		}
	case kindBatch:
		if (e.Slots == 0) == (e.Socket == "") {
			wrong("slots", fmt.Sprintf("%d and socket %q", e.Slots, e.Socket), "exactly one of the two")
		}
		if e.Slots < 0 {
			wrong("slots", e.Slots, "1 or more")
		}
		if e.Socket != "" && !filepath.IsAbs(e.Socket) {
			wrong("socket", fmt.Sprintf("%q", e.Socket), "an absolute path")
		}
		for _, f := range []struct {
			name string
			v    int
		}{{"machines", e.Machines}, {"ready", e.Ready}, {"memory", e.Memory}} {
			if f.v != 0 {
				foreign(f.name)
			}
		}
	}
	return errs
}

// unknownField is how the YAML library says it.
var unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found in type \S+`)

// strict reads one YAML document that has no other fields than v.
func strict(text []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	err := d.Decode(v)
	var typed *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case errors.As(err, &typed):
		var errs []error
		for _, line := range typed.Errors {
			errs = append(errs, errors.New(unknownField.ReplaceAllString(line, "line $1: $2 is not a field that is known here")))
		}
		return errors.Join(errs...)
	case err != nil:
		return err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document in it")
	}
	return nil
}
