package spool

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
)

const (
	requestEnd = ".json"
	resultEnd  = ".result.json"
	claimEnd   = ".claim"
	lockStart  = ".slave-"

	// MostName is how many bytes the name of a request may have: a claim's is
	// longer, and file systems allow 255.
	MostName = 180
	// MostRequest is how many bytes a request may have.
	MostRequest = 1 << 20
)

// DefaultSettle is Options.Settle where it is zero.
const DefaultSettle = 2 * time.Second

// Options are those of Open; the zero value is usable.
type Options struct {
	// Settle is how long a file that is not whole JSON may be in the work before
	// it is taken for what it is.
	Settle time.Duration
	Logger *slog.Logger // nil: discards
}

// Spool is one slave's view of the folder. It is safe for concurrent use.
type Spool struct {
	dir, id string
	settle  time.Duration
	log     *slog.Logger
	lock    *flock.Lock

	mu     sync.Mutex
	warned map[string]bool
}

// Open joins the folder, which is made if it is missing. Close it when all claims
// are answered: what is left is then taken over by others.
func Open(dir string, o Options) (*Spool, error) {
	if o.Settle <= 0 {
		o.Settle = DefaultSettle
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{dir: dir, id: random(6), settle: o.Settle, log: o.Logger, warned: map[string]bool{}}
	// The lock file gets its name when it is locked: who sees it unlocked may
	// believe that its slave is dead.
	early := filepath.Join(dir, ".new"+lockStart+s.id)
	var err error
	if s.lock, err = flock.Try(early, os.O_CREATE|os.O_RDWR, syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("spool: lock %s: %w", early, err)
	}
	if err := os.Rename(early, s.lockPath(s.id)); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), s.lock.Unlock(), os.Remove(early))
	}
	return s, nil
}

// ID names this slave.
func (s *Spool) ID() string { return s.id }

// Close leaves the folder.
func (s *Spool) Close() error {
	return errors.Join(os.Remove(s.lockPath(s.id)), s.lock.Unlock())
}

func (s *Spool) lockPath(id string) string { return filepath.Join(s.dir, lockStart+id) }

// random gives 2n hexadecimal digits.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Next claims a request; nil when there is none now. What dead slaves left goes
// first, then the oldest.
func (s *Spool) Next(ctx context.Context) (*Claim, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if c, err := s.takeOver(entries); c != nil || err != nil {
		return c, err
	}
	type waiting struct {
		name string
		at   time.Time
	}
	var all []waiting
	for _, e := range entries {
		name := e.Name()
		if !isRequest(name) || !e.Type().IsRegular() {
			continue
		}
		if len(name) > MostName {
			s.warn(name, "the name of a request is too long", "most", MostName)
			continue
		}
		if info, err := e.Info(); err == nil { // else somebody was faster
			all = append(all, waiting{name, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b waiting) int {
		return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name))
	})
	for _, w := range all {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !s.whole(w.name, w.at) {
			continue
		}
		c := &Claim{spool: s, Name: strings.TrimSuffix(w.name, requestEnd), Ticket: random(8), Attempt: 1}
		if ok, err := s.take(w.name, c); ok || err != nil {
			return c, err
		}
	}
	return nil, nil
}

func isRequest(name string) bool {
	return strings.HasSuffix(name, requestEnd) && !strings.HasSuffix(name, resultEnd) && name[0] != '.' && name != requestEnd
}

// whole reports whether a request can be taken for finished.
func (s *Spool) whole(name string, changed time.Time) bool {
	if age := time.Since(changed); age >= s.settle || age < -time.Hour {
		return true
	}
	text, err := readSome(filepath.Join(s.dir, name))
	return err == nil && json.Valid(text)
}

func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MostRequest+1))
	if err == nil && len(text) > MostRequest {
		err = fmt.Errorf("the request has more than %d bytes", MostRequest)
	}
	return text, err
}

// take renames a file to the claim; false: somebody else was faster.
func (s *Spool) take(name string, c *Claim) (bool, error) {
	c.path = filepath.Join(s.dir, fmt.Sprintf("%s~%s~%d~%s%s", c.Name, c.Ticket, c.Attempt, s.id, claimEnd))
	err := os.Rename(filepath.Join(s.dir, name), c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("spool: claim %s: %w", name, err)
	}
	c.Text, c.Err = readSome(c.path)
	return true, nil
}

// claimed is what the name of a claim says.
type claimed struct {
	name, ticket, slave string
	attempt             int
}

func parseClaim(file string) (claimed, bool) {
	stem, ok := strings.CutSuffix(file, claimEnd)
	parts := strings.Split(stem, "~")
	n := len(parts)
	if !ok || n < 4 || strings.HasPrefix(file, ".") {
		return claimed{}, false
	}
	attempt, err := strconv.Atoi(parts[n-2])
	c := claimed{strings.Join(parts[:n-3], "~"), parts[n-3], parts[n-1], attempt}
	return c, err == nil && attempt > 0 && c.name != "" && c.ticket != "" && c.slave != ""
}

// takeOver looks for a claim whose slave is dead.
func (s *Spool) takeOver(entries []fs.DirEntry) (*Claim, error) {
	dead := map[string]*flock.Lock{} // nil: alive
	defer func() {
		for id, lock := range dead {
			if lock != nil {
				_ = errors.Join(os.Remove(s.lockPath(id)), lock.Unlock()) // the next look does it
			}
		}
	}()
	isDead := func(id string) bool {
		if id == s.id {
			return false
		}
		if lock, ok := dead[id]; ok {
			return lock != nil
		}
		lock, err := flock.Try(s.lockPath(id), os.O_RDWR, syscall.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			return true
		}
		dead[id] = lock
		return err == nil
	}
	for _, e := range entries {
		was, ok := parseClaim(e.Name())
		if !ok {
			if id, ok := strings.CutPrefix(e.Name(), lockStart); ok && s.claimsOf(entries, id) == 0 {
				isDead(id) // its lock file goes
			}
			continue
		}
		if !isDead(was.slave) {
			continue
		}
		c := &Claim{spool: s, Name: was.name, Ticket: was.ticket, Attempt: was.attempt + 1}
		ok, err := s.take(e.Name(), c)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		s.log.Warn("spool: a dead slave's request is taken over", "request", c.Name, "slave", was.slave, "attempt", c.Attempt)
		if c.answered() {
			if err := os.Remove(c.path); err != nil {
				return nil, fmt.Errorf("spool: %w", err)
			}
			continue
		}
		return c, nil
	}
	return nil, nil
}

func (s *Spool) claimsOf(entries []fs.DirEntry, id string) (n int) {
	for _, e := range entries {
		if c, ok := parseClaim(e.Name()); ok && c.slave == id {
			n++
		}
	}
	return n
}

// warn says something about a file once.
func (s *Spool) warn(name, text string, args ...any) {
	s.mu.Lock()
	first := !s.warned[name]
	s.warned[name] = true
	s.mu.Unlock()
	if first {
		s.log.Warn("spool: "+text, append([]any{"request", name}, args...)...)
	}
}
