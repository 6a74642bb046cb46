package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest"
	"github.com/bullpen-vm/bullpen/vm"
)

// agentConfig is what an agent is told through a pipe: not by its arguments or
// its environment, which its jobs can read.
type agentConfig struct {
	Secret      string  `json:"secret"`
	Incarnation string  `json:"incarnation"`
	JobDisks    []int64 `json:"job_disks"`
	Inputs      int     `json:"inputs"`
	Cache       string  `json:"cache"`
	CacheBytes  int64   `json:"cache_bytes"`
}

// crashVar holds a shell command that ends the machine at once, without a word.
const crashVar = "BULLPEN_CRASH"

// How an agent's process says why it ended.
const (
	exitPoweredOff = 0
	exitFailed     = 1
	exitChannel    = 3 // the host closed the channel
	exitRefused    = 4
	exitKeepalive  = 5 // the dead man's switch
)

// runAgent is the life of an agent: package guest does the work, in a folder
// instead of a machine. Its standard error is the machine's console.
func runAgent(dir string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "local: agent:", err)
		return exitFailed
	}
	syscall.CloseOnExec(channelFD)
	syscall.CloseOnExec(controlFD)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var conf agentConfig
	pipe := os.NewFile(controlFD, "configuration")
	if err := errors.Join(json.NewDecoder(pipe).Decode(&conf), pipe.Close()); err != nil {
		return fail(err)
	}
	// So that reads and writes can be ended by Close.
	if err := syscall.SetNonblock(channelFD, true); err != nil {
		return fail(err)
	}
	code, err := conf.serve(ctx, dir, os.NewFile(channelFD, "channel"), os.Stderr)
	if err != nil {
		return fail(err)
	}
	return code
}

// serve is an agent on a connection, which it closes.
func (c agentConfig) serve(ctx context.Context, dir string, conn io.ReadWriteCloser, console io.Writer) (code int, err error) {
	store := &inputStore{dir: c.Cache, most: c.CacheBytes, unpack: unpacker(console)}
	// The counterpart of a guest's own `echo c >/proc/sysrq-trigger`, for jobs
	// that try what happens when a machine dies.
	crash := fmt.Sprintf("%s=kill -9 %d", crashVar, os.Getpid())
	off := false
	agent, err := guest.New(guest.Config{
		Conn:        conn,
		Secret:      c.Secret,
		Incarnation: c.Incarnation,
		Agent:       "bullpen-local",
		Disks:       func(n int) (guest.Disk, error) { return c.disk(dir, n) },
		Inputs: func(ctx context.Context, in diskio.GoInput) (string, func() error, error) {
			return c.input(ctx, store, dir, in)
		},
		Environ:  setVar(os.Environ(), crash),
		WorkDir:  filepath.Join(dir, guestWork),
		Root:     filepath.Join(dir, guestRoot),
		Mark:     filepath.Join(dir, dirtyMark),
		PowerOff: func() { off = true },
		Details:  map[string]string{"isolation": "none", "uid": fmt.Sprint(os.Getuid())},
		Logger:   slog.New(slog.NewTextHandler(console, nil)),
	})
	if err != nil {
		return exitFailed, err
	}
	err = agent.Run(ctx)
	switch {
	case errors.Is(err, guest.ErrKeepalive):
		return exitKeepalive, nil
	case errors.Is(err, guest.ErrRefused):
		return exitRefused, nil
	case off, ctx.Err() != nil:
		return exitPoweredOff, nil //nolint:nilerr // that is how it was told to end
	case err != nil:
		return exitFailed, err
	}
	return exitChannel, nil
}

// agentEnd says what the end of an agent's process means.
func agentEnd(st syscall.WaitStatus) (vm.EndKind, string) {
	if st.Signaled() {
		kind := vm.EndCrashed
		if st.Signal() == syscall.SIGKILL {
			kind = vm.EndKilled
		}
		return kind, "the agent was ended by signal " + st.Signal().String()
	}
	switch st.ExitStatus() {
	case exitPoweredOff:
		return vm.EndPoweredOff, "the agent powered off"
	case exitChannel:
		return vm.EndKilled, "the host closed the channel"
	case exitRefused:
		return vm.EndPoweredOff, "the host refused the agent's hello"
	case exitKeepalive:
		return vm.EndPoweredOff, "the agent heard nothing from the host for too long"
	}
	return vm.EndCrashed, fmt.Sprintf("the agent ended with exit code %d", st.ExitStatus())
}

// guestDisk is the guest's side of a job disk.
type guestDisk struct{ *disk }

// Sync has nothing to do: see hostDisk.
func (guestDisk) Sync() error { return nil }

func (c agentConfig) disk(dir string, n int) (guest.Disk, error) {
	if n < 0 || n >= len(c.JobDisks) {
		return nil, fmt.Errorf("job disk %d is not there: this machine has %d", n, len(c.JobDisks))
	}
	d, err := openDisk(filepath.Join(dir, jobDiskFile(n)), c.JobDisks[n])
	if err != nil {
		return nil, err
	}
	return guestDisk{d}, nil
}

// input looks what is in the place and makes it readable.
func (c agentConfig) input(ctx context.Context, store *inputStore, dir string, in diskio.GoInput) (string, func() error, error) {
	if in.Place < 0 || in.Place >= c.Inputs {
		return "", nil, fmt.Errorf("place %d is not there: this machine has %d", in.Place, c.Inputs)
	}
	image := filepath.Join(dir, inputFile(in.Place))
	var have inputRecord
	if err := readRecord(image+".json", &have); err != nil {
		return "", nil, fmt.Errorf("place %d is empty: %w", in.Place, err)
	}
	if want := (inputRecord{Digest: in.Digest, Size: in.Size}); have != want {
		return "", nil, fmt.Errorf("place %d has %s of %d bytes, want %s of %d", in.Place, have.Digest, have.Size, want.Digest, want.Size)
	}
	private, err := os.MkdirTemp(filepath.Join(dir, guestRoot), ".input-")
	if err != nil {
		return "", nil, err
	}
	tree, release, err := store.take(ctx, image, in.Digest, filepath.Join(private, treeFolder))
	if err != nil {
		return "", nil, errors.Join(err, removeTree(private))
	}
	return tree, func() error { return errors.Join(release(), removeTree(private)) }, nil
}
