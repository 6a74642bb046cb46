package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
)

// Why Run may end.
var (
	// ErrKeepalive: the host said nothing for as long as its welcome allowed.
	ErrKeepalive = errors.New("guest: no word from the host")
	// ErrRefused: the host refused the hello.
	ErrRefused = errors.New("guest: the host refused this guest")
)

// Disk is a job disk, opened. Close is called when the job has ended.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64 // bytes
	Sync() error // makes what was written visible to the host
	Close() error
}

// Config says where an agent's machine keeps its things. Conn or Dial, Disks and
// WorkDir are required.
type Config struct {
	// Conn is the channel to the host; Run closes it. Run ends with it.
	Conn io.ReadWriteCloser
	// Dial is for channels that outlive their host, in place of Conn: it opens
	// the channel, is called again when the channel has ended, and may block
	// until there is a host. Jobs go on meanwhile; Run ends by power off or
	// keepalive.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)

	Secret      string // of this boot, said in the hello
	Incarnation string // likewise
	Agent       string // program and version, for people; default "bullpen-guest"

	// Disks opens reserved job disk n.
	Disks func(n int) (Disk, error)
	// Inputs makes an input readable and says in which folder; release undoes
	// it and may be nil. Nil Inputs: jobs with inputs are refused.
	Inputs func(ctx context.Context, in diskio.GoInput) (dir string, release func() error, err error)
	// WorkDir is where each job gets a folder of its own, which is removed when
	// the job has ended. It is made when it is missing.
	WorkDir string
	// InDir, when set, is the one folder where inputs appear, as $BULLPEN_IN;
	// empty: each part has one in its work folder. To be set where jobs run one
	// at a time only.
	InDir string
	// Root confines the paths of copies, which are taken relative to it; empty:
	// the whole file system.
	Root string
	// Mark is the file that says that something ran since the known state. It
	// must be on what a rollback rolls back. Empty: nothing is marked.
	Mark string
	// Environ is what jobs and commands get, as KEY=value; nil: the agent's own
	// environment.
	Environ []string

	// The hooks of a welcome, each may be nil. When one fails the machine says
	// that it is not clean, with the reason.
	Reseed       func(entropy []byte) error
	SetClock     func(t time.Time) error
	SetHostName  func(name string) error
	SetMachineID func(id string) error
	// PowerOff is called at the end of Run when the machine is to end: told by
	// the host, refused, or by the dead man's switch. Nil: Run only returns.
	PowerOff func()
	// Details are said when ready, for people.
	Details map[string]string

	// Reap takes in orphans: for an agent that is the first process of its PID
	// namespace, or a child subreaper. Other children than the agent's own steps
	// and commands are then waited for by it, some seconds after they ended, so
	// a program that starts processes itself must wait for them at once.
	Reap bool

	HelloInterval time.Duration // default 200 ms
	// Grace is what a step has after its timeout: it is interrupted at once,
	// asked to terminate after half of Grace, killed after all of it. Default 5 s.
	Grace time.Duration
	// WaitDelay is how long output is still read after a step has ended, when
	// a process that left its group holds it open. Default 2 s.
	WaitDelay time.Duration
	// FlushInterval is how often output of a running step goes to the disk, and
	// to the host as progress. Default 250 ms.
	FlushInterval time.Duration
	Logger        *slog.Logger // nil: nothing is logged
}

const (
	defaultHelloInterval = 200 * time.Millisecond
	defaultGrace         = 5 * time.Second
	defaultWaitDelay     = 2 * time.Second
	defaultFlushInterval = 250 * time.Millisecond
	// maxStreams bounds the jobs, commands and copies that run at once.
	maxStreams = 256
	// redialPause is between attempts to open the channel anew.
	redialPause = 200 * time.Millisecond
)

// Agent is one machine's agent. Its methods are safe for concurrent use.
type Agent struct {
	c    Config
	boot string
	log  *slog.Logger

	jobs    sync.WaitGroup  // of jobs, which outlive sessions
	context context.Context // Run's; its end kills all that runs
	stop    context.CancelCauseFunc

	mu        sync.Mutex // guards what follows
	running   bool
	seen      int          // jobs, commands and copies of this boot
	marked    bool         // the mark is written
	disks     map[int]bool // in use
	children  map[int]bool // started here and not yet waited for
	heard     time.Time
	keepalive time.Duration
	changed   chan struct{} // keepalive was set
	props     map[string]string

	incarnation string // said in the next hello

	reapEvery time.Duration

	starting sync.RWMutex // read-held from fork to entry in children
	marking  sync.Mutex
}

