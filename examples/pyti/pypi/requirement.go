package pypi

import (
	"fmt"
	"regexp"
	"strings"
)

// Requirement is what a distribution wants of another (PEP 508).
type Requirement struct {
	Name   string   // normalised
	Extras []string // normalised
	Specs  Specifiers
	Marker Marker // the zero Marker always holds
	Text   string // as it was written
}

var requirementHead = regexp.MustCompile(`^\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[([^\]]*)\])?\s*`)

// ParseRequirement reads `name[extra] >=1; python_version < "3.8"`. A direct
// reference (name @ URL) is refused: what is installed comes from the index.
func ParseRequirement(text string) (Requirement, error) {
	wrong := func(why string, a ...any) (Requirement, error) {
		return Requirement{}, fmt.Errorf("requirement is %q, %s", text, fmt.Sprintf(why, a...))
	}
	if len(text) > 10_000 {
		return Requirement{}, fmt.Errorf("requirement has %d bytes, want at most 10000", len(text))
	}
	m := requirementHead.FindStringSubmatch(text)
	if m == nil || !ValidName(m[1]) {
		return wrong("want a project's name first")
	}
	r := Requirement{Name: Normalize(m[1]), Text: strings.TrimSpace(text)}
	for extra := range strings.SplitSeq(m[2], ",") {
		if extra = strings.TrimSpace(extra); extra == "" {
			continue
		}
		if !ValidName(extra) {
			return wrong("its extra %q is not a name", extra)
		}
		r.Extras = append(r.Extras, Normalize(extra))
	}
	specs, marker, _ := strings.Cut(text[len(m[0]):], ";")
	specs = strings.TrimSpace(specs)
	if strings.HasPrefix(specs, "@") {
		return wrong("a direct reference; want a project of the index")
	}
	if inner, ok := strings.CutPrefix(specs, "("); ok {
		if specs, ok = strings.CutSuffix(inner, ")"); !ok {
			return wrong("its parenthesis is not closed")
		}
	}
	var err error
	if r.Specs, err = ParseSpecifiers(specs); err != nil {
		return wrong("%v", err)
	}
	if strings.TrimSpace(marker) != "" {
		if r.Marker, err = ParseMarker(marker); err != nil {
			return wrong("%v", err)
		}
	}
	return r, nil
}
