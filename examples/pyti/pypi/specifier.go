package pypi

import (
	"fmt"
	"regexp"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
)

// Specifiers are conditions on a version that must all hold; none allows all.
type Specifiers []clause

type clause struct {
	op, version string
	check       pep440.Specifiers // not of ===
}

var clauseForm = regexp.MustCompile(`^(===|==|~=|!=|<=|>=|<|>)\s*(\S+)$`)

// ParseSpecifiers reads ">=1.0, !=1.3.*". The operators are those of PEP 440.
func ParseSpecifiers(text string) (Specifiers, error) {
	var all Specifiers
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue // a comma at the end is common
		}
		m := clauseForm.FindStringSubmatch(part)
		if m == nil || strings.Contains(part, "|") {
			return nil, fmt.Errorf("version specifier is %q, want an operator (== != <= >= < > ~= ===) and a version", part)
		}
		c := clause{op: m[1], version: m[2]}
		if c.op != "===" {
			var err error
			// Pre-releases are for Allows to judge, not for each clause.
			if c.check, err = pep440.NewSpecifiers(c.op+c.version, pep440.WithPreRelease(true)); err != nil {
				return nil, fmt.Errorf("version specifier is %q: %w", part, err)
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// Exactly is the demand for one version.
func Exactly(v pep440.Version) Specifiers {
	s, err := ParseSpecifiers("==" + v.String())
	if err != nil { // a version that was parsed
		panic(fmt.Sprintf("bug: pypi: %v", err))
	}
	return s
}

// Allows reports whether the version meets all conditions, whether or not it is
// a pre-release.
func (s Specifiers) Allows(v pep440.Version) bool {
	for _, c := range s {
		if c.op == "===" {
			if !strings.EqualFold(c.version, v.Original()) {
				return false
			}
		} else if !c.check.Check(v) {
			return false
		}
	}
	return true
}

// AsksForPre reports whether a condition names a pre-release, and so allows them.
func (s Specifiers) AsksForPre() bool {
	for _, c := range s {
		v, err := pep440.Parse(strings.TrimSuffix(c.version, ".*"))
		if err == nil && c.op != "!=" && v.IsPreRelease() {
			return true
		}
	}
	return false
}

// pins reports whether exactly one version is asked for (PEP 592).
func (s Specifiers) pins() bool {
	for _, c := range s {
		if c.op == "===" || c.op == "==" && !strings.HasSuffix(c.version, ".*") {
			return true
		}
	}
	return false
}

// String is the conditions with commas between them.
func (s Specifiers) String() string {
	parts := make([]string, len(s))
	for i, c := range s {
		parts[i] = c.op + c.version
	}
	return strings.Join(parts, ",")
}
