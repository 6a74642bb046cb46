//go:build linux && cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// below says that this process has a subreaper above it.
const below = "BULLPEN_PEERBENCH_BELOW"

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2).
const prSetChildSubreaper = 36

// start runs the bench below a process that reaps its orphans, which QEMU's
// processes are: where the computer's first process is slow to, libvirt waits a
// second more for each that it ends, on both sides of a pair.
func start() int {
	if os.Getenv(below) != "" {
		return run(os.Args[1:], os.Stdout, os.Stderr)
	}
	code, err := reap(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "peerbench: subreaper:", err)
		return 2
	}
	return code
}

func reap(ctx context.Context) (int, error) {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		return 0, errno
	}
	c := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), below+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A Control-C at the terminal goes to both.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := c.Start(); err != nil {
		return 0, err
	}
	go func() { // ends with the process
		for s := range signals {
			if s == syscall.SIGTERM {
				_ = c.Process.Signal(os.Interrupt)
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case pid == c.Process.Pid:
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}
