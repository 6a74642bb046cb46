package diskio

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of what a job may say. They keep the job document small and every
// name usable in a guest.
const (
	maxPathLength = 4000    // bytes, below PATH_MAX with the work folder in front
	maxNameLength = 255     // bytes of one path element
	maxIDLength   = 1024    // bytes of a part's ID
	maxSize       = 1 << 50 // bytes of anything
	maxSteps      = 100_000 // in all parts of a job disk
	maxFiles      = 1_000_000
)

// reservedEnv are the variables that the agent sets itself.
var reservedEnv = [...]string{"BULLPEN_WORK", "BULLPEN_IN", "BULLPEN_OUT", "BULLPEN_TASK", "BULLPEN_COOKIE"}

// ValidateJob tells the first thing that is wrong with a job: the error names
// the field, its value and the rule. It reads no files.
func ValidateJob(j Job) error {
	if err := checkJob(&j); err != nil {
		return &OpError{Op: "validate job", Err: err}
	}
	return nil
}

// ValidateParts is ValidateJob for a batch; its error names the part too.
func ValidateParts(parts []Part) error {
	if err := checkParts(parts); err != nil {
		return &OpError{Op: "validate job", Err: err}
	}
	return nil
}

func checkParts(parts []Part) error {
	if len(parts) == 0 {
		return fmt.Errorf("parts is empty, want at least one")
	}
	seen := make(map[string]int, len(parts))
	steps, files := 0, 0
	for i := range parts {
		id := parts[i].ID
		switch {
		case id == "":
			return fmt.Errorf("parts[%d].ID is empty, want the task's id", i)
		case len(id) > maxIDLength:
			return fmt.Errorf("parts[%d].ID is %d bytes, want at most %d", i, len(id), maxIDLength)
		case !plainText(id):
			return fmt.Errorf("parts[%d].ID is %q, want UTF-8 without NUL", i, id)
		}
		if first, ok := seen[id]; ok {
			return fmt.Errorf("parts[%d].ID is %q, as parts[%d].ID already is; want each id once", i, id, first)
		}
		seen[id] = i
		if err := checkJob(&parts[i].Job); err != nil {
			return fmt.Errorf("part %q: %w", id, err)
		}
		steps += len(parts[i].Job.Steps)
		files += len(parts[i].Job.Files)
	}
	if steps > maxSteps {
		return fmt.Errorf("%w: %d steps in all parts, want at most %d", ErrLimit, steps, maxSteps)
	}
	if files > maxFiles {
		return fmt.Errorf("%w: %d Files in all parts, want at most %d", ErrLimit, files, maxFiles)
	}
	return nil
}

func checkJob(j *Job) error {
	if len(j.Steps) == 0 {
		return fmt.Errorf("Steps is empty, want at least one")
	}
	for i := range j.Steps {
		if err := checkStep(&j.Steps[i]); err != nil {
			return fmt.Errorf("Steps[%d]%w", i, err)
		}
	}
	if err := checkFiles(j.Files); err != nil {
		return err
	}
	inputs := make(map[string]int, len(j.Inputs))
	for i, in := range j.Inputs {
		if rule := elementRule(in.Name); rule != "" {
			return fmt.Errorf("Inputs[%d].Name is %q, want %s", i, in.Name, rule)
		}
		if first, ok := inputs[in.Name]; ok {
			return fmt.Errorf("Inputs[%d].Name is %q, as Inputs[%d].Name already is; want each name once", i, in.Name, first)
		}
		inputs[in.Name] = i
		if in.Image == nil {
			return fmt.Errorf("Inputs[%d].Image of %q is nil, want an image", i, in.Name)
		}
	}
	if err := checkEnv(j.Env); err != nil {
		return err
	}
	if !plainText(j.Before) {
		return fmt.Errorf("Before is not UTF-8 text without NUL")
	}
	collect := make(map[string]int, len(j.Collect))
	for i, name := range j.Collect {
		if rule := pathRule(name, true); rule != "" {
			return fmt.Errorf("Collect[%d] is %q, want %s", i, name, rule)
		}
		if first, ok := collect[name]; ok {
			return fmt.Errorf("Collect[%d] is %q, as Collect[%d] already is; want each once", i, name, first)
		}
		collect[name] = i
	}
	if j.Timeout < 0 {
		return fmt.Errorf("Timeout is %v, want 0 for none or more", j.Timeout)
	}
	if j.Results < 0 || j.Results > maxSize {
		return fmt.Errorf("Results is %d, want 0 for the default, up to %d bytes", j.Results, int64(maxSize))
	}
	return nil
}

