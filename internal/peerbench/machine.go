package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// take holds a lock until it is closed, so that two benchmarks never disturb each
// other. It does not wait: who holds it is said.
func take(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("peerbench: lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner := make([]byte, 32)
		n, _ := f.ReadAt(owner, 0) // at end of file, or nothing: who it is stays unknown
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another peerbench runs (pid %s): wait for it", strings.TrimSpace(string(owner[:n])))
		}
		return nil, errors.Join(fmt.Errorf("peerbench: lock %s: %w", path, err), f.Close())
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// busy gives a word of warning when others use the machine; empty when not, or
// when it cannot be told.
func busy(loadavg string) string {
	text, err := os.ReadFile(loadavg)
	if err != nil {
		return ""
	}
	var load float64
	if _, err := fmt.Sscan(string(text), &load); err != nil {
		return ""
	}
	if load < 0.5*float64(runtime.NumCPU()) {
		return ""
	}
	return fmt.Sprintf("# the machine is busy: load %.1f on %d processors; ratios are paired, but expect more noise", load, runtime.NumCPU())
}
