package diskio

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// What can be wrong with a disk or with what is put on one, to be tested with
// errors.Is. They come wrapped in an *OpError that names the place.
var (
	// ErrCorrupt: what is on the disk is damaged, cut off or a forgery.
	ErrCorrupt = ext4.ErrCorrupt
	// ErrLimit: more than the caller allowed.
	ErrLimit = ext4.ErrLimit
	// ErrUnsupported: sound as far as seen, but of a kind that this package
	// does not read or write. It is errors.ErrUnsupported too.
	ErrUnsupported = ext4.ErrUnsupported
	// ErrChanged: a file or folder changed while it was packed.
	ErrChanged = errors.New("changed while it was packed")
)

// OpError is the error of the operations of this package. Its text is
// "diskio: <op> <name>: <place>: <err>", without the parts that are empty.
type OpError struct {
	Op    string // "pack", "open", "read", "extract", "cache", ...
	Name  string // the file or folder concerned, or the path of the disk
	Place string // where on the disk or in its structures: "inode 12, block 77"
	Err   error
}

// Error says what was tried, where, and what was wrong.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("diskio: ")
	b.WriteString(e.Op)
	if e.Name != "" {
		b.WriteString(" ")
		b.WriteString(printable(e.Name))
	}
	if e.Place != "" {
		b.WriteString(": ")
		b.WriteString(e.Place)
	}
	b.WriteString(": ")
	if e.Err == nil {
		b.WriteString("unknown error")
	} else {
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// printable makes a name harmless in a terminal or a log: names on a disk are
// chosen by whoever wrote it.
func printable(name string) string {
	const most = 300
	cut := ""
	if len(name) > most {
		name, cut = name[:most], "..."
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || r >= 0x80 && r < 0xa0 {
			return strings.Trim(fmt.Sprintf("%q", name), `"`) + cut
		}
	}
	return name + cut
}
