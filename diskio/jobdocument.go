package diskio

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// jobDocument is the JSON text on the job disk that says what is to be done.
type jobDocument struct {
	Version int       `json:"version"`
	Head    int       `json:"output_head"` // bytes kept of each stream's begin
	Tail    int       `json:"output_tail"` // and of its end
	Parts   []JobPart `json:"parts"`
}

// JobPart is a Part as a guest sees it. Durations are in nanoseconds in the
// document.
type JobPart struct {
	ID      string            `json:"id"`
	Steps   []JobStep         `json:"steps"`
	Files   []JobFile         `json:"files,omitempty"`
	Inputs  []JobInput        `json:"inputs,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Before  string            `json:"before,omitempty"`
	Collect []string          `json:"collect,omitempty"`
	Timeout time.Duration     `json:"timeout,omitempty"`
}

// JobStep is a Step as a guest sees it.
type JobStep struct {
	Name    string            `json:"name"`
	Argv    []string          `json:"argv"`
	Env     map[string]string `json:"env,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Before  string            `json:"before,omitempty"`
	Timeout time.Duration     `json:"timeout,omitempty"`
	Always  bool              `json:"always,omitempty"`
}

// JobFile is a carried file: where its bytes are on the job disk, and their
// digest.
type JobFile struct {
	Path   string      `json:"path"`
	Mode   fs.FileMode `json:"mode"`
	Offset int64       `json:"offset"`
	Size   int64       `json:"size"`
	Digest string      `json:"digest"`
}

// JobInput names an input that a part wants.
type JobInput struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// newDocument makes the document of parts. Offsets, sizes and digests of
// carried files are filled in by the caller.
func newDocument(parts []Part, head, tail int, digest func(*Image) (string, error)) (*jobDocument, error) {
	d := &jobDocument{Version: jobVersion, Head: head, Tail: tail, Parts: make([]JobPart, len(parts))}
	for i, p := range parts {
		j := p.Job
		part := JobPart{ID: p.ID, Env: j.Env, Before: j.Before, Collect: j.Collect, Timeout: j.Timeout}
		for _, s := range j.Steps {
			part.Steps = append(part.Steps, JobStep{
				Name: stepName(s), Argv: s.Argv, Env: s.Env, Dir: s.Dir,
				Before: s.Before, Timeout: s.Timeout, Always: s.Always,
			})
		}
		for _, f := range j.Files {
			mode := f.Mode
			if mode == 0 {
				mode = 0o644
			}
			part.Files = append(part.Files, JobFile{Path: f.Path, Mode: mode})
		}
		for _, in := range j.Inputs {
			sum, err := digest(in.Image)
			if err != nil {
				return nil, fmt.Errorf("part %q: input %q: %w", p.ID, in.Name, err)
			}
			part.Inputs = append(part.Inputs, JobInput{Name: in.Name, Digest: sum})
		}
		d.Parts[i] = part
	}
	return d, nil
}

// stepName is the step's name, or its command line shortened to 80 characters.
func stepName(s Step) string {
	name := s.Name
	if name == "" {
		name = strings.Join(s.Argv, " ")
	}
	if r := []rune(name); s.Name == "" && len(r) > 80 {
		name = string(r[:79]) + "…"
	}
	return name
}

func (d *jobDocument) encode() ([]byte, error) {
	b, err := json.Marshal(d)
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%w: the job document is %d bytes, want at most %d", ErrLimit, len(b), maxDocument)
	}
	return b, err
}

// decodeDocument reads a document by the rules that WriteJob holds to, so that
// what a guest does never depends on a value that was not checked.
func decodeDocument(b []byte, s jobSuper) (*jobDocument, error) {
	var d jobDocument
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("%w: job document: %w", ErrCorrupt, err)
	}
	if d.Version != jobVersion {
		return nil, fmt.Errorf("%w: job document of version %d, this is %d", ErrUnsupported, d.Version, jobVersion)
	}
	if d.Head < 0 || d.Tail < 0 || d.Head > jobMaxOutput || d.Tail > jobMaxOutput {
		return nil, fmt.Errorf("%w: job document: output bounds are %d and %d", ErrCorrupt, d.Head, d.Tail)
	}
	parts := make([]Part, len(d.Parts))
	for i, p := range d.Parts {
		j := Job{Env: p.Env, Before: p.Before, Collect: p.Collect, Timeout: p.Timeout}
		for _, st := range p.Steps {
			j.Steps = append(j.Steps, Step{Name: st.Name, Argv: st.Argv, Env: st.Env, Dir: st.Dir, Before: st.Before, Timeout: st.Timeout})
		}
		for k, f := range p.Files {
			j.Files = append(j.Files, File{Path: f.Path, Mode: f.Mode})
			if f.Offset < s.filesOff || f.Size < 0 || f.Size > s.filesLen || f.Offset > s.filesOff+s.filesLen-f.Size {
				return nil, fmt.Errorf("%w: job document: part %q: Files[%d] %q lies outside the carried files", ErrCorrupt, p.ID, k, f.Path)
			}
		}
		names := map[string]bool{}
		for k, in := range p.Inputs {
			if rule := elementRule(in.Name); rule != "" || names[in.Name] {
				return nil, fmt.Errorf("%w: job document: part %q: Inputs[%d].Name is %q", ErrCorrupt, p.ID, k, in.Name)
			}
			names[in.Name] = true
		}
		parts[i] = Part{ID: p.ID, Job: j}
	}
	if err := checkParts(parts); err != nil {
		return nil, fmt.Errorf("%w: job document: %w", ErrCorrupt, err)
	}
	return &d, nil
}
