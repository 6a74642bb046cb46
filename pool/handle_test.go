package pool

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// roleVar makes this program a process of a test's.
const roleVar = "BULLPEN_POOL_TEST_ROLE"

// patience bounds what another process does.
const patience = 2 * time.Minute

func play(role string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	what, arg, _ := strings.Cut(role, " ")
	var err error
	switch what {
	case "borrow":
		err = borrow(ctx)
	case "lend":
		err = lendOne(ctx, arg)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lendOne lends one local machine, says its handle, and waits to be killed.
func lendOne(ctx context.Context, dir string) error {
	driver, err := local.Open(local.Config{Root: filepath.Join(dir, "m")})
	if err != nil {
		return err
	}
	leases, err := lease.New(lease.Config{Store: lease.NewMemStore(), Dir: filepath.Join(dir, "r")})
	if err != nil {
		return err
	}
	p, err := New(Config{Leases: leases, Hosts: []Host{{Driver: driver, Slots: 1}}, Templates: one("a")})
	if err != nil {
		return err
	}
	g, err := p.Acquire(ctx, Want{Job: "lent"})
	if err != nil {
		return err
	}
	text, err := g.Handle(ctx)
	if err != nil {
		return err
	}
	fmt.Println(text)
	<-ctx.Done()
	return ctx.Err()
}

// report is what a borrower says after each line that it was told.
type report struct {
	Out                               string
	Err                               string
	Released, Gone, Lost, Handle, End bool
}

func reported1(out string, err error) report {
	r := report{Out: out, Released: errors.Is(err, ErrReleased), Gone: errors.Is(err, ErrLenderGone), Lost: errors.Is(err, lease.ErrLost), Handle: errors.Is(err, ErrHandle)}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// borrow opens the handle in its first line of input, and does what the others
// say.
func borrow(ctx context.Context) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	say := json.NewEncoder(os.Stdout)
	in.Scan()
	g, err := OpenHandle(ctx, in.Text())
	if err := say.Encode(reported1("", err)); err != nil || g == nil {
		return err
	}
	for in.Scan() {
		word := strings.Fields(in.Text())
		var out bytes.Buffer
		var err error
		switch word[0] {
		case "exec":
			_, err = g.Exec(ctx, vm.Command{Argv: word[1:], Stdout: &out})
		case "wait":
			select {
			case <-g.Context().Done():
				err = context.Cause(g.Context())
			case <-ctx.Done():
			}
		case "broken":
			err = g.Release(ctx, Broken(errors.New(word[1])))
		}
		if err := say.Encode(reported1(out.String(), err)); err != nil {
			return err
		}
	}
	return nil
}

// process is another process of this program.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func spawn(t *testing.T, role string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), roleVar+"="+role)
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 1<<20)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9; idempotent.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) tell(line string) {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, line)
	require.NoError(p.t, err)
}

func (p *process) line() string {
	p.t.Helper()
	require.True(p.t, p.out.Scan(), "the process says nothing: %v", p.out.Err())
	return p.out.Text()
}

func (p *process) hear() report {
	p.t.Helper()
	var r report
	require.NoError(p.t, json.Unmarshal([]byte(p.line()), &r))
	return r
}

func (p *process) ask(line string) report {
	p.t.Helper()
	p.tell(line)
	return p.hear()
}

// shortDir is a folder whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bp")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// lending is a pool with one guest that is held.
type lending struct {
	*Pool
	guest *Guest
	text  string
}

// lend makes one on a driver; with real time and files, for sockets are real.
func lend(t *testing.T, driver vm.Driver, o lease.Config) *lending {
	t.Helper()
	o.Store, o.Dir = lease.NewMemStore(), shortDir(t)
	leases, err := lease.New(o)
	require.NoError(t, err)
	p, err := New(Config{Leases: leases, Hosts: []Host{{Name: "here", Driver: driver, Slots: 1, Labels: map[string]string{"os": "x"}}}, Templates: []Template{{Name: "a", Properties: map[string]string{"told": "this"}}}, Drain: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, p.Close(ctx))
		require.NoError(t, leases.Close(ctx))
		require.NoError(t, driver.Close())
	})
	g, err := p.Acquire(t.Context(), Want{Job: "TestX"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = g.Release(context.Background(), nil) })
	text, err := g.Handle(t.Context())
	require.NoError(t, err)
	return &lending{Pool: p, guest: g, text: text}
}

func localDriver(t *testing.T) vm.Driver {
	t.Helper()
	d, err := local.Open(local.Config{Root: filepath.Join(shortDir(t), "m")})
	require.NoError(t, err)
	return d
}

