package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/examples/pyti/spool"
	"github.com/bullpen-vm/bullpen/result"
)

const (
	queueFolder = "pyti_requests"
	// mostAttempts is how often a request may be begun: one over which so many
	// slaves died is answered, not tried again.
	mostAttempts = 3
)

// slaveMain takes requests from the queue until it is told to end. It then takes no
// more; those that run have conf.Drain to finish and are aborted after that, and
// all are answered. The machines are gone when it returns.
func slaveMain(e ends, c config, stdout io.Writer, log *slog.Logger) (code int, err error) {
	starting, cancelStart := context.WithCancel(context.Background())
	defer cancelStart()
	unwatch := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-e.stop:
			cancelStart()
		case <-unwatch:
		}
	})
	defer watch.Wait()
	defer close(unwatch)
	b, err := openBench(starting, c, log)
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	queue, err := spool.Open(filepath.Join(c.Root, queueFolder), spool.Options{Logger: log})
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, queue.Close()) }()
	s := &slave{bench: b, queue: queue, ended: make(chan struct{}, c.Total), log: log, stdout: stdout}
	s.say("slave %s: %d machines at most, %s; waiting for requests in %s", queue.ID(), c.Total, platformList(c), filepath.Join(c.Root, queueFolder))
	err = s.serve(e)
	s.say("slave %s: ended, %d requests answered", queue.ID(), s.answered)
	return 0, err
}

func platformList(c config) string {
	text := "platforms"
	for i, p := range c.Platforms {
		if i > 0 {
			text += ","
		}
		text += " " + p.label()
	}
	return text
}

// slave serves one queue.
type slave struct {
	bench *bench
	queue *spool.Spool
	log   *slog.Logger
	ended chan struct{} // one for each request that ends

	mu       sync.Mutex
	stdout   io.Writer
	answered int
}

func (s *slave) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.stdout, format+"\n", args...)
}

// serve claims requests as long as there is room for them, so that slaves who
// share the queue get theirs.
func (s *slave) serve(e ends) error {
	working, abort := context.WithCancel(context.Background())
	defer abort()
	look := time.NewTicker(s.bench.conf.Poll)
	defer look.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	running := 0
	for {
		for running < s.bench.conf.Total {
			claim, err := s.next(e)
			if err != nil {
				s.log.Error("the queue cannot be read", "error", err)
			}
			if claim == nil {
				break
			}
			running++
			all.Go(func() {
				s.handle(working, claim)
				s.ended <- struct{}{}
			})
		}
		select {
		case <-look.C:
		case <-s.ended:
			running--
		case <-e.stop:
			s.drain(e, running, abort)
			return nil
		}
	}
}

func (s *slave) next(e ends) (*spool.Claim, error) {
	select {
	case <-e.stop:
		return nil, nil
	default:
		return s.queue.Next(context.Background())
	}
}

// drain waits for what runs, and aborts it when that takes too long.
func (s *slave) drain(e ends, running int, abort func()) {
	if running > 0 {
		s.say("slave %s: told to end; %d requests may go on for %v", s.queue.ID(), running, s.bench.conf.Drain)
	}
	limit := time.NewTimer(s.bench.conf.Drain)
	defer limit.Stop()
	for running > 0 {
		select {
		case <-s.ended:
			running--
		case <-limit.C:
			abort()
		case <-e.abort:
			abort()
			e.abort = nil
		}
	}
}

// handle does a claimed request and answers it.
func (s *slave) handle(ctx context.Context, c *spool.Claim) {
	r := s.do(ctx, c)
	r.Ticket, r.Slave, r.Attempt = c.Ticket, s.queue.ID(), c.Attempt
	var err error
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		if err = c.Answer(r); err == nil {
			break
		}
		// Such as a full disk. The claim is kept: who comes after a slave that
		// ends without an answer takes it over.
		s.log.Error("a request cannot be answered", "request", c.Name, "error", err)
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		return
	}
	s.mu.Lock()
	s.answered++
	s.mu.Unlock()
	s.say("request %s: %s %s: %s%s", c.Name, r.Project, r.Version, r.Status, behind(": ", r.Message))
}

func behind(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + result.Shorten(text, 200)
}

func (s *slave) do(ctx context.Context, c *spool.Claim) record {
	refused := record{Status: result.Errored, ExitCode: 2, Started: time.Now().UTC(), Distributions: []distRecord{}, Runs: []runRecord{}}
	if c.Err != nil {
		refused.Message = c.Err.Error()
		return refused
	}
	req, err := parseRequest(c.Text)
	if err != nil {
		refused.Message = err.Error()
		return refused
	}
	if c.Attempt > mostAttempts {
		refused.Project, refused.Version, refused.Recipe, refused.Platform = req.Project, req.Version, req.Recipe, req.Platform
		refused.Message = fmt.Sprintf("given up: %d slaves died over it", c.Attempt-1)
		return refused
	}
	// Each attempt has a folder of its own for what comes back.
	return s.bench.perform(ctx, req, fmt.Sprintf("%s-%d", c.Ticket, c.Attempt))
}
