package main

import (
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// relativePaths gives what string literals of a package's tests name above their
// folder, such as "../printer/nodes.go", as paths on the host, sorted, so that a
// folder comes in front of what is in it.
func relativePaths(dir string) ([]string, error) {
	tests, err := filepath.Glob(filepath.Join(quoteGlob(dir), "*_test.go"))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, test := range tests {
		text, err := os.ReadFile(test)
		if err != nil {
			return nil, err
		}
		for _, s := range literals(text) {
			if (s == ".." || strings.HasPrefix(s, "../")) && len(s) < 1000 && strings.IndexByte(s, 0) < 0 {
				found = append(found, filepath.Join(dir, filepath.FromSlash(s)))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// literals gives the string literals of a Go file, as far as it is one.
func literals(text []byte) (found []string) {
	files := token.NewFileSet()
	var s scanner.Scanner
	s.Init(files.AddFile("", files.Base(), len(text)), text, func(token.Position, string) {}, 0)
	for {
		switch _, kind, lit := s.Scan(); kind {
		case token.EOF:
			return found
		case token.STRING:
			if v, err := strconv.Unquote(lit); err == nil {
				found = append(found, v)
			}
		}
	}
}

// quoteGlob makes a pattern that matches only the name.
func quoteGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}