// clearAll destroys what a process that was killed left in a folder.
func clearAll(t *testing.T, root string) {
	t.Helper()
	d, err := local.Open(local.Config{Root: root})
	require.NoError(t, err)
	all, err := d.List(t.Context())
	require.NoError(t, err)
	for _, i := range all {
		m, err := d.Open(t.Context(), i.ID)
		require.NoError(t, err)
		require.NoError(t, m.Destroy(t.Context()))
	}
	require.NoError(t, d.Close())
}

func fakeDriver(faults ...fake.Fault) *fake.Driver {
	return fake.New(fake.Config{HostID: "h", Faults: faults, Times: fake.Times{Boot: time.Millisecond}})
}

func TestAChildProcessWorksOnItsParentsGuestUntilThatIsReleased(t *testing.T) {
	t.Parallel()
	l := lend(t, localDriver(t), lease.Config{})
	child, other := spawn(t, "borrow"), spawn(t, "borrow")
	require.Equal(t, report{}, child.ask(l.text))
	require.Equal(t, report{}, other.ask(l.text), "all who have the text share the guest")
	require.Equal(t, report{Out: "hello\n"}, child.ask("exec echo hello"))
	require.Equal(t, report{Out: "there\n"}, other.ask("exec echo there"))
	require.NoError(t, l.guest.Release(t.Context(), nil))
	r := child.ask("exec echo late")
	require.True(t, r.Released, r.Err)
	require.Empty(t, r.Out)
	require.True(t, child.ask("wait").Released)
	late := spawn(t, "borrow")
	require.True(t, late.ask(l.text).Released, "the handle is over")
	require.True(t, other.ask("wait").Released)
}

func TestAGuestThatIsLentDiesWithItsLender(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	parent := spawn(t, "lend "+dir)
	g, err := OpenHandle(t.Context(), parent.line())
	require.NoError(t, err)
	defer g.Release(context.Background(), nil)
	var out bytes.Buffer
	_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"echo", "lives"}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "lives\n", out.String())
	running := make(chan error, 1)
	began, say := io.Pipe()
	go func() {
		_, err := g.Exec(context.Background(), vm.Command{Argv: []string{"sh", "-c", "echo; sleep 600"}, Stdout: say})
		running <- err
	}()
	_, err = began.Read(make([]byte, 1))
	require.NoError(t, err)
	parent.kill()
	<-g.Context().Done()
	require.ErrorIs(t, context.Cause(g.Context()), ErrLenderGone)
	require.ErrorIs(t, <-running, ErrLenderGone, "what runs ends as well")
	_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, ErrLenderGone)
	_, err = g.Machine().Info(t.Context())
	require.ErrorIs(t, err, ErrLenderGone)
	require.ErrorIs(t, g.Release(t.Context(), nil), ErrLenderGone, "what was done may be in doubt")
	clearAll(t, filepath.Join(dir, "m"))
}

func TestABorrowerThatIsKilledLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	l := lend(t, localDriver(t), lease.Config{})
	mark := filepath.Join(t.TempDir(), "began")
	child := spawn(t, "borrow")
	require.Equal(t, report{}, child.ask(l.text))
	child.tell("exec sh -c echo$IFS$$>" + mark + ";sleep$IFS600")
	var pid string
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(mark)
		pid = strings.TrimSpace(string(b))
		return err == nil && pid != ""
	}, patience, 5*time.Millisecond)
	child.kill()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	}, patience, 5*time.Millisecond, "its command goes on in the guest")
	// The guest is its lender's as before.
	var out bytes.Buffer
	_, err := l.guest.Exec(t.Context(), vm.Command{Argv: []string{"echo", "mine"}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "mine\n", out.String())
	require.NoError(t, l.guest.Context().Err())
}

func TestABorrowersWordThatTheMachineIsBrokenCounts(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	child := spawn(t, "borrow")
	require.Equal(t, report{}, child.ask(l.text))
	require.Equal(t, report{}, child.ask("broken smoke"))
	require.True(t, child.ask("exec true").Released, "the child gave it back")
	require.Eventually(t, func() bool { return l.guest.reported.Load() != nil }, patience, time.Millisecond)
	require.NoError(t, l.guest.Context().Err(), "the parent has it still")
	require.NoError(t, l.guest.Release(t.Context(), nil))
	require.EqualValues(t, 1, l.Stats().Failures)
}

