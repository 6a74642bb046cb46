package vm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func TestExecTellsHowTheCommandEnded(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		command vm.Command
		exec    func(context.Context, *fake.Call) vm.Exit
		without vm.Set
		exit    vm.Exit
		err     error
		text    string
	}{
		"well":              {command: vm.Command{Argv: []string{"true"}}},
		"with a code":       {command: vm.Command{Argv: []string{"exit", "7"}}, exit: vm.Exit{Code: 7}},
		"by a signal":       {command: vm.Command{Argv: []string{"x"}}, exec: func(context.Context, *fake.Call) vm.Exit { return vm.Exit{Code: -1, Signal: "segmentation fault"} }, exit: vm.Exit{Code: -1, Signal: "segmentation fault"}},
		"not started":       {command: vm.Command{Argv: []string{"nope"}}, exit: vm.Exit{Code: -1}, text: `vm: exec m1: "nope" was not started: nope: not found`},
		"no program":        {exit: vm.Exit{Code: -1}, text: "Command.Argv is empty, want at least the program"},
		"an empty program":  {command: vm.Command{Argv: []string{""}}, exit: vm.Exit{Code: -1}, text: "Command.Argv is empty"},
		"no channel":        {command: vm.Command{Argv: []string{"true"}}, without: vm.CanMessage, exit: vm.Exit{Code: -1}, err: errors.ErrUnsupported},
		"its time is over":  {command: vm.Command{Argv: []string{"sleep"}}, exit: vm.Exit{Code: -1}, err: context.DeadlineExceeded, text: "no word from the guest on stream 1 after 1m0s"},
		"output that fails": {command: vm.Command{Argv: []string{"echo", "x"}, Stdout: failing{broken}}, exit: vm.Exit{Code: -1}, err: broken, text: "Command.Stdout"},
		"input that fails":  {command: vm.Command{Argv: []string{"cat"}, Stdin: iotest.ErrReader(broken)}, exit: vm.Exit{Code: -1}, err: broken, text: "Command.Stdin"},
		"input not taken":   {command: vm.Command{Argv: []string{"true"}, Stdin: endless{}}},
		"errors apart": {command: vm.Command{Argv: []string{"x"}, Stderr: failing{broken}}, exec: func(_ context.Context, c *fake.Call) vm.Exit {
			io.WriteString(c.Stdout, "out")
			io.WriteString(c.Stderr, "err")
			return vm.Exit{}
		}, exit: vm.Exit{Code: -1}, err: broken, text: "Command.Stderr"},
		"more arguments than a frame can carry": {command: vm.Command{Argv: []string{"echo", string(make([]byte, 100<<10))}}, exit: vm.Exit{Code: -1}, err: vm.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := fake.New(fake.Config{Exec: c.exec, Without: c.without})
				defer d.Close()
				m := boot(t, d, "m1")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				exit, err := vm.Exec(ctx, m, c.command)
				require.Equal(t, c.exit, exit)
				if c.err != nil {
					require.ErrorIs(t, err, c.err)
				}
				if c.text != "" {
					require.ErrorContains(t, err, c.text)
				}
				if c.err == nil && c.text == "" {
					require.NoError(t, err)
				}
				require.Equal(t, err == nil && exit.Code == 0, err == nil && exit.OK())
			})
		})
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestExitIsReadable(t *testing.T) {
	t.Parallel()
	require.Equal(t, "exit 3", vm.Exit{Code: 3}.String())
	require.Equal(t, "signal killed", vm.Exit{Code: -1, Signal: "killed"}.String())
	require.False(t, vm.Exit{Signal: "killed"}.OK())
}

func TestMachineCrashesUnderACommandAndACopy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		for _, do := range []func(m vm.Machine) error{
			func(m vm.Machine) error {
				_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"sleep"}})
				return err
			},
			func(m vm.Machine) error {
				_, err := vm.CopyTo(t.Context(), m, "/x", slowFS{}, nil)
				return err
			},
		} {
			m := boot(t, d, "m1")
			time.AfterFunc(time.Second, func() { _ = d.Hypervisor().Crash("m1") })
			require.ErrorIs(t, do(m), vm.ErrChannelEnded)
			require.NoError(t, m.Destroy(t.Context()))
		}
	})
}

// slowFS is a tree whose one file never ends.
type slowFS struct{}

func (slowFS) Open(name string) (fs.File, error) {
	f, err := fstest.MapFS{"endless": {Data: make([]byte, 1<<20)}}.Open(name)
	if name == "endless" {
		return slowFile{f}, err
	}
	return f, err
}

type slowFile struct{ fs.File }

func (f slowFile) Read(p []byte) (int, error) {
	time.Sleep(time.Second / 10)
	clear(p)
	return min(len(p), 1000), nil
}

func TestCopyRefusesWhatItCannotDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "m1")
		_, err := vm.CopyTo(t.Context(), m, "/x", fstest.MapFS{"link": {Mode: fs.ModeSymlink}}, nil)
		require.ErrorContains(t, err, "copy link: it is a L---------, want a file or a folder")
		_, err = vm.CopyTo(t.Context(), m, "/x", fstest.MapFS{"big": {Data: make([]byte, 1<<20)}}, &vm.CopyOptions{MaxBytes: 1 << 19})
		require.ErrorIs(t, err, vm.ErrTooLarge)
		require.ErrorContains(t, err, "vm: copy to /x m1: big: too large: more than 524288 bytes")
		c, err := vm.CopyTo(t.Context(), m, "/x", fstest.MapFS{"big": {Data: make([]byte, 1<<20)}}, nil)
		require.NoError(t, err)
		require.Equal(t, vm.Copied{Files: 1, Bytes: 1 << 20}, c)
		broken := errors.New("disk full")
		_, err = vm.CopyFrom(t.Context(), m, "/x", failing{broken}, nil)
		require.ErrorIs(t, err, broken)
		_, err = vm.CopyFrom(t.Context(), m, "/x", io.Discard, &vm.CopyOptions{MaxBytes: 1000})
		require.ErrorIs(t, err, vm.ErrTooLarge)
		// The machine is as good as before.
		var out bytes.Buffer
		_, err = vm.Exec(t.Context(), m, vm.Command{Argv: []string{"echo", "ok"}, Stdout: &out})
		require.NoError(t, err)
		require.Equal(t, "ok\n", out.String())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = vm.CopyTo(ctx, m, "/x", fstest.MapFS{}, nil)
		require.ErrorIs(t, err, context.Canceled)
		nochannel := fake.New(fake.Config{Without: vm.CanMessage})
		defer nochannel.Close()
		_, err = vm.CopyFrom(t.Context(), boot(t, nochannel, "m2"), "/", io.Discard, nil)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

func TestCopyWithoutItsEndIsAnError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "m1")
		_, err := vm.CopyTo(t.Context(), m, "/x", fstest.MapFS{"f": {Data: []byte("x")}}, nil)
		require.NoError(t, err)
		cut := vm.InterceptMachine(m, vm.Interceptor{Call: func(ctx context.Context, op string, _ vm.ID, result any, do func(context.Context) error) error {
			err := do(ctx)
			if b, ok := result.(*[]byte); ok && op == vm.OpRecv && err == nil && len(*b) == 0 {
				*b = []byte("more data instead of the end")
			}
			return err
		}})
		_, err = vm.CopyFrom(t.Context(), cut, "/x", io.Discard, nil)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
