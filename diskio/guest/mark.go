package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// dirty says what the mark says, or empty on a clean machine.
func (a *Agent) dirty() string {
	if a.c.Mark == "" {
		return ""
	}
	b, err := os.ReadFile(a.c.Mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return "the mark cannot be read: " + err.Error()
	}
	text := strings.TrimSpace(string(b[:min(len(b), 256)]))
	if text == "" {
		text = "marked without a reason"
	}
	return strings.ToValidUTF8(text, "?")
}

// soil counts a job, command or copy, and puts the mark down, durably, before
// the first of this boot does anything.
func (a *Agent) soil() error {
	a.mu.Lock()
	a.seen++
	a.mu.Unlock()
	if a.c.Mark == "" {
		return nil
	}
	a.marking.Lock() // others wait until the mark is down
	defer a.marking.Unlock()
	if a.marked {
		return nil
	}
	text := fmt.Sprintf("used since %s by boot %s\n", time.Now().UTC().Format(time.RFC3339), a.boot)
	if err := writeMark(a.c.Mark, text); err != nil {
		return fmt.Errorf("the machine cannot be marked as used: %w", err)
	}
	a.marked = true
	return nil
}

func writeMark(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
