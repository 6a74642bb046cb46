package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
)

// keeperConfig is the driver's first and only word to a keeper.
type keeperConfig struct {
	Boot         string        `json:"boot"`
	Mark         string        `json:"mark"`
	Console      string        `json:"console"`
	ConsoleBytes int64         `json:"console_bytes"`
	Env          []string      `json:"env"` // of the agent, whole
	Executable   string        `json:"executable"`
	KillTimeout  time.Duration `json:"kill_timeout"`
	Harness      int           `json:"harness"`
	Agent        agentConfig   `json:"agent"`
}

// keeperStarted is the keeper's answer.
type keeperStarted struct {
	Error string `json:"error,omitempty"`
}

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2).
const prSetChildSubreaper = 36

// keeper is what a keeper's process knows.
type keeper struct {
	dir  string
	conf keeperConfig
	run  runRecord
	lock *flock.Lock
	log  *consoleLog
	// drained is closed when nobody can write to the console any more.
	drained chan struct{}
}

// runKeeper is the life of a keeper. Its exit code matters to nobody: how the
// machine ended is in end.json.
func runKeeper(dir string) int {
	// The agent's parent-death signal fires when the thread that made it ends.
	runtime.LockOSThread()
	syscall.CloseOnExec(channelFD)
	syscall.CloseOnExec(controlFD)
	// Taken and dropped, not ignored: what is ignored here, or was by whoever
	// started the harness, would be ignored by all jobs too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGPWR)

	control := os.NewFile(controlFD, "control")
	k := &keeper{dir: dir}
	words := json.NewDecoder(control)
	if err := words.Decode(&k.conf); err != nil {
		fmt.Fprintln(os.Stderr, "local: keeper: no word from the driver:", err)
		return 1
	}
	agent, err := k.start()
	answer := keeperStarted{}
	if err != nil {
		answer.Error = err.Error()
	}
	if werr := json.NewEncoder(control).Encode(answer); werr != nil && err == nil {
		err = werr
	}
	if err != nil {
		_ = k.end(vm.EndCrashed, "the agent could not be started: "+err.Error())
		return 1
	}
	kind, detail := k.watch(agent, control, signals)
	if err := k.end(kind, detail); err != nil {
		fmt.Fprintln(os.Stderr, "local: keeper:", err)
		return 1
	}
	return 0
}

// start makes this process what a keeper is, and starts the agent.
func (k *keeper) start() (agent int, err error) {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		return 0, fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", errno)
	}
	// Refused where the limit is lowered already, such as in a machine within a
	// machine: the other two ways of finding processes are left.
	if err := setLimitMark(k.conf.Mark); err != nil && !errors.Is(err, syscall.EPERM) {
		return 0, fmt.Errorf("setrlimit(RLIMIT_RTTIME): %w", err)
	}
	// Never taken by two: the driver starts one keeper at a time, and only
	// when the one before is gone. It may be looked at by many, so wait.
	ctx, cancel := context.WithTimeout(context.Background(), k.conf.KillTimeout)
	defer cancel()
	k.lock, err = flock.Wait(ctx, filepath.Join(k.dir, runLock), os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return 0, err
	}
	k.run = runRecord{Boot: k.conf.Boot, Started: time.Now().UTC(), Harness: k.conf.Harness}
	if k.run.Keeper, err = self(); err != nil {
		return 0, err
	}
	if k.run.HostRun, k.run.PIDs, err = where(); err != nil {
		return 0, err
	}
	if err := writeRecord(filepath.Join(k.dir, runFile), k.run, false); err != nil {
		return 0, err
	}
	if k.log, err = openConsole(k.conf.Console, k.conf.ConsoleBytes); err != nil {
		return 0, err
	}
	agent, err = k.startAgent()
	if err != nil {
		return 0, err
	}
	p, err := lookup(agent)
	if err != nil {
		return agent, err
	}
	k.run.Agent = p.procID
	return agent, writeRecord(filepath.Join(k.dir, runFile), k.run, false)
}

