package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Server is a running database, or one that was ended by Crash. One goroutine uses
// it at a time.
type Server struct {
	// Address is what clients are given: a URL for PostgreSQL, host:port for etcd.
	Address string

	dir      string
	start    func() *exec.Cmd
	ready    func(ctx context.Context) error
	softly   syscall.Signal // ends it as its manual says
	crashing syscall.Signal // ends it, with its children, without any farewell
	running  *exec.Cmd
}

// startup bounds the way to the first answer: recovery after a crash on a busy
// machine takes its time.
const startup = 3 * time.Minute

// Up starts a Server that was crashed, on the same address and data, and waits until
// it answers.
func (s *Server) Up(ctx context.Context) error {
	if s.running != nil {
		return errors.New("daemon: it runs already")
	}
	c := s.start()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	s.running = c
	ctx, cancel := context.WithTimeoutCause(ctx, startup, fmt.Errorf("it did not answer within %v", startup))
	defer cancel()
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log")) // more words for the error
			return fmt.Errorf("daemon: %w: %w; its log:\n%.3000s", context.Cause(ctx), err, text)
		}
		time.Sleep(20 * time.Millisecond) // another program's start: nothing else to wait for
	}
}

// Crash ends it at once, as a fault of the program would: what it had not written is
// lost.
func (s *Server) Crash() {
	if s.running != nil {
		_ = s.running.Process.Signal(s.crashing) // Wait tells
		_ = s.running.Wait()                     // by a signal
		s.running = nil
	}
}

// Close ends it and removes its folder. It is idempotent.
func (s *Server) Close() error {
	if s.running != nil {
		_ = s.running.Process.Signal(s.softly) // Wait tells
		_ = s.running.Wait()                   // by a signal
		s.running = nil
	}
	return os.RemoveAll(s.dir)
}

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:forcetypeassert // of a TCP listener
}
