package main

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// terminal is where messages go: whole lines, from several goroutines.
type terminal struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

func newTerminal(w io.Writer) *terminal {
	t := &terminal{w: w}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			t.color = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return t
}

// println is a line sink: what dumpPoolInfo and others take.
func (t *terminal) println(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}

// The colors of messages.
const (
	green  = "\x1b[32m"
	purple = "\x1b[35m"
	plain  = "\x1b[0m"
)

// message prints what a worker, or the master, has to say, behind its name.
func (t *terminal) message(who, color, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if t.color && color != "" {
		text = color + text + plain
	}
	t.println("(%s) %s", who, text)
}
