package result

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Defaults of HistoryConfig.
const (
	DefaultPerTest      = 20
	DefaultHistoryBytes = 8 << 20
)

// HistoryConfig says where a history is and how much it keeps.
type HistoryConfig struct {
	// Path is the file; its folder must exist, the file need not. Required.
	Path string
	// PerTest is how many of its latest records are kept of one test; zero:
	// DefaultPerTest.
	PerTest int
	// MostBytes bounds the file: an Add that leaves it larger compacts it, to
	// at most half of that, dropping the tests that were not seen for longest.
	// Zero: DefaultHistoryBytes.
	MostBytes int64
	// Logger is told of damage and of compactions; nil: discarded.
	Logger *slog.Logger
}

// History keeps verdicts and durations of tests from run to run in one
// append-only file, for estimates and for flakiness. Any number of processes may
// add at the same time: each Add is a single append, each line carries a
// checksum, and compaction is made under a lock. Damaged lines are skipped and
// counted. It is safe for concurrent use; there is nothing to close.
type History struct {
	path      string
	perTest   int
	mostBytes int64
	logger    *slog.Logger

	mu      sync.Mutex
	tests   map[identity][]Past // oldest first
	damaged int
}

// Past is one attempt that history knows of.
type Past struct {
	Status   Status // Passed, Failed or TimedOut
	Start    time.Time
	Duration time.Duration
	Machine  string
	Flaky    bool // its run had both a pass and a failure of this test
}

// OpenHistory reads the file. That it does not exist yet is no error; that it
// cannot be read is, and damage in it is not: see Damaged.
func OpenHistory(c HistoryConfig) (*History, error) {
	switch {
	case c.Path == "":
		return nil, errors.New("result: HistoryConfig.Path is empty, want the path of a file")
	case c.PerTest < 0:
		return nil, fmt.Errorf("result: HistoryConfig.PerTest is %d, want 0 or more", c.PerTest)
	case c.MostBytes < 0:
		return nil, fmt.Errorf("result: HistoryConfig.MostBytes is %d, want 0 or more", c.MostBytes)
	}
	h := &History{path: c.Path, perTest: c.PerTest, mostBytes: c.MostBytes, logger: c.Logger}
	if h.perTest == 0 {
		h.perTest = DefaultPerTest
	}
	if h.mostBytes == 0 {
		h.mostBytes = DefaultHistoryBytes
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	return h, h.Refresh()
}

// Refresh reads the file anew, with what other processes have added since.
func (h *History) Refresh() error {
	text, err := os.ReadFile(h.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("result: history: %w", err)
	}
	tests, damaged := parseHistory(text, h.perTest)
	if damaged > 0 {
		h.logger.Warn("history has damaged lines; they were skipped", "path", h.path, "lines", damaged)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tests, h.damaged = tests, damaged
	return nil
}

// Damaged is how many lines the last reading of the file skipped, because they
// were torn, changed or of a newer version.
func (h *History) Damaged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.damaged
}

// Add appends the attempts of the cases that say something about the test
// itself: passed, failed and timed out. It makes one write, under a shared lock
// on the file that it waits for until ctx ends. After an error some of the cases
// may be in the file. The write is not synced: a power cut may lose the last
// runs, never more.
func (h *History) Add(ctx context.Context, cases ...Case) error {
	var text []byte
	type news struct {
		key  identity
		past Past
	}
	var all []news
	for _, c := range cases {
		c := normal(c)
		for _, p := range pasts(&c) {
			all = append(all, news{identity{c.Suite, c.Name}, p})
			text = appendRecord(text, c.Suite, c.Name, p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	size, err := h.append(ctx, text)
	if err != nil {
		return fmt.Errorf("result: history: %w", err)
	}
	h.mu.Lock()
	for _, n := range all {
		h.tests[n.key] = trim(append(h.tests[n.key], n.past), h.perTest)
	}
	h.mu.Unlock()
	if size > h.mostBytes {
		return h.Compact(ctx)
	}
	return nil
}

// pasts gives what a case adds to history: an attempt without a time of its own
// has the case's, if it is the one that decided.
func pasts(c *Case) []Past {
	var list []Past
	last := -1
	for _, a := range c.Attempts {
		if !a.Status.Own() {
			continue
		}
		if a.Status == c.Status {
			last = len(list)
		}
		list = append(list, Past{Status: a.Status, Start: a.Start, Duration: a.Took(), Machine: a.Machine, Flaky: c.Flaky})
	}
	if last >= 0 {
		p := &list[last]
		if c.Duration != 0 {
			p.Duration = c.Duration
		}
		if p.Start.IsZero() {
			p.Start = c.Start
		}
	}
	return list
}

// Past gives what is known of a test, oldest first.
func (h *History) Past(suite, name string) []Past {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.tests[identity{suite, name}])
}

// Len is the number of tests that history knows.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.tests)
}

// append writes text at the end of the file and returns the file's size.
func (h *History) append(ctx context.Context, text []byte) (size int64, err error) {
	f, err := h.locked(ctx, syscall.LOCK_SH)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// A writer that died may have left half a line: it ends here, so that it
	// spoils no other.
	if n := info.Size(); n > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], n-1); err != nil {
			return 0, err
		}
		if last[0] != '\n' {
			text = append([]byte{'\n'}, text...)
		}
	}
	n, err := f.Write(text)
	return info.Size() + int64(n), err
}

// locked opens the file and takes a lock on it. As compaction replaces the file,
// the lock counts only if the path still leads to it.
func (h *History) locked(ctx context.Context, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(h.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f, how); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", h.path, err), f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		there, err := os.Stat(h.path)
		switch {
		case err == nil && os.SameFile(mine, there):
			return f, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return nil, errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// flock waits for the lock by trying, so that a context can end the wait.
func flock(ctx context.Context, f *os.File, how int) error {
	pause := time.Millisecond
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("held by another process: %w", context.Cause(ctx))
		case <-timer.C:
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// String says in one line what the history holds.
func (h *History) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, past := range h.tests {
		n += len(past)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "history %s: %d tests, %d records", h.path, len(h.tests), n)
	if h.damaged > 0 {
		fmt.Fprintf(&b, ", %d damaged lines skipped", h.damaged)
	}
	return b.String()
}

func trim(past []Past, most int) []Past {
	if extra := len(past) - most; extra > 0 {
		past = slices.Delete(past, 0, extra)
	}
	return past
}
