package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bullpen-vm/bullpen/diskio"
)

const (
	recipesFolder = "recipes"
	mostRecipe    = 256 << 10 // bytes
)

func goodRecipe(id string) bool {
	return id != "" && len(id) <= 200 && filepath.IsLocal(id) && !strings.ContainsRune(id, 0)
}

// readRecipe gives the commands of a recipe: one a line, run by /bin/sh one after
// the other until one fails. Lines that begin with # and empty ones do not count; a
// backslash at the end joins the next line.
func readRecipe(root, id string) ([]diskio.Step, error) {
	dir, err := os.OpenRoot(filepath.Join(root, recipesFolder))
	if err != nil {
		return nil, fmt.Errorf("recipe_identifier is %q: %w", id, err)
	}
	defer dir.Close()
	f, err := dir.Open(id) // no link leads out
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recipe_identifier is %q, want a file below %s", id, filepath.Join(root, recipesFolder))
	}
	if err != nil {
		return nil, fmt.Errorf("recipe_identifier is %q: %w", id, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostRecipe+1))
	if err != nil {
		return nil, fmt.Errorf("recipe_identifier is %q: %w", id, err)
	}
	if len(text) > mostRecipe {
		return nil, fmt.Errorf("recipe %s has more than %d bytes", id, mostRecipe)
	}
	lines := commands(string(text))
	if len(lines) == 0 {
		return nil, fmt.Errorf("recipe %s has no commands", id)
	}
	return diskio.Commands(lines...), nil
}

func commands(text string) (all []string) {
	open := "" // begun by a line that ended with a backslash
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if trimmed := strings.TrimSpace(line); open == "" && (trimmed == "" || trimmed[0] == '#') {
			continue
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			open += rest
			continue
		}
		all, open = append(all, strings.TrimSpace(open+line)), ""
	}
	if open = strings.TrimSpace(open); open != "" {
		all = append(all, open)
	}
	return all
}
