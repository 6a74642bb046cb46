package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// State is where a builder stands.
type State string

// The states. Complete ones have a return code, and so a result.
const (
	StateWaiting   State = "WAITING" // for other builders
	StatePending   State = "PENDING"
	StateSuspended State = "SUSPENDED"
	StateRunning   State = "RUNNING"
	StateComplete  State = "COMPLETE"
	StateTimeout   State = "TIMEOUT"
	StateFailed    State = "FAILED"    // the environment failed
	StateCancelled State = "CANCELLED" // pending for too long, or the run ended
	StateSkipped   State = "SKIPPED"   // its needs were not met
)

// Builder is one test of a buildspec. BuildExecutor.Run writes down here how it went;
// until Run is back, only Options.Done may look at these fields.
type Builder struct {
	Name        string
	Description string
	Executor    string // by name
	Script      string // what the executor's shell runs
	Wants       map[string]string
	Needs       []Need
	Timeout     time.Duration // zero: the executor's

	State      State
	Result     string // PASS or FAIL, where it is complete or ran out of time
	ReturnCode int    // -1: none
	Cause      string // why it has no return code
	Where      string // the machine, or the batch job
	Attempts   int
	Output     string // both streams, shortened
	Stage      string // the folder with its script and output
	Duration   time.Duration
}

// String names the builder and how it stands.
func (b *Builder) String() string {
	text := fmt.Sprintf("%s on %s: %s", b.Name, b.Executor, b.State)
	if b.Result != "" {
		text += fmt.Sprintf(" %s (%d)", b.Result, b.ReturnCode)
	}
	return text
}

// Need is a condition on another builder: that it has ended, or that and how.
type Need struct {
	Builder string
	// State is PASS, FAIL or nothing.
	State string
	// ReturnCodes that are right; empty: any.
	ReturnCodes []int
}

// CheckState makes of a needed state what the scheduler holds it to: PASS is a
// builder that passed, FAIL one that failed or ran out of its time.
func CheckState(state string) ([]string, error) {
	switch state {
	case "":
		return nil, nil
	case "PASS":
		return []string{scheduler.Passed}, nil
	case "FAIL":
		return []string{scheduler.Failed, scheduler.TimedOut}, nil
	}
	return nil, fmt.Errorf("state is %q, want PASS or FAIL", state)
}

// CheckReturnCode does so for the needed return codes.
func CheckReturnCode(codes []int) ([]int, error) {
	for _, c := range codes {
		if c < 0 || c > 255 {
			return nil, fmt.Errorf("returncode is %d, want 0 to 255", c)
		}
	}
	return codes, nil
}

// dependency is the scheduler's form of a need.
func (n Need) dependency() (scheduler.Dependency, error) {
	statuses, err := CheckState(n.State)
	if err != nil {
		return scheduler.Dependency{}, err
	}
	exits, err := CheckReturnCode(n.ReturnCodes)
	if err != nil {
		return scheduler.Dependency{}, err
	}
	return scheduler.Dependency{Task: n.Builder, Statuses: statuses, Exits: exits, Ended: statuses == nil && len(exits) == 0}, nil
}

// UnmarshalYAML reads "name", or {name: {state: PASS, returncode: [0, 2]}}.
func (n *Need) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&n.Builder)
	}
	type how struct {
		State      string    `yaml:"state"`
		ReturnCode yaml.Node `yaml:"returncode"`
	}
	var by map[string]yaml.Node
	if err := node.Decode(&by); err != nil {
		return err
	}
	if len(by) != 1 {
		return fmt.Errorf("line %d: a need has %d builders, want one", node.Line, len(by))
	}
	for name, value := range by {
		text, err := yaml.Marshal(&value) // for the decoder that knows its fields
		if err != nil {
			return err
		}
		var h how
		if err := strict(text, &h); err != nil {
			return fmt.Errorf("line %d: needs %s: %w", node.Line, name, err)
		}
		n.Builder, n.State = name, h.State
		switch h.ReturnCode.Kind {
		case 0:
		case yaml.SequenceNode:
			err = h.ReturnCode.Decode(&n.ReturnCodes)
		default:
			n.ReturnCodes = []int{0}
			err = h.ReturnCode.Decode(&n.ReturnCodes[0])
		}
		if err != nil {
			return fmt.Errorf("line %d: needs %s: returncode: %w", node.Line, name, err)
		}
	}
	return nil
}

// LoadBuilders reads buildspecs: the builders of all files, by name in each.
func LoadBuilders(paths ...string) (all []*Builder, err error) {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		builders, err := ParseBuilders(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, builders...)
	}
	return all, nil
}

// ParseBuilders reads one buildspec. The error has a line for each fault. Whether the
// executors, and the builders that are needed, exist is seen when they are run.
func ParseBuilders(text []byte) ([]*Builder, error) {
	var file struct {
		Buildspecs map[string]struct {
			Executor    string            `yaml:"executor"`
			Type        string            `yaml:"type"`
			Description string            `yaml:"description"`
			Run         string            `yaml:"run"`
			Wants       map[string]string `yaml:"wants"`
			Needs       []Need            `yaml:"needs"`
			Timeout     *int              `yaml:"timeout"`
		} `yaml:"buildspecs"`
	}
	if err := strict(text, &file); err != nil {
		return nil, err
	}
	var all []*Builder
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(file.Buildspecs)) {
		s := file.Buildspecs[name]
		wrong := func(field string, v any, rule string) {
			errs = append(errs, fmt.Errorf("buildspecs.%s.%s is %v, want %s", name, field, v, rule))
		}
		if !validName.MatchString(name) {
			errs = append(errs, fmt.Errorf("buildspecs: the name is %q, want letters, digits, - and _", name))
		}
		if s.Type != "" && s.Type != "script" {
			wrong("type", fmt.Sprintf("%q", s.Type), "script")
		}
		if s.Executor == "" {
			wrong("executor", "missing", "the name of an executor")
		}
		if strings.TrimSpace(s.Run) == "" || strings.ContainsRune(s.Run, 0) {
			wrong("run", "empty or binary", "a shell script")
		}
		if s.Timeout != nil && *s.Timeout < 1 {
			wrong("timeout", *s.Timeout, "1 or more, or nothing")
		}
		for _, n := range s.Needs {
			if _, err := n.dependency(); err != nil {
				errs = append(errs, fmt.Errorf("buildspecs.%s.needs.%s: %w", name, n.Builder, err))
			}
		}
		all = append(all, &Builder{Name: name, Description: s.Description, Executor: s.Executor, Script: s.Run, Wants: s.Wants,
			Needs: s.Needs, Timeout: seconds(s.Timeout), State: StateWaiting, ReturnCode: -1})
	}
	if len(all) == 0 {
		errs = append(errs, errors.New("buildspecs has none, want at least one"))
	}
	return all, errors.Join(errs...)
}