// New checks the configuration and makes an agent. It does nothing yet.
func New(c Config) (*Agent, error) {
	fail := func(format string, args ...any) error { return fmt.Errorf("guest: Config."+format, args...) }
	switch {
	case (c.Conn == nil) == (c.Dial == nil):
		return nil, fail("Conn and Dial: exactly one must be set")
	case c.Disks == nil:
		return nil, fail("Disks is nil, want a function that opens job disks")
	case !filepath.IsAbs(c.WorkDir):
		return nil, fail("WorkDir is %q, want an absolute path", c.WorkDir)
	case c.InDir != "" && !filepath.IsAbs(c.InDir):
		return nil, fail("InDir is %q, want an absolute path", c.InDir)
	case c.Root != "" && !filepath.IsAbs(c.Root):
		return nil, fail("Root is %q, want an absolute path", c.Root)
	}
	for _, d := range [...]struct {
		name string
		v    *time.Duration
		zero time.Duration
	}{{"HelloInterval", &c.HelloInterval, defaultHelloInterval}, {"Grace", &c.Grace, defaultGrace},
		{"WaitDelay", &c.WaitDelay, defaultWaitDelay}, {"FlushInterval", &c.FlushInterval, defaultFlushInterval}} {
		if *d.v < 0 {
			return nil, fail("%s is %v, want 0 for the default or more", d.name, *d.v)
		}
		if *d.v == 0 {
			*d.v = d.zero
		}
	}
	if c.Agent == "" {
		c.Agent = "bullpen-guest"
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Environ == nil {
		c.Environ = os.Environ()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("guest: boot id: %w", err)
	}
	return &Agent{c: c, boot: hex.EncodeToString(id), log: c.Logger, disks: map[int]bool{}, children: map[int]bool{},
		changed: make(chan struct{}, 1), incarnation: c.Incarnation, reapEvery: reapInterval}, nil
}

// Run serves the host until it is told to power off (nil), the channel ends
// (nil, without Dial), the hello is refused (ErrRefused), the host is silent for
// too long (ErrKeepalive) or ctx ends. All that still runs is killed and waited
// for. It runs once.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	if a.running {
		a.mu.Unlock()
		return errors.New("guest: Run was called before")
	}
	a.running, a.heard = true, time.Now()
	a.mu.Unlock()
	a.context, a.stop = context.WithCancelCause(ctx)
	var own sync.WaitGroup
	own.Go(a.watchKeepalive)
	if a.c.Reap {
		own.Go(a.reapOrphans)
	}
	err := a.serveAll()
	a.stop(err)
	a.jobs.Wait()
	own.Wait()
	switch {
	case errors.Is(err, errPowerOff):
		err = nil
		fallthrough
	case errors.Is(err, ErrRefused), errors.Is(err, ErrKeepalive):
		if a.c.PowerOff != nil {
			a.c.PowerOff()
		}
	}
	return err
}

// errPowerOff: the host said so.
var errPowerOff = errors.New("powered off")

// serveAll serves one session after the other and says why there are no more.
func (a *Agent) serveAll() error {
	if a.c.Conn != nil {
		err := a.serve(a.c.Conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	for {
		conn, err := a.c.Dial(a.context)
		if err == nil {
			err = a.serve(conn)
			if errors.Is(err, errPowerOff) || errors.Is(err, ErrRefused) {
				return err
			}
		}
		if a.context.Err() != nil {
			return context.Cause(a.context)
		}
		a.log.Info("channel ended, opening it again", "err", err)
		if !pause(a.context, redialPause) {
			return context.Cause(a.context)
		}
	}
}

// pause waits for d and tells whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hear notes that the host lives.
func (a *Agent) hear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = time.Now()
}

// watchKeepalive is the dead man's switch.
func (a *Agent) watchKeepalive() {
	for {
		a.mu.Lock()
		limit, left := a.keepalive, time.Duration(0)
		if limit > 0 {
			left = limit - time.Since(a.heard)
		}
		a.mu.Unlock()
		if limit > 0 && left <= 0 {
			a.log.Error("no word from the host, ending", "limit", limit)
			a.stop(fmt.Errorf("%w for %v", ErrKeepalive, limit))
			return
		}
		var expired <-chan time.Time
		if limit > 0 {
			expired = time.After(left)
		}
		select {
		case <-expired:
		case <-a.changed:
		case <-a.context.Done():
			return
		}
	}
}
