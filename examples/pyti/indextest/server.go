package indextest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Server is a package index over HTTP, of pages (PEP 503) at /simple/ and JSON (PEP
// 691) at /json/. It is safe for concurrent use.
type Server struct {
	*httptest.Server

	mu    sync.Mutex
	files []served
	hits  map[string]int
	fail  map[string][]int // statuses to answer with first, by path
}

type served struct {
	name, project, python string
	hash                  string // algorithm=digest; empty: none
	content               []byte
	yanked                bool
}

// Serve starts an index that ends with the test.
func Serve(t testing.TB) *Server {
	s := &Server{hits: map[string]int{}, fail: map[string][]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// HTML and JSON are the locations of the two kinds of index.
func (s *Server) HTML() string { return s.URL + "/simple/" }

// JSON is the location of the same as JSON.
func (s *Server) JSON() string { return s.URL + "/json/" }

// Option changes how a file is listed.
type Option func(*served)

// Yanked lists a file as withdrawn.
func Yanked(f *served) { f.yanked = true }

// Unhashed lists a file without a digest.
func Unhashed(f *served) { f.hash = "" }

// Hash lists a file with another digest than it has.
func Hash(text string) Option { return func(f *served) { f.hash = text } }

// Python lists a file with a condition on Python.
func Python(spec string) Option { return func(f *served) { f.python = spec } }

// Add serves wheels.
func (s *Server) Add(all ...Dist) {
	for _, d := range all {
		name, content := d.Wheel()
		s.AddFile(d.Name, name, content)
	}
}

// AddFile serves one file of a project.
func (s *Server) AddFile(project, name string, content []byte, options ...Option) {
	sum := sha256.Sum256(content)
	f := served{name: name, project: normal(project), content: content, hash: "sha256=" + hex.EncodeToString(sum[:])}
	for _, o := range options {
		o(&f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, f)
}

func normal(name string) string {
	return strings.ToLower(regexp.MustCompile(`[-_.]+`).ReplaceAllString(name, "-"))
}

// Fail has the next answers for a path be these statuses.
func (s *Server) Fail(path string, statuses ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[path] = statuses
}

// Hits is how often a path was asked for.
func (s *Server) Hits(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[path]
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[r.URL.Path]++
	if codes := s.fail[r.URL.Path]; len(codes) > 0 {
		s.fail[r.URL.Path] = codes[1:]
		http.Error(w, "as the test wants it", codes[0])
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 2 {
		http.NotFound(w, r)
		return
	}
	var some []served
	for _, f := range s.files {
		if parts[0] == "files" && f.name == parts[1] {
			_, _ = w.Write(f.content) // a client that has gone away
			return
		}
		if f.project == parts[1] {
			some = append(some, f)
		}
	}
	switch {
	case parts[0] == "simple" && some != nil:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!DOCTYPE html><html><head><title>Links</title></head><body><h1>Links</h1>\n")
		for _, f := range some {
			attr := ""
			if f.python != "" {
				attr += fmt.Sprintf(` data-requires-python="%s"`, html.EscapeString(f.python))
			}
			if f.yanked {
				attr += ` data-yanked="bad"`
			}
			fragment := ""
			if f.hash != "" {
				fragment = "#" + f.hash
			}
			fmt.Fprintf(w, "<a href=\"../../files/%s%s\"%s>%[1]s</a><br/>\n", f.name, fragment, attr)
		}
		fmt.Fprintln(w, "</body></html>")
	case parts[0] == "json" && some != nil:
		w.Header().Set("Content-Type", "application/vnd.pypi.simple.v1+json")
		files := []map[string]any{}
		for _, f := range some {
			entry := map[string]any{"filename": f.name, "url": "/files/" + f.name, "hashes": map[string]string{}, "yanked": f.yanked}
			if algorithm, digest, ok := strings.Cut(f.hash, "="); ok {
				entry["hashes"] = map[string]string{algorithm: digest}
			}
			if f.python != "" {
				entry["requires-python"] = f.python
			}
			files = append(files, entry)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"meta": map[string]string{"api-version": "1.1"}, "name": parts[1], "files": files})
	default:
		http.NotFound(w, r)
	}
}