func TestABorrowedGuestIsToldWhatItsLenderKnows(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	own := l.guest
	require.Equal(t, own.Name(), g.Name())
	require.Equal(t, own.Token(), g.Token())
	require.Equal(t, own.String(), g.String())
	require.Equal(t, own.Labels(), g.Labels())
	require.Equal(t, own.Properties(), g.Properties())
	require.Equal(t, "this", g.Properties()["told"])
	require.Equal(t, own.Job(), g.Job())
	require.Equal(t, own.BootTime(), g.BootTime())
	again, err := g.Handle(t.Context())
	require.NoError(t, err)
	require.Equal(t, l.text, again)
	want, err := own.Machine().Info(t.Context())
	require.NoError(t, err)
	got, err := g.Machine().Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, want.ID, got.ID)
	require.Equal(t, want.Owner, got.Owner)
	addresses, err := own.Addresses(t.Context())
	require.NoError(t, err)
	borrowed, err := g.Addresses(t.Context())
	require.NoError(t, err)
	require.Equal(t, addresses, borrowed)
	_, err = g.Hold(t.Context(), HoldOptions{})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = g.Detach(t.Context(), "me")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, lendable, vm.Capabilities(g.Machine()))
	require.ErrorIs(t, vm.ProveClean(t.Context(), useOnce(t, g)), vm.ErrDirty, "a use by another process is one")
}

// useOnce uses a guest through its lender and gives its machine.
func useOnce(t *testing.T, g *Guest) vm.Machine {
	_, err := g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
	require.NoError(t, err)
	return g.Machine()
}

func TestABorrowedMachineIsStoppedSuspendedAndStartedByItsLender(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	m := g.Machine()
	state := func() vm.State {
		i, err := l.guest.Machine().Info(t.Context())
		require.NoError(t, err)
		return i.State
	}
	s, ok := vm.As[vm.Suspender](m)
	require.True(t, ok)
	require.NoError(t, s.Suspend(t.Context()))
	require.Equal(t, vm.StatePaused, state())
	require.NoError(t, s.Resume(t.Context()))
	c, ok := vm.As[vm.Consoler](m)
	require.True(t, ok)
	text, err := c.Console(t.Context(), 100)
	require.NoError(t, err)
	require.NotEmpty(t, text)
	require.NoError(t, m.Kill(t.Context()))
	require.Equal(t, vm.StateStopped, state())
	w, ok := vm.As[vm.Waiter](m)
	require.True(t, ok)
	end, err := w.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, vm.EndKilled, end.Kind)
	require.NoError(t, m.Start(t.Context()))
	require.ErrorIs(t, m.Start(t.Context()), vm.ErrState, "errors can be tested for")
	require.NoError(t, m.Stop(t.Context()))
	require.NoError(t, m.Destroy(t.Context()))
}

func TestABorrowedMachinesSnapshotsAndScreenAreTheLendersOwn(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	m := g.Machine()
	s, ok := vm.As[vm.Snapshotter](m)
	require.True(t, ok)
	require.NoError(t, s.Snapshot(t.Context(), "before"))
	require.ErrorIs(t, s.Snapshot(t.Context(), "before"), vm.ErrExists)
	own, _ := vm.As[vm.Snapshotter](l.guest.Machine())
	there, err := own.Snapshots(t.Context())
	require.NoError(t, err)
	require.Contains(t, there, "before")
	useOnce(t, g)
	require.ErrorIs(t, vm.ProveClean(t.Context(), l.guest.Machine()), vm.ErrDirty)
	require.NoError(t, s.Revert(t.Context(), "before"))
	require.NoError(t, vm.ProveClean(t.Context(), l.guest.Machine()), "the use was undone")
	borrowed, err := s.Snapshots(t.Context())
	require.NoError(t, err)
	require.Equal(t, there, borrowed)
	require.NoError(t, s.DeleteSnapshot(t.Context(), "before"))
	require.ErrorIs(t, s.Revert(t.Context(), "before"), vm.ErrNotFound)

	c, ok := vm.As[vm.Screenshotter](m)
	require.True(t, ok)
	var want, got bytes.Buffer
	ownScreen, _ := vm.As[vm.Screenshotter](l.guest.Machine())
	_, err = ownScreen.Screenshot(t.Context(), &want)
	require.NoError(t, err)
	media, err := c.Screenshot(t.Context(), &got)
	require.NoError(t, err)
	require.Equal(t, "image/png", media)
	require.Equal(t, want.Bytes(), got.Bytes())
	_, err = c.Screenshot(t.Context(), fullWriter{})
	require.ErrorIs(t, err, errTest, "the borrower's own writer")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Screenshot(gone, io.Discard)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, m.Kill(t.Context()))
	_, err = c.Screenshot(t.Context(), io.Discard)
	require.ErrorIs(t, err, vm.ErrState, "errors can be tested for")

	require.NoError(t, l.guest.Release(t.Context(), nil))
	<-g.Context().Done()
	_, err = c.Screenshot(t.Context(), io.Discard)
	require.ErrorIs(t, err, ErrReleased)
	require.ErrorIs(t, s.Snapshot(t.Context(), "late"), ErrReleased)
	_, err = s.Snapshots(t.Context())
	require.ErrorIs(t, err, ErrReleased)
}

func TestAPictureThatNeverComesEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(fake.Fault{Op: vm.OpScreenshot, Hang: true}), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	c, ok := vm.As[vm.Screenshotter](g.Machine())
	require.True(t, ok)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Screenshot(ctx, io.Discard)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	told := make(chan error, 1)
	go func() { _, err := c.Screenshot(t.Context(), io.Discard); told <- err }()
	require.NoError(t, l.guest.Release(t.Context(), nil), "and with the guest")
	require.ErrorIs(t, <-told, ErrReleased)
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errTest }

// A machine that has no snapshots and no screen has none for its borrowers, and a
// picture of any size comes whole.
func TestABorrowerHasWhatTheMachineHas(t *testing.T) {
	t.Parallel()
	l := lend(t, fake.New(fake.Config{Without: vm.CanSnapshot | vm.CanScreenshot}), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	require.Equal(t, lendable&^(vm.CanSnapshot|vm.CanScreenshot), vm.Capabilities(g.Machine()))
	far := &farMachine{l: g.loan} // what the borrower's side would refuse, the lender's refuses too
	_, err = far.Screenshot(t.Context(), io.Discard)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, far.Snapshot(t.Context(), "x"), errors.ErrUnsupported)
	var wire bytes.Buffer
	picture := bytes.Repeat([]byte("0123456789abcdef"), (2*loan.MaxPayload+5)/16+1)
	n, err := dataWriter{&wire}.Write(picture)
	require.NoError(t, err)
	require.Len(t, picture, n)
	var got []byte
	for wire.Len() > 0 {
		var q move
		piece, err := loan.Read(&wire, &q)
		require.NoError(t, err)
		require.Equal(t, moveData, q.What)
		got = append(got, piece...)
	}
	require.Equal(t, picture, got)
}

func TestABorrowedMachinesDisksAndInputsAreTheLendersOwn(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	a, ok := vm.As[vm.Attacher](g.Machine())
	require.True(t, ok)
	disk, err := a.JobDisk(t.Context(), 0)
	require.NoError(t, err)
	require.EqualValues(t, DefaultJobDisk, disk.Size())
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16) // more than one message
	n, err := disk.WriteAt(big, 4096)
	require.NoError(t, err)
	require.Equal(t, len(big), n)
	require.NoError(t, disk.Sync(t.Context()))
	own, _ := vm.As[vm.Attacher](l.guest.Machine())
	same, err := own.JobDisk(t.Context(), 0)
	require.NoError(t, err)
	defer same.Close()
	got := make([]byte, len(big))
	_, err = same.ReadAt(got, 4096)
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	clear(got)
	_, err = disk.ReadAt(got, 4096)
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	n, err = disk.ReadAt(got[:100], disk.Size()-10)
	require.Equal(t, 10, n)
	require.Equal(t, io.EOF, err)
	require.NoError(t, disk.Close())
	_, err = disk.ReadAt(got[:1], 0)
	require.Error(t, err)
	_, err = a.JobDisk(t.Context(), 99)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrLenderGone)

	in := image(bytes.Repeat([]byte("input"), 1<<19))
	require.NoError(t, a.Insert(t.Context(), 0, in))
	require.NoError(t, a.Eject(t.Context(), 0))
	require.Error(t, a.Insert(t.Context(), 99, in))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.Insert(ctx, 0, in), context.Canceled)
}

func TestFilesAreCopiedToAndFromABorrowedGuest(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	copied, err := g.CopyTo(t.Context(), "/in", fstest.MapFS{"a": {Data: make([]byte, 1<<20)}}, nil)
	require.NoError(t, err)
	require.Equal(t, vm.Copied{Files: 1, Bytes: 1 << 20}, copied)
	var out bytes.Buffer
	copied, err = g.CopyFrom(t.Context(), "/in", &out, nil)
	require.NoError(t, err)
	require.Equal(t, vm.Copied{Files: 1, Bytes: 1 << 20}, copied)
}

func TestABorrowerIsToldWhenTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	g, err := OpenHandle(t.Context(), l.text)
	require.NoError(t, err)
	defer g.Release(t.Context(), nil)
	l.mu.Lock()
	l.lose(l.guest.unit, fmt.Errorf("on purpose: %w", lease.ErrLost), time.Now())
	l.unlock()
	<-g.Context().Done()
	require.ErrorIs(t, context.Cause(g.Context()), lease.ErrLost)
	_, err = g.Exec(t.Context(), vm.Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, lease.ErrLost)
	require.ErrorIs(t, g.Release(t.Context(), nil), lease.ErrLost)
}

func TestAHandleThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	change := func(f func(*handle)) string {
		h, err := parseHandle(l.text)
		require.NoError(t, err)
		f(&h)
		b, err := json.Marshal(h)
		require.NoError(t, err)
		return string(b)
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"no JSON":             {"x", ErrHandle},
		"nothing in it":       {"{}", ErrHandle},
		"another version":     {change(func(h *handle) { h.Version++ }), ErrHandle},
		"no secret":           {change(func(h *handle) { h.Secret = "" }), ErrHandle},
		"the wrong secret":    {change(func(h *handle) { h.Secret += "x" }), ErrHandle},
		"the wrong token":     {change(func(h *handle) { h.Token-- }), ErrHandle},
		"the wrong key":       {change(func(h *handle) { h.Key += "0" }), ErrHandle},
		"nobody's socket":     {change(func(h *handle) { h.Socket += "x" }), ErrLenderGone},
		"a folder for socket": {change(func(h *handle) { h.Socket = filepath.Dir(h.Socket) }), ErrLenderGone},
	} {
		_, err := OpenHandle(t.Context(), c.text)
		require.ErrorIs(t, err, c.want, name)
		require.NotErrorIs(t, err, ErrReleased, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := OpenHandle(ctx, l.text)
	require.ErrorIs(t, err, context.Canceled)
	h, err := parseHandle(l.text)
	require.NoError(t, err)
	info, err := os.Stat(h.Socket)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	require.Less(t, len(h.Socket), 108)
}

func TestAGuestCannotBeLentWhereThereIsNoPlaceForTheSocket(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]lease.Config{
		"NoLock":               {NoLock: true},
		"set lease.Config.Dir": {Dir: filepath.Join(t.TempDir(), strings.Repeat("long", 20))},
	} {
		o.Store = lease.NewMemStore()
		leases, err := lease.New(o)
		require.NoError(t, err)
		d := fakeDriver()
		p, err := New(Config{Leases: leases, Hosts: []Host{{Driver: d, Slots: 1}}, Templates: one("a")})
		require.NoError(t, err)
		g, err := p.Acquire(t.Context(), Want{})
		require.NoError(t, err)
		_, err = g.Handle(t.Context())
		require.ErrorContains(t, err, name)
		require.NoError(t, g.Release(t.Context(), nil))
		_, err = g.Handle(t.Context())
		require.ErrorIs(t, err, ErrReleased)
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, leases.Close(t.Context()))
		require.NoError(t, d.Close())
	}
}

func TestManyBorrowersAtOnceEachGetWhatTheyAskedFor(t *testing.T) {
	t.Parallel()
	l := lend(t, fakeDriver(), lease.Config{})
	const n = 20
	done := make(chan error, n)
	for i := range n {
		go func() {
			done <- func() error {
				g, err := OpenHandle(context.Background(), l.text)
				if err != nil {
					return err
				}
				defer g.Release(context.Background(), nil)
				var out bytes.Buffer
				want := fmt.Sprint(i)
				if _, err := g.Exec(context.Background(), vm.Command{Argv: []string{"echo", want}, Stdout: &out}); err != nil {
					return err
				}
				if strings.TrimSpace(out.String()) != want {
					return fmt.Errorf("%q is not %q", out.String(), want)
				}
				return nil
			}()
		}()
	}
	for range n {
		require.NoError(t, <-done)
	}
}

// FuzzHandle reads texts that somebody took for handles.
func FuzzHandle(f *testing.F) {
	f.Add(`{"version":1,"socket":"/run/p","key":"host/h/slot/0","token":3,"secret":"s"}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHandle(text)
		if err != nil {
			if !errors.Is(err, ErrHandle) {
				t.Fatal(err)
			}
			return
		}
		if h.Secret == "" || h.Socket == "" || h.Key == "" || h.Version != handleVersion {
			t.Fatalf("%+v", h)
		}
	})
}

// image is an input of some bytes.
func image(b []byte) vm.Image {
	return &bytesImage{bytes.NewReader(b), fmt.Sprintf("sha256:%x", sha256.Sum256(b))}
}

type bytesImage struct {
	*bytes.Reader
	digest string
}

func (i *bytesImage) Size() int64    { return i.Reader.Size() }
func (i *bytesImage) Digest() string { return i.digest }
