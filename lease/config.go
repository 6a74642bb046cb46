package lease

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Defaults of Config.
const (
	DefaultTTL  = 60 * time.Second
	DefaultPoll = 500 * time.Millisecond
	// marginOf and timeoutOf are parts of the TTL: the default margin is 10 s
	// for a TTL of 60 s, and so is the most that one store operation takes.
	marginOf  = 6
	timeoutOf = 6
	leastTTL  = 10 * time.Millisecond
	mostTTL   = 1000 * time.Hour
)

// sessionPrefix is what the keys of session records start with; leases cannot
// have such keys.
const sessionPrefix = "session/"

// Config says how a Manager holds leases. Only Store is needed.
type Config struct {
	// Store keeps the records. Who opened it closes it, after the Manager.
	Store Store
	// Owner says in words who holds the leases, such as the name of the test
	// or job. Host and pid are added. Empty: the program's name.
	Owner string
	// TTL is how long a lease outlives its last acknowledged renewal; 10 ms to
	// 1000 h; 0 means 60 s. It is renewed every third of it.
	TTL time.Duration
	// Margin is what others wait on top of the TTL, for clocks that do not run
	// alike and for operations that are on their way; 0 means a sixth of TTL.
	Margin time.Duration
	// Poll is the longest time between two looks at a key that is waited for;
	// 0 means 500 ms.
	Poll time.Duration
	// Dir is where the run directory with the flock file is made. It must
	// belong to this user and be writable by nobody else; it is made with mode
	// 0700 where there is none. Empty means bullpen-<uid> in os.TempDir().
	Dir string
	// NoLock makes no run directory: others can then not prove that the owner
	// is dead and wait for TTL and margin.
	NoLock bool
	// Logger gets what is lost and what is retried; nil discards it.
	Logger *slog.Logger
}

// Options are the terms of one lease; nil means the zero value.
type Options struct {
	// Priority orders the waiters of this Manager, highest first; equal ones
	// are served in the order of their arrival.
	Priority int
	// Note is free text kept in the record and shown to others.
	Note string
	// Term, above zero, makes a lease of a fixed term: it ends that long after
	// it was asked for, is not renewed, survives the Manager and its process,
	// and can be extended.
	Term time.Duration
	// MostTerm limits what Extend makes of a Term, counted from the grant; 0:
	// no limit.
	MostTerm time.Duration
}

// validate fills in the defaults.
func (c Config) validate() (Config, error) {
	bad := func(field string, value any, want string) (Config, error) {
		return Config{}, fmt.Errorf("lease: Config.%s is %v, want %s", field, value, want)
	}
	if c.Store == nil {
		return bad("Store", "nil", "a Store such as lease.NewMemStore()")
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.TTL < leastTTL || c.TTL > mostTTL {
		return bad("TTL", c.TTL, fmt.Sprintf("%v to %v, or 0 for %v", leastTTL, mostTTL, DefaultTTL))
	}
	if c.Margin == 0 {
		c.Margin = c.TTL / marginOf
	}
	if c.Margin < 0 || c.Margin > mostTTL {
		return bad("Margin", c.Margin, fmt.Sprintf("0 to %v", mostTTL))
	}
	if c.Poll == 0 {
		c.Poll = DefaultPoll
	}
	if c.Poll < time.Millisecond {
		return bad("Poll", c.Poll, "1ms or more, or 0 for "+DefaultPoll.String())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Owner == "" {
		c.Owner = filepath.Base(os.Args[0])
	}
	if c.Dir == "" {
		c.Dir = DefaultDir()
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return bad("Dir", c.Dir, "a path: "+err.Error())
	}
	c.Dir = dir
	return c, nil
}

// New makes a Manager. It does no I/O on the store and makes no files: the
// session record and the run directory are made when the first lease is asked
// for. Close it.
func New(c Config) (*Manager, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	m := &Manager{
		store:   c.Store,
		config:  c,
		log:     c.Logger,
		owner:   ownerText(c.Owner),
		timeout: c.TTL / timeoutOf,
		held:    make(map[string]*Lease),
		queues:  make(map[string]*queue),
		doubts:  make(map[string]int),
		former:  make(map[string]bool),
		stop:    make(chan struct{}),
		closed:  make(chan struct{}),
		undone:  make(map[*Lease]bool),
	}
	m.clock.start()
	m.sightings.seen = make(map[string]*sighting)
	m.watcher, _ = c.Store.(Watcher)
	m.claimer, _ = c.Store.(Claimer)
	m.batcher, _ = c.Store.(Batcher)
	m.mu = new(sync.Mutex)
	if mem, ok := c.Store.(*MemStore); ok {
		m.mem, m.mu = mem, &mem.mu
	}
	if !c.NoLock {
		m.boot = bootText()
		m.lockPath = filepath.Join(c.Dir, runPrefix+uuid.NewString(), lockName)
	}
	return m, nil
}

// ownerText adds the host and the process to the name of an owner.
func ownerText(name string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	return fmt.Sprintf("%s on %s (pid %d)", name, host, os.Getpid())
}

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("lease: key is empty, want a name such as host/h1/slot/0")
	case strings.HasPrefix(key, sessionPrefix):
		return fmt.Errorf("lease: key is %q, want one that does not start with %q: those are the sessions'", key, sessionPrefix)
	}
	return nil
}

func checkOptions(o *Options) (Options, error) {
	if o == nil {
		return Options{}, nil
	}
	if o.Term < 0 || o.Term > 0 && o.Term < leastTTL {
		return Options{}, fmt.Errorf("lease: Options.Term is %v, want %v or more, or 0 for a lease that is renewed", o.Term, leastTTL)
	}
	if o.MostTerm < 0 || o.MostTerm > 0 && o.MostTerm < o.Term {
		return Options{}, fmt.Errorf("lease: Options.MostTerm is %v, want at least Term (%v), or 0 for no limit", o.MostTerm, o.Term)
	}
	return *o, nil
}
