package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"

	"github.com/bullpen-vm/bullpen/examples/pyti/pypi"
)

// request is what a master asks for: the JSON of the original.
type request struct {
	Project  string   // project_name
	Version  string   // project_version; empty: the newest
	Recipe   string   // recipe_identifier: a file of commands below recipes/ in the root
	Platform string   // platform_identifier
	Variants []string // platform_variants; nil: one run
}

// mostVariants bounds the runs of one request.
const mostVariants = 100

// parseRequest reads a request; the error names key, value and rule.
func parseRequest(text []byte) (request, error) {
	var raw struct {
		Project  *string         `json:"project_name"`
		Version  *string         `json:"project_version"`
		Recipe   *string         `json:"recipe_identifier"`
		Platform *string         `json:"platform_identifier"`
		Variants json.RawMessage `json:"platform_variants"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&raw)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something stands behind the object")
		}
	}
	if err != nil {
		return request{}, notJSON(text, err)
	}
	var r request
	for _, field := range []struct {
		key   string
		from  *string
		to    *string
		check func(string) bool
		rule  string
	}{
		{"project_name", raw.Project, &r.Project, pypi.ValidName, "a project's name: letters and digits, with . _ - between them"},
		{"recipe_identifier", raw.Recipe, &r.Recipe, goodRecipe, "the path of a file below recipes/ in the root, without .."},
		{"platform_identifier", raw.Platform, &r.Platform, goodLabel.MatchString, "a platform's name: letters, digits and . _ -"},
	} {
		if field.from == nil {
			return request{}, fmt.Errorf("%s is missing, want %s", field.key, field.rule)
		}
		if *field.to = *field.from; !field.check(*field.to) {
			return request{}, fmt.Errorf("%s is %q, want %s", field.key, *field.to, field.rule)
		}
	}
	if raw.Version != nil && *raw.Version != "" && *raw.Version != "none" {
		if r.Version = *raw.Version; len(r.Version) > 200 {
			return request{}, errors.New("project_version is too long, want at most 200 bytes")
		}
		if _, err := pep440.Parse(r.Version); err != nil {
			return request{}, fmt.Errorf("project_version is %q, want one of PEP 440, or null for the newest", r.Version)
		}
	}
	r.Variants, err = parseVariants(raw.Variants)
	return r, err
}

func parseVariants(raw json.RawMessage) ([]string, error) {
	const rule = "null for one run, or a list of different names for one run of each"
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var all []string
	if err := json.Unmarshal(raw, &all); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("platform_variants is %s, want %s", shorten(string(raw)), rule)
	}
	if len(all) > mostVariants {
		return nil, fmt.Errorf("platform_variants has %d entries, want at most %d", len(all), mostVariants)
	}
	seen := map[string]bool{}
	for _, v := range all {
		if seen[v] || !goodLabel.MatchString(v) {
			return nil, fmt.Errorf("platform_variants has %q, want %s", v, rule)
		}
		seen[v] = true
	}
	return all, nil
}

var pythonWord = regexp.MustCompile(`^(Null|NULL|None|nil|True|False|undefined)\b`)

// notJSON explains a text that is not JSON. Null, as the original's manual has it,
// is neither JSON nor Python.
func notJSON(text []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return fmt.Errorf("the request is not the JSON that is wanted: %w", err)
	}
	at := max(0, min(int(syntax.Offset)-1, len(text)))
	line := 1 + bytes.Count(text[:at], []byte("\n"))
	// "Nu" is where a decoder that has begun to read null stumbles at the latest.
	for from := at; from >= max(0, at-2); from-- {
		word := pythonWord.Find(text[from:])
		if word == nil {
			continue
		}
		key := "line " + fmt.Sprint(line)
		if m := regexp.MustCompile(`"([^"]*)"\s*:\s*$`).FindSubmatch(text[:from]); m != nil {
			key = fmt.Sprintf("%s (line %d)", m[1], line)
		}
		write := "null"
		if word[0] == 'T' || word[0] == 'F' {
			write = strings.ToLower(string(word))
		}
		return fmt.Errorf("%s is %s, which is not JSON: write %s", key, word, write)
	}
	return fmt.Errorf("the request is not JSON, line %d: %w", line, err)
}

// shorten is for values in errors.
func shorten(text string) string {
	if len(text) > 60 {
		return strings.ToValidUTF8(text[:57], "") + "..."
	}
	return text
}
