package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
	"github.com/bullpen-vm/bullpen/pool"
)

// stateFile is the original's pyti.slave.stateofvm: the state of each machine and
// how many are free, stored in a file at each change. The file is
// <root>/state/<process id>.json and goes with the process; what dead ones left goes
// when the next one starts.
type stateFile struct {
	path  string
	total int
	log   *slog.Logger
	wake  chan struct{} // at most one: changes that come together are written once
	quit  chan struct{}
	once  sync.Once
	done  sync.WaitGroup
}

// vmState is the content of the file.
type vmState struct {
	TotalVMs int `json:"total_vms"`
	// Free is how many more could be handed out: ready, or not made yet.
	Free     int         `json:"free"`
	Waiting  int         `json:"waiting"` // runs that wait for a machine
	Machines []vmMachine `json:"machines"`
}

type vmMachine struct {
	Name     string `json:"name"`
	Platform string `json:"platform"`
	Host     string `json:"host"`
	State    string `json:"state"` // claiming, booting, ready, held, renewing, destroying
	Job      string `json:"job,omitempty"`
}

func openState(dir string, total int, log *slog.Logger) (*stateFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	for _, e := range old { // files, and what was to become one: a slave may be killed as it writes
		number, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "."), ".")
		pid, err := strconv.Atoi(number)
		if err != nil || pid <= 0 || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		path := filepath.Join(dir, number+".json")
		if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err = errors.Join(err, atomicfile.Sweep(path)); err != nil {
			log.Warn("the state of a slave that died stays", "path", path, "error", err)
		}
	}
	return &stateFile{
		path: filepath.Join(dir, strconv.Itoa(os.Getpid())+".json"), total: total, log: log,
		wake: make(chan struct{}, 1), quit: make(chan struct{}),
	}, nil
}

// event is told of each change in the pool.
func (s *stateFile) event(pool.Event) {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// follow writes the file whenever something has changed, until close.
func (s *stateFile) follow(p *pool.Pool) {
	s.done.Go(func() {
		for {
			if err := s.write(stateOf(p, s.total)); err != nil {
				s.log.Warn("the state of the machines cannot be stored", "error", err)
			}
			select {
			case <-s.wake:
			case <-s.quit:
				return
			}
		}
	})
}

// stateOf asks the pool.
func stateOf(p *pool.Pool, total int) vmState {
	v := vmState{TotalVMs: total, Free: total, Waiting: p.Stats().Waiting, Machines: []vmMachine{}}
	for _, g := range p.Guests() {
		v.Machines = append(v.Machines, vmMachine{g.Name, g.Template, g.Host, g.State, g.Job})
		if g.State != "ready" {
			v.Free--
		}
	}
	return v
}

func (s *stateFile) write(v vmState) error {
	return atomicfile.Write(s.path, 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// close removes the file. It is idempotent.
func (s *stateFile) close() error {
	s.once.Do(func() { close(s.quit) })
	s.done.Wait()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}
