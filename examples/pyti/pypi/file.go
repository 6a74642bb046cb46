package pypi

import (
	"fmt"
	"strconv"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
)

// Kind says how a distribution is packed.
type Kind string

// The kinds that are taken.
const (
	Wheel Kind = "wheel"
	Sdist Kind = "source"
)

// File is what a distribution file's name says.
type File struct {
	Kind    Kind
	Version pep440.Version
	tags    []string // of a wheel: py3-none-any
}

// ParseFilename reads the name of a wheel (PEP 427) or of a source distribution
// (.tar.gz) of a project.
func ParseFilename(project, filename string) (File, error) {
	project = Normalize(project)
	wrong := func(rule string) (File, error) {
		return File{}, fmt.Errorf("file of %s is called %q, want %s", project, filename, rule)
	}
	if filename != strings.TrimLeft(filename, ".") || strings.ContainsAny(filename, "/\\\x00") || len(filename) > 255 {
		return wrong("one element of a path")
	}
	if stem, ok := strings.CutSuffix(filename, ".whl"); ok {
		parts := strings.Split(stem, "-")
		if len(parts) != 5 && len(parts) != 6 || Normalize(parts[0]) != project {
			return wrong(project + "-version(-build)-python-abi-platform.whl")
		}
		v, err := pep440.Parse(strings.ReplaceAll(parts[1], "_", "-"))
		if err != nil {
			return wrong("a version of PEP 440")
		}
		f := File{Kind: Wheel, Version: v}
		last := parts[len(parts)-3:]
		for py := range strings.SplitSeq(last[0], ".") {
			for abi := range strings.SplitSeq(last[1], ".") {
				for platform := range strings.SplitSeq(last[2], ".") {
					f.tags = append(f.tags, py+"-"+abi+"-"+platform)
				}
			}
		}
		return f, nil
	}
	stem, ok := strings.CutSuffix(filename, ".tar.gz")
	if !ok {
		return wrong(".whl or .tar.gz")
	}
	// Both parts may have dashes: the name is the one that is asked for.
	for at := range stem {
		if stem[at] == '-' && Normalize(stem[:at]) == project {
			if v, err := pep440.Parse(stem[at+1:]); err == nil {
				return File{Kind: Sdist, Version: v}, nil
			}
		}
	}
	return wrong(project + "-version.tar.gz")
}

// Runs reports whether the file is for a Python such as "3.11" on whatever
// machine: source, or a wheel with the tag py3-none-any, pyXY-none-any with an XY
// that is not newer, or cpXY-none-any of just this one (PEP 425).
func (f File) Runs(python string) bool {
	if f.Kind == Sdist {
		return true
	}
	major, minor := pythonNumbers(python)
	for _, tag := range f.tags {
		py, ok := strings.CutSuffix(tag, "-none-any")
		if !ok || len(py) < 3 {
			continue
		}
		if py[2:] == strconv.Itoa(major) && py[:2] == "py" {
			return true
		}
		if py[2:3] != strconv.Itoa(major) {
			continue
		}
		n, err := strconv.Atoi(py[3:])
		if err == nil && (py[:2] == "py" && n <= minor || py[:2] == "cp" && n == minor) {
			return true
		}
	}
	return false
}

func pythonNumbers(python string) (major, minor int) {
	parts := strings.SplitN(python, ".", 3)
	major, _ = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}
