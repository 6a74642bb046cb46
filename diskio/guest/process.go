package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// process is a command in a process group of its own.
type process struct {
	cmd *exec.Cmd
	// ended is closed when the leader has ended. It is not waited for yet, so
	// its number, which is the group's, is nobody else's.
	ended chan struct{}
}

// HearSignals is for the main function of a program that is an agent: it has steps
// begin with the signals that interrupt them also when the program was started with
// those ignored (nohup, or in the background of a shell script). What is ignored stays
// so in children, where shells cannot even trap it, and a job that is cancelled would
// not hear; what is caught does not. The program itself goes on ignoring them, for as
// long as it lives. It may be called again.
func HearSignals() {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} { // Go catches the others anyway
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}

// startProcess starts argv with exactly env, looking the program up in env's
// PATH. The files are the caller's.
func (a *Agent) startProcess(argv, env []string, dir string, in, out, errOut *os.File) (*process, error) {
	path, err := lookPath(argv[0], env, dir)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Env: env, Dir: dir, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if in != nil {
		cmd.Stdin = in
	}
	cmd.Stdout, cmd.Stderr = out, errOut
	// The reaper must not see the child before it is known to be ours.
	a.starting.RLock()
	err = cmd.Start()
	if err == nil {
		a.mu.Lock()
		a.children[cmd.Process.Pid] = true
		a.mu.Unlock()
	}
	a.starting.RUnlock()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process; finish waits for it
		waitEnd(cmd.Process.Pid)
		close(p.ended)
	}()
	return p, nil
}

// lookPath finds a program as execvp does, in the PATH that it will have.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // relative to dir, by os/exec
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v // the last one counts
		}
	}
	denied := false
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		info, err := os.Stat(file)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", fmt.Errorf("%q: found in PATH=%s, but not executable", name, path)
	}
	return "", fmt.Errorf("%q: not found in PATH=%s", name, path)
}

// waitEnd blocks until a child has ended and leaves it to be waited for.
func waitEnd(pid int) {
	const pPID = 1
	var info [128]byte // siginfo_t
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pPID, uintptr(pid), uintptr(unsafe.Pointer(&info)),
			syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

// signal signals the whole group. There is nobody left to signal when it fails.
func (p *process) signal(s syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, s)
}

// limits are what ends a process before its time.
type limits struct {
	timeout             time.Duration // zero: none
	interrupted, killed <-chan struct{}
	context             context.Context // its end kills
}

// A shell loses an interrupt that comes between its fork and the exec of a
// command: the child takes the shell's handler for its own and forgets. Steps
// begin with just that, and a host that cancels as soon as it hears of a step
// hits it, so a young step is interrupted twice. Later it is rare, and a second
// interrupt would cut a test's teardown short; then the step is asked to
// terminate, long before a host that waits its default time has it killed.
const (
	youngStep      = 5 * time.Second
	interruptAgain = time.Second
	terminateAfter = 30 * time.Second
)

// how is why a process was ended.
type how struct {
	timedOut, cancelled bool
}

// supervise waits for the leader's end, and hurries it where it must.
func (a *Agent) supervise(p *process, l limits) how {
	var h how
	var timeout, again, terminate, kill <-chan time.Time
	begun := time.Now()
	if l.timeout > 0 {
		t := time.NewTimer(l.timeout)
		defer t.Stop()
		timeout = t.C
	}
	done := l.context.Done()
	for {
		select {
		case <-p.ended:
			return h
		case <-timeout:
			select {
			case <-p.ended: // in the same moment: it made it
				return h
			default:
			}
			timeout, h.timedOut = nil, true
			p.signal(syscall.SIGINT)
			terminate, kill = time.After(a.c.Grace/2), time.After(a.c.Grace)
		case <-again:
			again = nil
			p.signal(syscall.SIGINT)
		case <-terminate:
			terminate = nil
			p.signal(syscall.SIGTERM)
		case <-kill:
			kill = nil
			p.signal(syscall.SIGKILL)
		case <-l.interrupted:
			l.interrupted, h.cancelled = nil, true
			select {
			case <-l.killed: // asked for in the same moment: the case below
			default:
				p.signal(syscall.SIGINT)
				if time.Since(begun) < youngStep {
					again = time.After(interruptAgain)
				}
				if terminate == nil {
					terminate = time.After(terminateAfter)
				}
			}
		case <-l.killed:
			l.killed, h.cancelled = nil, true
			p.signal(syscall.SIGKILL)
		case <-done:
			done, h.cancelled = nil, true
			p.signal(syscall.SIGKILL)
		}
	}
}

// finish kills what is left of the group and takes the leader's status. The
// leader must have ended: only then is nobody else's group hit.
func (a *Agent) finish(p *process) (exit int, signal string, err error) {
	<-p.ended
	p.signal(syscall.SIGKILL)
	err = p.cmd.Wait()
	a.mu.Lock()
	delete(a.children, p.cmd.Process.Pid)
	a.mu.Unlock()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return -1, "", fmt.Errorf("waiting for the process: %w", err)
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return -1, signalName(status.Signal()), nil
	}
	return p.cmd.ProcessState.ExitCode(), "", nil
}

// signalName gives a signal's name as kill -l has it, with SIG in front.
func signalName(s syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGHUP: "HUP", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT", syscall.SIGILL: "ILL", syscall.SIGTRAP: "TRAP",
		syscall.SIGABRT: "ABRT", syscall.SIGBUS: "BUS", syscall.SIGFPE: "FPE", syscall.SIGKILL: "KILL", syscall.SIGUSR1: "USR1",
		syscall.SIGSEGV: "SEGV", syscall.SIGUSR2: "USR2", syscall.SIGPIPE: "PIPE", syscall.SIGALRM: "ALRM", syscall.SIGTERM: "TERM",
		syscall.SIGXCPU: "XCPU", syscall.SIGXFSZ: "XFSZ", syscall.SIGSYS: "SYS", syscall.SIGVTALRM: "VTALRM", syscall.SIGPROF: "PROF",
	}
	if n, ok := names[s]; ok {
		return "SIG" + n
	}
	return fmt.Sprintf("SIG%d", int(s))
}
