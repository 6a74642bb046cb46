package result

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"
)

// Output is what a test wrote: all of it, or its head and tail with a said
// number of bytes cut out between them.
type Output struct {
	Head, Tail []byte
	Cut        int64 // bytes that are missing between Head and Tail
}

// Empty reports whether nothing was written at all.
func (o Output) Empty() bool { return len(o.Head) == 0 && len(o.Tail) == 0 && o.Cut == 0 }

// Size is how many bytes were written, those that were cut included.
func (o Output) Size() int64 { return int64(len(o.Head)) + o.Cut + int64(len(o.Tail)) }

// String is the output as text: where something was cut, a line of its own says
// how much, and a rune that the cut went through counts as cut.
func (o Output) String() string {
	if o.Cut == 0 {
		return string(o.Head) + string(o.Tail)
	}
	head, tail := wholeHead(o.Head), wholeTail(o.Tail)
	cut := o.Size() - int64(len(head)) - int64(len(tail))
	var b bytes.Buffer
	b.Write(head)
	if len(head) > 0 && head[len(head)-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "[... %d bytes cut ...]\n", cut)
	b.Write(tail)
	return b.String()
}

// wholeHead drops an incomplete rune at the end.
func wholeHead(p []byte) []byte {
	for i := 1; i <= utf8.UTFMax && i <= len(p); i++ {
		if at := len(p) - i; utf8.RuneStart(p[at]) {
			if !utf8.FullRune(p[at:]) {
				return p[:at]
			}
			break
		}
	}
	return p
}

// wholeTail drops the rest of a rune at the start.
func wholeTail(p []byte) []byte {
	for i := 0; i < utf8.UTFMax && i < len(p); i++ {
		if utf8.RuneStart(p[i]) {
			return p[i:]
		}
	}
	return p
}

// DefaultHead and DefaultTail are how many bytes an OutputWriter keeps of each
// end when it is not told.
const (
	DefaultHead = 64 << 10
	DefaultTail = 64 << 10
)

// OutputWriter keeps the head and the tail of what is written to it in bounded
// memory. The zero value is ready, with the default bounds; it must not be
// copied after its first use. It is safe for concurrent use, each Write being
// kept together. Writes never fail.
type OutputWriter struct {
	// Head and Tail are bounds in bytes, set before the first Write; zero: the
	// defaults, negative: nothing is kept of that end.
	Head, Tail int

	mu    sync.Mutex
	head  []byte
	tail  []byte // a ring once it has grown to its bound
	at    int    // where the oldest byte of a full ring is
	total int64
}

// Write takes p; it never fails.
func (w *OutputWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	w.total += int64(n)
	if room := bound(w.Head, DefaultHead) - len(w.head); room > 0 {
		take := min(room, len(p))
		w.head = append(w.head, p[:take]...)
		p = p[take:]
	}
	limit := bound(w.Tail, DefaultTail)
	if len(p) >= limit {
		w.tail, w.at = append(w.tail[:0], p[len(p)-limit:]...), 0
		return n, nil
	}
	if room := limit - len(w.tail); room > 0 {
		take := min(room, len(p))
		w.tail = append(w.tail, p[:take]...)
		p = p[take:]
	}
	for len(p) > 0 {
		k := copy(w.tail[w.at:], p)
		w.at = (w.at + k) % limit
		p = p[k:]
	}
	return n, nil
}

// Output is what has been written so far, in memory of its own.
func (w *OutputWriter) Output() Output {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := Output{Head: slices.Clone(w.head)}
	if len(w.tail) > 0 {
		o.Tail = slices.Concat(w.tail[w.at:], w.tail[:w.at])
	}
	o.Cut = w.total - int64(len(o.Head)) - int64(len(o.Tail))
	return o
}

func bound(n, fallback int) int {
	switch {
	case n == 0:
		return fallback
	case n < 0:
		return 0
	}
	return n
}
