package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/calls"
)

// Start starts the machine's processes: it returns when the agent's program
// runs. What an earlier run left behind is ended first.
func (m *machine) Start(ctx context.Context) error {
	ctx, end, err := m.d.begin(ctx)
	if err != nil {
		return m.d.fail("start", m.id, err)
	}
	defer end()
	spec, unlock, err := m.operate(ctx, "start", false)
	if err != nil {
		return m.d.fail("start", m.id, err)
	}
	err = m.start(ctx, spec)
	return m.withConsole(m.d.fail("start", m.id, errors.Join(err, unlock())), spec)
}

// withConsole adds the console's tail to the error of a boot that failed.
func (m *machine) withConsole(err error, spec specRecord) error {
	var op *vm.OpError
	if errors.As(err, &op) && !errors.Is(err, vm.ErrState) {
		op.Console, _ = consoleTail(spec.Console, vm.ConsoleTail) // the boot's error is the one to tell
	}
	return err
}

func (m *machine) start(ctx context.Context, spec specRecord) error {
	st, err := m.status()
	if err != nil {
		return err
	}
	switch st.state {
	case vm.StateDefined, vm.StateStopped, vm.StateCrashed:
	default:
		return fmt.Errorf("%w: it is %v, want defined, stopped or crashed", vm.ErrState, st.state)
	}
	m.setStarting(true)
	defer m.setStarting(false)
	ctx, cancel := context.WithTimeoutCause(ctx, m.d.conf.BootTimeout, fmt.Errorf("the agent did not start within %v: %w", m.d.conf.BootTimeout, context.DeadlineExceeded))
	defer cancel()
	if st.state != vm.StateDefined {
		if err := newHerd(spec.Mark, st.run).end(ctx); err != nil {
			return fmt.Errorf("processes of the last run: %w", err)
		}
	}
	for _, name := range []string{runFile, endFile} {
		if err := os.Remove(m.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	secret, err := os.ReadFile(m.path(secretFile))
	if errors.Is(err, fs.ErrNotExist) {
		secret, err = []byte(rand.Text()), nil
	}
	if err != nil {
		return err
	}
	addr, err := m.address()
	if err != nil {
		return err
	}
	r, err := m.launch(spec, string(secret), m.environment(spec, addr))
	if err != nil {
		return err
	}
	err = r.started(ctx)
	if m.d.calls.Closing() {
		err = calls.ErrClosing // which may have killed it, or looked for runs before this one was there
	}
	if err != nil {
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.d.conf.KillTimeout)
		defer cancel()
		return errors.Join(err, r.kill(kctx, "its start failed"))
	}
	return nil
}

func (m *machine) setStarting(on bool) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if on {
		m.d.starts[m.id] = true
	} else {
		delete(m.d.starts, m.id)
	}
}

// launch starts the keeper and all that this driver does for a running machine.
func (m *machine) launch(spec specRecord, secret string, env []string) (*run, error) {
	host, guest, err := socketPair("channel of " + string(m.id))
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	control, keeper, err := socketPair("control of " + string(m.id))
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	defer keeper.Close()
	console, err := os.OpenFile(spec.Console, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("console: %w", err), host.Close(), control.Close())
	}
	defer console.Close()
	c := exec.Command(m.d.conf.Executable) //nolint:noctx // it outlives the call
	c.Args = []string{"bullpen-keeper", string(m.id)}
	c.Dir = m.dir()
	c.Env = append(slices.Clip(env), roleVar+"=keeper:"+m.dir())
	c.Stdout, c.Stderr = console, console
	c.ExtraFiles = []*os.File{guest, keeper} // channelFD, controlFD
	// A session of its own: a terminal's interrupt is for the harness alone.
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	m.d.launch.do(func() { err = c.Start() })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s as the keeper: %w", c.Path, err), host.Close(), control.Close())
	}
	r := &run{m: m, id: m.id, spec: spec, boot: rand.Text(), command: c, control: control, done: make(chan struct{})}
	r.channel = vm.NewChannel(host, vm.ChannelConfig{
		Driver: m.d.hostID, Machine: m.id, HostName: string(m.id), MachineID: machineID(spec.Incarnation), Incarnation: spec.Incarnation,
		Secret: vm.Secret(secret), Properties: spec.Properties, Keepalive: m.d.conf.Keepalive, Logger: m.d.log,
	})
	r.config = keeperConfig{
		Boot: r.boot, Mark: spec.Mark, Console: spec.Console, ConsoleBytes: m.d.conf.Console, Env: env,
		Executable: m.d.conf.Executable, KillTimeout: m.d.conf.KillTimeout, Harness: os.Getpid(),
		Agent: agentConfig{
			Secret: secret, Incarnation: spec.Incarnation, JobDisks: spec.JobDisks, Inputs: spec.Inputs,
			Cache: filepath.Join(m.d.root, cacheFolder), CacheBytes: m.d.conf.InputCache,
		},
	}
	m.d.mu.Lock()
	m.d.runs[m.id] = r
	m.d.calls.Keep() // inside Start's own, so Close is not past its wait
	m.d.mu.Unlock()
	go r.supervise()
	return r, nil
}

// machineID derives 32 hexadecimal digits from an incarnation.
func machineID(incarnation string) string {
	h := sha256.Sum256([]byte("bullpen machine id\n" + incarnation))
	return hex.EncodeToString(h[:16])
}

// socketPair gives our end, which can be waited for, and the other one.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// started tells the keeper its configuration and waits for its answer.
func (r *run) started(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = r.control.SetDeadline(time.Unix(1, 0)) // ends what follows; the context has the reason
	})
	defer stop()
	var answer keeperStarted
	err := json.NewEncoder(r.control).Encode(r.config)
	if err == nil {
		err = json.NewDecoder(r.control).Decode(&answer)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the keeper ended without a word (is local.Main the first line of the program's main, or TestMain?): %w", err)
	case answer.Error != "":
		return errors.New(answer.Error)
	}
	return nil
}