// checkStep's errors begin with what follows "Steps[i]".
func checkStep(s *Step) error {
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return fmt.Errorf(".Argv is %q, want at least the program's name", s.Argv)
	}
	for i, a := range s.Argv {
		if !plainText(a) {
			return fmt.Errorf(".Argv[%d] is %q, want UTF-8 without NUL", i, a)
		}
	}
	if !plainText(s.Name) {
		return fmt.Errorf(".Name is %q, want UTF-8 without NUL", s.Name)
	}
	if s.Dir != "" {
		if rule := pathRule(s.Dir, true); rule != "" {
			return fmt.Errorf(".Dir is %q, want %s", s.Dir, rule)
		}
	}
	if err := checkEnv(s.Env); err != nil {
		return fmt.Errorf(".%w", err)
	}
	if !plainText(s.Before) {
		return fmt.Errorf(".Before is not UTF-8 text without NUL")
	}
	if s.Timeout < 0 {
		return fmt.Errorf(".Timeout is %v, want 0 for none or more", s.Timeout)
	}
	return nil
}

func checkFiles(files []File) error {
	at := make(map[string]int, len(files))
	for i, f := range files {
		if rule := pathRule(f.Path, false); rule != "" {
			return fmt.Errorf("Files[%d].Path is %q, want %s", i, f.Path, rule)
		}
		if first, ok := at[f.Path]; ok {
			return fmt.Errorf("Files[%d].Path is %q, as Files[%d].Path already is; want each path once", i, f.Path, first)
		}
		at[f.Path] = i
		if f.Mode&^fs.ModePerm != 0 {
			return fmt.Errorf("Files[%d].Mode of %q is %v, want permission bits only", i, f.Path, f.Mode)
		}
	}
	for i, f := range files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if first, ok := at[dir]; ok {
				return fmt.Errorf("Files[%d].Path is %q, but Files[%d] makes %q a file; want it to be a folder or absent",
					i, f.Path, first, dir)
			}
		}
	}
	return nil
}

func checkEnv(env map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if !envKey(k) {
			return fmt.Errorf("Env has the key %q, want [A-Za-z_][A-Za-z0-9_]*", k)
		}
		if slices.Contains(reservedEnv[:], k) {
			return fmt.Errorf("Env has the key %q, want none of those the agent sets: %s", k, strings.Join(reservedEnv[:], ", "))
		}
		if !plainText(env[k]) {
			return fmt.Errorf("Env[%q] is %q, want UTF-8 without NUL", k, env[k])
		}
	}
	return nil
}

func envKey(k string) bool {
	for i, c := range []byte(k) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return k != ""
}

// plainText tells that s can pass through JSON, argv and the environment
// without a change.
func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// pathRule gives the rule that a slash-separated relative path breaks, or "".
func pathRule(p string, dot bool) string {
	switch {
	case strings.HasPrefix(p, "/"):
		return "a relative path"
	case !fs.ValidPath(p):
		return "a clean path with slashes that stays inside (no empty, . or .. elements, UTF-8)"
	case p == "." && !dot:
		return "the path of a file"
	case strings.ContainsRune(p, 0):
		return "a path without NUL"
	case len(p) > maxPathLength:
		return fmt.Sprintf("at most %d bytes", maxPathLength)
	}
	for e := range strings.SplitSeq(p, "/") {
		if len(e) > maxNameLength {
			return fmt.Sprintf("elements of at most %d bytes", maxNameLength)
		}
	}
	return ""
}

// elementRule is pathRule for a name of one element.
func elementRule(name string) string {
	if strings.Contains(name, "/") || name == "" || name == "." || name == ".." {
		return "one path element"
	}
	return pathRule(name, false)
}
