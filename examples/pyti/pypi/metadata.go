package pypi

import (
	"fmt"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
)

// MostMetadata bounds what is read of a METADATA or PKG-INFO file, in bytes.
const MostMetadata = 4 << 20

// Metadata is what a distribution says of itself.
type Metadata struct {
	Name           string // as it is written
	Version        pep440.Version
	RequiresPython Specifiers
	Requires       []Requirement
}

// ParseMetadata reads the header of a METADATA or PKG-INFO file; the description
// in its body is left alone. Name and Version are required.
func ParseMetadata(text []byte) (Metadata, error) {
	if len(text) > MostMetadata {
		return Metadata{}, fmt.Errorf("metadata has %d bytes, want at most %d", len(text), MostMetadata)
	}
	var m Metadata
	version := ""
	for _, field := range headerFields(string(text)) {
		var err error
		switch strings.ToLower(field[0]) {
		case "name":
			m.Name = field[1]
		case "version":
			version = field[1]
		case "requires-python":
			m.RequiresPython, err = ParseSpecifiers(field[1])
		case "requires-dist":
			var r Requirement
			r, err = ParseRequirement(field[1])
			m.Requires = append(m.Requires, r)
		}
		if err != nil {
			return Metadata{}, fmt.Errorf("metadata: %s: %w", field[0], err)
		}
	}
	if !ValidName(m.Name) {
		return Metadata{}, fmt.Errorf("metadata: Name is %q, want letters, digits and . - _ between them", m.Name)
	}
	var err error
	if m.Version, err = pep440.Parse(version); err != nil {
		return Metadata{}, fmt.Errorf("metadata: Version is %q, want one of PEP 440: %w", version, err)
	}
	return m, nil
}

// headerFields gives names and values up to the first empty line, folded lines
// joined.
func headerFields(text string) (fields [][2]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			if n := len(fields); n > 0 {
				fields[n-1][1] += " " + strings.TrimSpace(line)
			}
			continue
		}
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields = append(fields, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	return fields
}

// parseEggRequires reads the requires.txt of older source distributions:
// requirements, below [extra:marker] in sections.
func parseEggRequires(text string) (all []Requirement, err error) {
	condition := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case line[0] == '[':
			extra, marker, _ := strings.Cut(strings.Trim(line, "[]"), ":")
			condition = ""
			if extra != "" {
				condition = fmt.Sprintf("extra == %q", extra)
			}
			if marker != "" {
				condition = strings.TrimPrefix(condition+" and ("+marker+")", " and ")
			}
			continue
		}
		if condition != "" {
			line += "; " + condition
		}
		r, err := ParseRequirement(line)
		if err != nil {
			return nil, fmt.Errorf("requires.txt: %w", err)
		}
		all = append(all, r)
	}
	return all, nil
}
