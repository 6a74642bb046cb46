package bullpen_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The tests in rules*_test.go hold what ARCHITECTURE.md and CONTRIBUTING.md ask
// of the source: who imports whom, what is required, how files look. They read
// the source only, and the tracked files only, where git says which those are.

const modulePath = "github.com/bullpen-vm/bullpen"

// source is one Go file of the root module or of a module below it.
type source struct {
	path   string // with slashes, from the root
	dir    string // its folder: the package's path below modulePath, "." at the root
	text   []byte
	file   *ast.File
	set    *token.FileSet
	nested bool // it belongs to a module of its own
}

func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// production are the files that others compile into their programs.
func (s *source) production() bool { return !s.test() && !s.nested && s.file.Name.Name != "main" }

// imports gives the paths that the file imports.
func (s *source) imports() []string {
	var paths []string
	for _, i := range s.file.Imports {
		paths = append(paths, strings.Trim(i.Path.Value, `"`))
	}
	return paths
}

// tracked gives the paths of all files of the project.
var tracked = sync.OnceValues(func() ([]string, error) {
	if out, err := exec.Command("git", "ls-files", "-z", "--cached").Output(); err == nil && len(out) > 0 {
		var there []string
		for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
			if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() {
				there = append(there, name)
			}
		}
		return there, nil
	}
	var all []string // an unpacked archive, or a copy in a module cache
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			all = append(all, name)
		}
		return err
	})
	return all, err
})

// sources parses all Go files but those in testdata.
var sources = sync.OnceValues(func() ([]*source, error) {
	names, err := tracked()
	if err != nil {
		return nil, err
	}
	var modules []string
	for _, name := range names {
		if path.Base(name) == "go.mod" && name != "go.mod" {
			modules = append(modules, path.Dir(name)+"/")
		}
	}
	var all []*source
	for _, name := range names {
		if !strings.HasSuffix(name, ".go") || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		s := &source{path: name, dir: path.Dir(name), set: token.NewFileSet()}
		s.nested = slices.ContainsFunc(modules, func(m string) bool { return strings.HasPrefix(name, m) })
		if s.text, err = os.ReadFile(filepath.FromSlash(name)); err != nil {
			return nil, err
		}
		if s.file, err = parser.ParseFile(s.set, name, s.text, parser.ParseComments); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
})

func allSources(t *testing.T) []*source {
	t.Helper()
	all, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found: the rules would hold of nothing", len(all))
	}
	return all
}

// parse makes a source of a text.
func parse(t *testing.T, text string) *source {
	t.Helper()
	s := &source{path: "p.go", dir: "p", text: []byte(text), set: token.NewFileSet()}
	var err error
	if s.file, err = parser.ParseFile(s.set, s.path, s.text, parser.ParseComments); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFilesAreFormatted(t *testing.T) {
	t.Parallel()
	for _, s := range allSources(t) {
		want, err := format.Source(s.text)
		if err != nil {
			t.Errorf("%s: %v", s.path, err)
		} else if !bytes.Equal(want, s.text) {
			t.Errorf("%s is not as gofmt writes it: gofmt -w %s", s.path, s.path)
		}
	}
}

const mostLines = 400 // the aim is 50 to 350

func TestFilesAreOfOneSubject(t *testing.T) {
	t.Parallel()
	refused := []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "base"}
	for _, s := range allSources(t) {
		if lines := bytes.Count(s.text, []byte("\n")); !s.test() && lines > mostLines {
			t.Errorf("%s has %d lines, want at most %d (aim at 50 to 350): split it by subject", s.path, lines, mostLines)
		}
		stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(s.path), ".go"), "_test")
		for _, part := range append(strings.Split(stem, "_"), strings.Split(s.dir, "/")...) {
			if slices.Contains(refused, part) {
				t.Errorf("%s: %q says nothing about what is inside", s.path, part)
			}
		}
	}
}

func TestEachPackageSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	documented, library, seen := map[string]string{}, map[string]bool{}, map[string]bool{}
	for _, s := range allSources(t) {
		if s.test() {
			continue
		}
		seen[s.dir] = true
		library[s.dir] = library[s.dir] || s.file.Name.Name != "main"
		if s.file.Doc == nil || strings.TrimSpace(s.file.Doc.Text()) == "" {
			continue
		}
		if other := documented[s.dir]; other != "" {
			t.Errorf("%s and %s both have a package comment", other, s.path)
		}
		documented[s.dir] = s.path
		if name := s.file.Name.Name; name != "main" && !strings.HasPrefix(s.file.Doc.Text(), "Package "+name+" ") {
			t.Errorf("%s: the package comment does not start with %q", s.path, "Package "+name)
		}
	}
	for dir := range seen {
		switch doc := documented[dir]; {
		case doc == "":
			t.Errorf("%s: no package comment", dir)
		case library[dir] && path.Base(doc) != "doc.go":
			t.Errorf("%s: the package comment belongs into doc.go", doc)
		}
	}
}

var foreignPath = regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:,])/(?:work|farm|tmp/bp|home/[a-z]+)/\S*`)

func TestForeignPathsAreTold(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"see /wo" + "rk/main/x.go": true, `"/fa` + `rm/a"`: true, "cd /home/joe/src": true, "(/tmp/bp/x)": true,
		"the guest's /in/app.deb": false, "a/wo" + "rk/b": false, "$BULLPEN_WORK/x": false, "/tmp/bullpen-1000/x": false, "rework/": false,
	} {
		if got := foreignPath.MatchString(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// Paths of the machine that something was written on mean nothing to others.
func TestNoFileNamesAPathOfOneMachine(t *testing.T) {
	t.Parallel()
	names, err := tracked()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "rules_files_test.go" || bytes.IndexByte(text[:min(len(text), 8000)], 0) >= 0 {
			continue
		}
		for i, line := range strings.Split(string(text), "\n") {
			if found := foreignPath.FindString(line); found != "" {
				t.Errorf("%s:%d names %s", name, i+1, strings.TrimSpace(found))
			}
		}
	}
}