// startAgent does not use os/exec, whose Wait would miss what waits for all
// children takes.
func (k *keeper) startAgent() (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	consoleOut, consoleIn, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer consoleIn.Close()
	k.drained = make(chan struct{})
	go func() {
		k.log.drain(consoleOut)
		close(k.drained)
	}()
	conf, confIn, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer conf.Close()
	b, err := json.Marshal(k.conf.Agent)
	if err != nil {
		return 0, err
	}
	written := make(chan error, 1)
	go func() {
		_, err := confIn.Write(b)
		written <- errors.Join(err, confIn.Close())
	}()
	channel := os.NewFile(channelFD, "channel")
	pid, err := syscall.ForkExec(k.conf.Executable, []string{"bullpen-agent", filepath.Base(k.dir)}, &syscall.ProcAttr{
		Dir:   filepath.Join(k.dir, guestRoot),
		Env:   append(k.conf.Env, roleVar+"=agent:"+k.dir),
		Files: []uintptr{null.Fd(), consoleIn.Fd(), consoleIn.Fd(), channel.Fd(), conf.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s as the agent: %w", k.conf.Executable, err)
	}
	// From now on the driver sees the channel's end when the agent is gone.
	if err := channel.Close(); err != nil {
		return pid, err
	}
	if err := conf.Close(); err != nil {
		return pid, err
	}
	if err := <-written; err != nil {
		return pid, fmt.Errorf("tell the agent its configuration: %w", err)
	}
	return pid, nil
}

// watch reaps every child and returns when the machine has to end.
func (k *keeper) watch(agent int, control io.Reader, signals <-chan os.Signal) (vm.EndKind, string) {
	ended := make(chan syscall.WaitStatus, 1)
	go reap(agent, ended)
	return k.await(ended, control, signals)
}

// await returns when the agent has ended, the harness has, or a signal says so.
func (k *keeper) await(ended <-chan syscall.WaitStatus, control io.Reader, signals <-chan os.Signal) (vm.EndKind, string) {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, control) // whatever the reason, there is no driver any more
		close(gone)
	}()
	pressed := false
	for {
		select {
		case st := <-ended:
			if pressed && st.Signaled() && st.Signal() == syscall.SIGTERM {
				return vm.EndPoweredOff, "the agent was asked to power off before it listened"
			}
			return agentEnd(st)
		case <-gone:
			return vm.EndKilled, "the harness ended"
		case sig := <-signals:
			if sig == syscall.SIGPWR {
				pressed = true
				if err := k.run.Agent.signal(syscall.SIGTERM); err != nil {
					fmt.Fprintln(os.Stderr, "local: keeper: power button:", err)
				}
				continue
			}
			// Also the parent-death signal.
			return vm.EndKilled, "the keeper was told to end by signal " + sig.String()
		}
	}
}

// reap waits for children, those that were orphaned below too, until there are
// none. It is the only one in a keeper who waits.
func reap(agent int, ended chan<- syscall.WaitStatus) {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD: the agent is among those reaped
			return
		case pid == agent && (st.Exited() || st.Signaled()):
			ended <- st
		}
	}
}

// end ends all processes below, and only then says how the machine ended.
func (k *keeper) end(kind vm.EndKind, detail string) error {
	ctx, cancel := context.WithTimeout(context.Background(), k.conf.KillTimeout)
	defer cancel()
	h := newHerd(k.conf.Mark, k.run)
	h.spare = k.run.Keeper
	err := h.end(ctx)
	if err != nil {
		detail += "; not all of its processes could be ended: " + err.Error()
	}
	if k.drained != nil {
		select { // all writers are gone, but for one outside that was handed the pipe
		case <-k.drained:
		case <-time.After(time.Second):
		}
	}
	werr := writeRecord(filepath.Join(k.dir, endFile), endRecord{Boot: k.conf.Boot, Kind: kind, Detail: detail, At: time.Now().UTC()}, false)
	if errors.Is(werr, os.ErrNotExist) {
		werr = nil // destroyed meanwhile: nobody is left to be told
	}
	return errors.Join(err, werr)
}
