package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// workerRole in the environment makes a process a worker; see workerMain.
const workerRole = "BULLPEN_SPROUT_WORKER"

// workerSocket is the worker's end of the socket pair.
const workerSocket = 3

// How long a worker may take to come up, to end a test that is stopped, and to end.
const (
	helloTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
	endTimeout   = 5 * time.Second
)

// slave is the master's handle on a worker's process. It is an executor.
type slave struct {
	id    string
	link  *link
	log   *slog.Logger
	ended chan struct{} // closed when the process is reaped
	state *os.ProcessState
	proc  *os.Process
}

// setup is what all workers are given.
type setup struct {
	config string // path of slave_config
	logs   string // folder
	stamp  string // of the run
	// environment is added to that of the workers' processes.
	environment []string
}

// startSlave starts a worker's process for an appliance and waits until it answers.
// Its arguments are its id, the appliance as JSON and the run's stamp; what opens the
// appliance goes over the socket, for arguments are seen by everybody. Its stdout is
// null, its stderr the worker's log. It ends with this process, whatever ends this
// one: its socket ends, and it has a parent-death signal besides.
func startSlave(ctx context.Context, id string, a appliance, s setup, log *slog.Logger) (*slave, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	handle, err := a.guest.Handle(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMachine, err)
	}
	w := &slave{id: id, log: log, ended: make(chan struct{})}
	logFile, err := os.OpenFile(filepath.Join(s.logs, id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// Not CommandContext: the worker ends by stop, also when ctx has ended.
	c := exec.Command(program(), id, string(text), s.stamp) //nolint:noctx // see above
	c.Env = append(append(os.Environ(), s.environment...), workerRole+"=1")
	c.Stderr, c.ExtraFiles = logFile, []*os.File{theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The parent-death signal comes when the thread that started the process
		// ends: so it waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(w.ended)
		if err := c.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = c.Wait() // how it ended is in the state
		w.state = c.ProcessState
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	w.proc, w.link = c.Process, newLink(ours)
	log.Info("started", "pid", c.Process.Pid, "appliance", a.Name)
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("worker %s did not answer within %v", id, helloTimeout))
	defer cancel()
	if err := w.link.Send(ctx, message{Kind: sayHello, Config: s.config, Handle: handle}); err != nil {
		return nil, w.failed("hello", err)
	}
	m, err := w.link.Receive(ctx)
	if err == nil && m.Kind != sayReady {
		err = fmt.Errorf("it says %s %s", m.Kind, m.Error)
	}
	if err != nil {
		return nil, w.failed("start", err)
	}
	return w, nil
}

// socketPair gives the master's end and the worker's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "master"), os.NewFile(uintptr(fds[1]), "worker")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// failed ends a worker that is of no use, and says how it ended.
func (w *slave) failed(what string, err error) error {
	w.kill()
	err = fmt.Errorf("worker %s: %s: %w (%v)", w.id, what, err, w.state)
	w.log.Error("failed", "error", err)
	return err
}

// kill ends the process and waits for it.
func (w *slave) kill() {
	_ = w.proc.Kill() // it may have ended by itself
	<-w.ended
	w.link.Close()
}

func (w *slave) collect(ctx context.Context) ([]string, error) {
	if err := w.link.Send(ctx, message{Kind: sayCollect}); err != nil {
		return nil, w.failed("collect", err)
	}
	m, err := w.link.Receive(ctx)
	switch {
	case err != nil:
		return nil, w.failed("collect", err)
	case m.Kind != sayCollected:
		return nil, w.failed("collect", fmt.Errorf("it says %s", m.Kind))
	case m.Error != "" && m.Faulty:
		return nil, faulty(m)
	case m.Error != "":
		return nil, errors.New(m.Error)
	}
	return m.Tests, nil
}

func (w *slave) runTests(ctx context.Context, group string, tests []string, tell func(event)) error {
	if err := w.link.Send(ctx, message{Kind: sayRun, Group: group, Tests: tests}); err != nil {
		return w.failed("run "+group, err)
	}
	// When ctx ends, the worker is told to stop, and has some time for it.
	patient, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		bounded, end := context.WithTimeout(patient, stopTimeout)
		defer end()
		if w.link.Send(bounded, message{Kind: sayStop}) == nil {
			<-bounded.Done()
		}
		cancel(context.Cause(ctx))
	})
	defer func() {
		if !stop() {
			cancel(nil)
			<-stopped
		}
	}()
	for {
		m, err := w.link.Receive(patient)
		switch {
		case err != nil:
			return w.failed("run "+group, err)
		case m.Kind == sayEvent && m.Event != nil:
			tell(*m.Event)
		case m.Kind == sayDone && m.Error != "" && m.Faulty:
			return faulty(m)
		case m.Kind == sayDone && m.Error != "":
			return errors.New(m.Error)
		case m.Kind == sayDone:
			return nil
		default:
			return w.failed("run "+group, fmt.Errorf("it says %s", m.Kind))
		}
	}
}

// faulty is the error of a machine that a worker tells of.
func faulty(m message) error {
	return fmt.Errorf("%w: %s", errMachine, strings.TrimPrefix(m.Error, errMachine.Error()+": "))
}

// stop ends the worker: by a word, and then by force. It waits.
func (w *slave) stop() {
	bounded, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if w.link.Send(bounded, message{Kind: sayShutdown}) == nil {
		select {
		case <-w.ended:
		case <-bounded.Done():
		}
	}
	w.kill()
	w.log.Info("ended", "state", w.state.String())
}
