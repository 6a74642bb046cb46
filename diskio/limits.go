package diskio

import (
	"fmt"
	"math"
	"time"
)

// Limits bound what Extract takes. Zero fields mean the defaults, negative ones
// no limit.
type Limits struct {
	Bytes     int64         // of all files together, holes counted; 16 GiB
	FileBytes int64         // of one file; 16 GiB
	Files     int           // files, folders and links together; 1,000,000
	Depth     int           // elements of a path; 256
	Name      int           // bytes of one element; 255
	Time      time.Duration // 10 minutes
	// Symlinks makes symbolic links that stay inside of the folder whatever
	// other links there are: relative, with ".." only in front, and not more
	// of them than the link is deep. Others, and all without it, are refused.
	Symlinks bool
}

// Defaults of Limits.
const (
	DefaultExtractBytes = 16 << 30
	DefaultExtractFiles = 1_000_000
	DefaultExtractDepth = 256
	DefaultExtractTime  = 10 * time.Minute
)

func (l Limits) orDefault() Limits {
	l.Bytes = limit(l.Bytes, DefaultExtractBytes, math.MaxInt64)
	l.FileBytes = limit(l.FileBytes, DefaultExtractBytes, math.MaxInt64)
	l.Files = limit(l.Files, DefaultExtractFiles, math.MaxInt)
	l.Depth = limit(l.Depth, DefaultExtractDepth, math.MaxInt)
	l.Name = limit(l.Name, 255, math.MaxInt)
	l.Time = limit(l.Time, DefaultExtractTime, math.MaxInt64)
	return l
}

func limit[T int | int64 | time.Duration](v, unset, none T) T {
	switch {
	case v == 0:
		return unset
	case v < 0:
		return none
	}
	return v
}

// Report says what Extract did.
type Report struct {
	Files, Folders, Links int   // that were made
	Bytes                 int64 // in the files, holes counted
	// Refused is what was left out on purpose, the first 1,000 of it;
	// RefusedMore counts the others.
	Refused     []Refusal
	RefusedMore int
}

// Refusal is a path that was left out, and why.
type Refusal struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// String is the path and the reason, harmless on a terminal.
func (r Refusal) String() string { return printable(r.Path) + ": " + r.Reason }

const maxRefusals = 1000

func (r *Report) refuse(name, format string, args ...any) {
	if len(r.Refused) >= maxRefusals {
		r.RefusedMore++
		return
	}
	r.Refused = append(r.Refused, Refusal{name, fmt.Sprintf(format, args...)})
}
