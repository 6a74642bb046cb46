package spool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// process is the process group of a job: whatever the script starts is in it, as
// long as it does not leave it of its own will.
type process struct{ cmd *exec.Cmd }

func start(r Request) (*process, error) {
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...) //nolint:noctx // Cancel ends it, with its group
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, s := range []struct {
		path string
		to   func(f *os.File)
	}{{r.Stdout, func(f *os.File) { cmd.Stdout = f }}, {r.Stderr, func(f *os.File) { cmd.Stderr = f }}} {
		if s.path == "" {
			continue
		}
		f, err := os.Create(s.path)
		if err != nil {
			return nil, err
		}
		defer f.Close() // the child has its own
		s.to(f)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd}, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// exited returns when the script has ended, and leaves it to be reaped.
func (p *process) exited() {
	const byPID = 1 // P_PID of waitid(2)
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(p.pid()), 0, syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		if errno != syscall.EINTR {
			return // anything else is met by reap again
		}
	}
}

// reap returns how the script ended.
func (p *process) reap() (exit int, signal string, err error) {
	err = p.cmd.Wait()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return -1, "", fmt.Errorf("wait: %w", err)
	}
	status, is := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if is && status.Signaled() {
		return 128 + int(status.Signal()), status.Signal().String(), nil
	}
	return p.cmd.ProcessState.ExitCode(), "", nil
}

// A group that is gone is not an error: what was asked for is so.

func (p *process) terminate() {
	_ = syscall.Kill(-p.pid(), syscall.SIGTERM)
	_ = syscall.Kill(-p.pid(), syscall.SIGCONT) // a stopped one would not hear it
}

func (p *process) kill() { _ = syscall.Kill(-p.pid(), syscall.SIGKILL) }

func (p *process) stop(stopped bool) error {
	if stopped {
		return syscall.Kill(-p.pid(), syscall.SIGSTOP)
	}
	return syscall.Kill(-p.pid(), syscall.SIGCONT)
}
