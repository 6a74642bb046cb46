package main

import (
	"encoding/base64"
	"os"
	"time"
	"unicode/utf8"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/examples/pyti/pypi"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
)

// record is what comes of a request: the original's dict. In Python it is what
// json.load gives.
type record struct {
	Ticket   string `json:"ticket"` // of the queue, or of this run
	Project  string `json:"project_name"`
	Version  string `json:"project_version"` // the one that was tested
	Recipe   string `json:"recipe_identifier"`
	Platform string `json:"platform_identifier"`
	// Status is the worst of the runs, or errored.
	Status   result.Status `json:"status"`
	Message  string        `json:"message,omitempty"`
	ExitCode int           `json:"exit_code"` // 0: all passed, 1: failed, 2: nothing can be said
	Slave    string        `json:"slave,omitempty"`
	// Attempt is above one when slaves died over the request.
	Attempt int       `json:"attempt,omitempty"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Distributions are what was brought, the project first.
	Distributions []distRecord `json:"distributions"`
	Runs          []runRecord  `json:"runs"` // one of each variant
}

type distRecord struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	File    string   `json:"file"`
	SHA256  string   `json:"sha256"`
	For     []string `json:"for,omitempty"` // who depends on it
}

// runRecord is one run of the recipe, on one machine.
type runRecord struct {
	Variant  *string         `json:"platform_variant"` // null: no variant was asked for
	Status   result.Status   `json:"status"`
	Message  string          `json:"message,omitempty"`
	Machine  string          `json:"machine,omitempty"`
	Host     string          `json:"host,omitempty"`
	Template string          `json:"template,omitempty"`
	Seconds  float64         `json:"seconds"`
	Attempts []attemptRecord `json:"attempts"`
	Commands []commandRecord `json:"commands"`
	// Files are what the recipe put below $BULLPEN_OUT on the IO disk, by path.
	Files map[string]fileRecord `json:"files"`
}

type attemptRecord struct {
	Machine string        `json:"machine"`
	Status  result.Status `json:"status"`
	Message string        `json:"message,omitempty"`
	Seconds float64       `json:"seconds"`
}

type commandRecord struct {
	Command string `json:"command"`
	// State is passed, failed, timed out, skipped or cut short.
	State   string  `json:"state"`
	Exit    int     `json:"exit"` // -1: none
	Signal  string  `json:"signal,omitempty"`
	Error   string  `json:"error,omitempty"`
	Stdout  string  `json:"stdout"`
	Stderr  string  `json:"stderr"`
	Cut     int64   `json:"bytes_cut,omitempty"` // of both together, in the middle
	Seconds float64 `json:"seconds"`
}

type fileRecord struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
	Path   string `json:"path,omitempty"` // on this computer
	// Text or Base64 is the content, of files up to mostInline bytes.
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

// mostInline is how large a file may be to stand in the record itself, in bytes.
const mostInline = 64 << 10

func distRecords(dists []pypi.Dist) (all []distRecord) {
	for _, d := range dists {
		all = append(all, distRecord{d.Name, d.Version.String(), d.Filename, d.SHA256, d.For})
	}
	return all
}

// newRun makes the record of a variant's outcome.
func newRun(variant *string, steps []diskio.Step, o runner.Outcome) runRecord {
	c := runner.Cases(o)[0]
	r := runRecord{
		Variant: variant, Status: c.Status, Message: c.Message, Machine: c.Machine(), Host: o.Result.Host, Template: o.Result.Template,
		Seconds: o.Result.Duration.Seconds(), Commands: []commandRecord{}, Files: map[string]fileRecord{}, Attempts: []attemptRecord{},
	}
	for _, a := range c.Attempts {
		if a.Machine != "" {
			r.Attempts = append(r.Attempts, attemptRecord{a.Machine, a.Status, a.Message, a.Took().Seconds()})
		}
	}
	for i, s := range o.Result.Steps {
		r.Commands = append(r.Commands, newCommand(steps[i], s))
	}
	for _, a := range o.Result.Artifacts {
		r.Files[a.Path] = newFile(a)
	}
	return r
}

func newCommand(step diskio.Step, s diskio.StepResult) commandRecord {
	c := commandRecord{
		Command: step.Argv[len(step.Argv)-1], Exit: s.Exit, Signal: s.Signal, Error: s.Error, Stdout: string(s.Stdout), Stderr: string(s.Stderr),
		Cut: s.StdoutCut + s.StderrCut, Seconds: s.Duration.Seconds(),
	}
	switch {
	case s.Skipped || !s.Started:
		c.State, c.Exit = "skipped", -1
	case !s.Ended:
		c.State, c.Exit = "cut short", -1
	case s.TimedOut:
		c.State = "timed out"
	case s.OK():
		c.State = "passed"
	default:
		c.State = "failed"
	}
	return c
}

func newFile(a result.Artifact) fileRecord {
	f := fileRecord{Size: a.Size, Digest: a.Digest, Path: a.File}
	if a.File == "" || a.Size > mostInline {
		return f
	}
	content, err := os.ReadFile(a.File)
	if err != nil || int64(len(content)) != a.Size {
		return f // the path and the digest still stand
	}
	if utf8.Valid(content) {
		text := string(content)
		f.Text = &text
	} else {
		text := base64.StdEncoding.EncodeToString(content)
		f.Base64 = &text
	}
	return f
}
