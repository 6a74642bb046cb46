package diskio

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Tree is what goes into an image: folders laid over each other, and single
// files. Folders that meet are joined; any other name that comes up twice is an
// error. The zero value is an empty image.
type Tree struct {
	Roots []Root
	Files []File
}

// Folder is a Tree of all that is in a folder of the host.
func Folder(dir string) Tree { return Tree{Roots: []Root{{Dir: dir}}} }

// Root is one source of a Tree: a folder of the host or an fs.FS, exactly one
// of them.
//
// What is read from a folder of the host never leaves it: symbolic links are
// packed as links, and are not followed. Hard links stay hard links, and holes
// stay holes, where the host's file system says so. An fs.FS is used by one
// goroutine at a time.
type Root struct {
	Dir string
	FS  fs.FS
	// At is the folder in the image that this goes into; empty: the top.
	At string
	// Only and Skip choose what is packed, Skip having the last word. They
	// are patterns as of path.Match, against the path below the root, or, if
	// they have no slash, against the last element; "**" as an element stands
	// for any number of elements. What matches is meant with all below it.
	// An empty Only means everything.
	Only, Skip []string
	// Rename, if set, gives the path of each file and folder in the image,
	// below At, from its path below the root, both with slashes. An empty
	// answer leaves it out, but not what is below it. Folders that are needed
	// are made.
	Rename func(name string) string
}

// DefaultTime is the time that files have in an image, and that it says it was
// made at, where PackOptions do not say otherwise. (It is not 1970, since zip
// files, and those who make them, know nothing before 1980.)
var DefaultTime = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// PackOptions are for Pack and Cache.Pack. Nil means the zero value.
type PackOptions struct {
	// Preserve keeps owners, all mode bits and modification times, and packs
	// devices, pipes and sockets too. Otherwise everything belongs to root,
	// has mode 0755 or, if nobody may execute it, 0644, has Time, and what is
	// not a file, folder or symbolic link is an error. Extended attributes
	// are never kept.
	Preserve bool
	// Time is that of all files, and of the file system; zero: DefaultTime.
	Time time.Time
	// Label is the file system's, at most 16 bytes.
	Label string
	// Free is room in bytes, and FreeFiles the number of inodes, for those who
	// mount the image to write to it. An image has no journal.
	Free      int64
	FreeFiles int64
}

func (o *PackOptions) orDefault() PackOptions {
	var full PackOptions
	if o != nil {
		full = *o
	}
	if full.Time.IsZero() {
		full.Time = DefaultTime
	}
	return full
}

// check says what is wrong with the options, as field, value and rule.
func (o *PackOptions) check() error {
	const most = 1 << 50
	switch {
	case len(o.Label) > 16:
		return fmt.Errorf("PackOptions.Label has %d bytes, want at most 16", len(o.Label))
	case o.Free < 0 || o.Free > most:
		return fmt.Errorf("PackOptions.Free is %d, want 0 to %d", o.Free, int64(most))
	case o.FreeFiles < 0 || o.FreeFiles > 1<<31:
		return fmt.Errorf("PackOptions.FreeFiles is %d, want 0 to %d", o.FreeFiles, int64(1<<31))
	}
	return nil
}

// check says what is wrong with a tree before anything is read.
func (t *Tree) check() error {
	for i, r := range t.Roots {
		switch {
		case r.Dir == "" && r.FS == nil:
			return fmt.Errorf("Tree.Roots[%d] has neither Dir nor FS, want one", i)
		case r.Dir != "" && r.FS != nil:
			return fmt.Errorf("Tree.Roots[%d] has both Dir (%s) and FS, want one", i, r.Dir)
		}
		if r.At != "" {
			if err := checkPath(r.At); err != nil {
				return fmt.Errorf("Tree.Roots[%d].At is %q: %w", i, r.At, err)
			}
		}
		for _, pattern := range append(append([]string(nil), r.Only...), r.Skip...) {
			if err := checkPattern(pattern); err != nil {
				return fmt.Errorf("Tree.Roots[%d]: pattern %q: %w", i, pattern, err)
			}
		}
	}
	for i, f := range t.Files {
		if err := checkPath(f.Path); err != nil {
			return fmt.Errorf("Tree.Files[%d].Path is %q: %w", i, f.Path, err)
		}
		if f.Path == "." {
			return fmt.Errorf("Tree.Files[%d].Path is \".\", want the path of a file", i)
		}
		if f.Mode&^fs.ModePerm != 0 {
			return fmt.Errorf("Tree.Files[%d].Mode is %v, want permission bits only", i, f.Mode)
		}
	}
	return nil
}

// checkPath takes relative paths with slashes and nothing to resolve in them.
func checkPath(name string) error {
	switch {
	case name == "":
		return errors.New("want a path, got none")
	case strings.HasPrefix(name, "/"):
		return errors.New("want a relative path")
	case name == ".":
		return nil
	case path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		return errors.New("want a path without empty elements, \".\" and \"..\"")
	case strings.IndexByte(name, 0) >= 0:
		return errors.New("has a zero byte")
	}
	for element := range strings.SplitSeq(name, "/") {
		if len(element) > 255 {
			return fmt.Errorf("element has %d bytes, want at most 255", len(element))
		}
	}
	return nil
}

func checkPattern(pattern string) error {
	if pattern == "" || strings.HasPrefix(pattern, "/") {
		return errors.New("want a relative pattern")
	}
	_, err := path.Match(pattern, "")
	return err
}

// packs tells whether a path below the root, or something below it, may be
// wanted, and whether the path itself is.
func (r *Root) packs(name string, dir bool) (enter, keep bool) {
	for _, pattern := range r.Skip {
		if matchPattern(pattern, name) {
			return false, false
		}
	}
	if len(r.Only) == 0 {
		return true, true
	}
	for at := name; ; {
		for _, pattern := range r.Only {
			if matchPattern(pattern, at) {
				return true, true
			}
		}
		slash := strings.LastIndexByte(at, '/')
		if slash < 0 {
			return dir, false
		}
		at = at[:slash]
	}
}

// matchPattern matches a path, or its last element, with a pattern.
func matchPattern(pattern, name string) bool {
	if !strings.Contains(pattern, "/") && pattern != "**" {
		ok, _ := path.Match(pattern, path.Base(name))
		return ok
	}
	return matchElements(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchElements(pattern, name []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := 0; i <= len(name); i++ {
				if matchElements(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		if len(name) == 0 {
			return false
		}
		if ok, _ := path.Match(pattern[0], name[0]); !ok {
			return false
		}
		pattern, name = pattern[1:], name[1:]
	}
	return len(name) == 0
}
