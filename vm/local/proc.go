package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm"
)

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// procID names a process for ever within one run of the kernel and one PID
// namespace: ids are used again, but not with the same start.
type procID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the kernel's boot
}

// process is one line of the table of processes.
type process struct {
	procID
	parent  int
	state   byte // of proc_pid_stat(5)
	threads int
}

// dead reports whether the process only waits for being reaped. One whose
// first thread has ended while others go on looks like a zombie and is none.
func (p process) dead() bool {
	return p.state == 'X' || p.state == 'x' || p.state == 'Z' && p.threads <= 1
}

// stopped reports whether a signal or a tracer has stopped it.
func (p process) stopped() bool { return p.state == 'T' || p.state == 't' }

// halted reports whether a process runs nothing of its program until it is told to
// go on. One that waits in vfork(2) for its child's exec waits uninterruptibly: when
// the child is stopped before its exec, the parent stays in that state, and has been
// told to stop all the same.
func (p process) halted() bool {
	if p.stopped() {
		return true
	}
	if p.state != 'D' {
		return false
	}
	dir := "/proc/" + strconv.Itoa(p.PID)
	if status, err := os.ReadFile(dir + "/status"); err == nil && stopPending(status) {
		return true
	}
	if p.threads < 2 {
		return false
	}
	// Or another thread has taken the signal: then all are told to stop.
	threads, _ := filepath.Glob(dir + "/task/*/stat") // the pattern is good
	return slices.ContainsFunc(threads, func(path string) bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false // it has ended
		}
		t, err := parseStat(b)
		return err == nil && t.stopped()
	})
}

// stopPending finds SIGSTOP in the sets of pending signals of proc_pid_status(5).
func stopPending(status []byte) bool {
	for line := range strings.Lines(string(status)) {
		name, set, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		if n, err := strconv.ParseUint(set, 16, 64); err == nil && n&(1<<(syscall.SIGSTOP-1)) != 0 {
			return true
		}
	}
	return false
}

// parseStat reads /proc/<pid>/stat. The name in parentheses is the program's
// to choose and may contain anything, parentheses and newlines too.
func parseStat(b []byte) (process, error) {
	var p process
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return p, fmt.Errorf("no name in %.80q", b)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return p, err
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 || len(f[0]) != 1 || f[0][0] < 'A' || f[0][0] > 'z' {
		return p, fmt.Errorf("no state and 19 numbers after the name in %.80q", b)
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return p, err
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return p, err
	}
	threads, err := strconv.Atoi(f[17])
	if err != nil {
		return p, err
	}
	return process{procID{pid, start}, parent, f[0][0], threads}, nil
}

// lookup gives the process with that id now; fs.ErrNotExist when there is none.
func lookup(pid int) (process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, syscall.ESRCH) { // it ended while being read
		err = fs.ErrNotExist
	}
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(b)
	if err != nil {
		return p, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return p, nil
}

// self is this process.
func self() (procID, error) {
	p, err := lookup(os.Getpid())
	return p.procID, err
}

// table gives all processes that can be seen. Those that come and go meanwhile
// may be missing, so one look proves nothing: see herd.end.
func table() ([]process, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	all := make([]process, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := lookup(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			// Ended, or another user's under hidepid.
		case err != nil:
			return nil, err
		default:
			all = append(all, p)
		}
	}
	return all, nil
}

// checkProc proves that /proc shows this process as it is: without it no
// machine can be ended for certain.
func checkProc() error {
	p, err := lookup(os.Getpid())
	if err == nil && p.parent != os.Getppid() {
		err = errors.New("it belongs to another PID namespace")
	}
	if err == nil {
		_, err = os.Stat("/proc/self/environ")
	}
	if err == nil {
		_, err = readLimitMark(os.Getpid())
	}
	if err != nil {
		return fmt.Errorf("local: /proc cannot be used (%w): mount the proc file system of this PID namespace: %w", err, vm.ErrHostLost)
	}
	return nil
}

// where tells which run of the kernel and which PID namespace this is.
func where() (hostRun, pids string, err error) {
	b, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "", "", err
	}
	pids, err = os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(b)), pids, err
}
