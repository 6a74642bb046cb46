package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest/initramfs"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// openFake opens a driver to a fake of its own.
func openFake(t *testing.T, change func(*Config)) (*fakeHost, *Driver) {
	t.Helper()
	h, conf := newFake(t)
	conf.Poll, conf.KillTimeout = 50*time.Millisecond, 5*time.Second
	if change != nil {
		change(&conf)
	}
	d, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return h, d
}

func fakeSpec() vm.Spec { return guestSpec(initramfs.Guest{Kernel: "/boot/vmlinuz"}) }

func startFake(t *testing.T, d *Driver, s vm.Spec) *machine {
	t.Helper()
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	return m.(*machine)
}

func TestALostConnectionIsMadeAnewAndMachinesLiveOn(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ch, err := m.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.Ready(t.Context())
	require.NoError(t, err)
	for range 3 {
		h.restart()
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		assert.Equal(t, vm.StateRunning, info.State)
	}
	_, err = ch.Ping(t.Context())
	require.NoError(t, err)
	told := make(chan vm.End, 1)
	go func() {
		end, err := m.Wait(context.WithoutCancel(t.Context()))
		assert.NoError(t, err)
		told <- end
	}()
	h.stop(string(m.ID()), offFailed) // events of the new connection are heard
	assert.Equal(t, vm.EndCrashed, (<-told).Kind)
}

// An end that comes while nobody listens is seen when there is a connection
// again, not only at the next poll.
func TestAnEndDuringALossIsSeenAtTheNextConnection(t *testing.T) {
	h, d := openFake(t, func(c *Config) { c.Poll = time.Hour })
	started := startFake(t, d, fakeSpec())
	// Another driver, for one that started a machine looks often.
	conf := d.conf
	other, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	m, err := other.Open(t.Context(), started.ID())
	require.NoError(t, err)
	told, asked := make(chan error, 1), make(chan struct{})
	h.hooks(nil, func(op, _ string) error {
		if op == "look" {
			select {
			case asked <- struct{}{}:
			default:
			}
		}
		return nil
	})
	go func() {
		_, err := m.(*machine).Wait(context.WithoutCancel(t.Context()))
		told <- err
	}()
	<-asked
	h.mu.Lock()
	for c := range h.conns {
		c.events = func(event) {} // the line is dead, and nobody knows yet
	}
	h.mu.Unlock()
	h.stop(string(m.ID()), offDestroyed)
	h.restart()
	require.NoError(t, <-told)
}

func TestAQuestionThatIsLostIsAskedAgain(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	for _, op := range []string{"look", "kill"} {
		h.hooks(once(op, lostError()), nil)
		require.NoError(t, m.Kill(t.Context()), op)
		require.NoError(t, m.Start(t.Context()))
	}
}

func TestAMachineThatCannotBeReadMakesListAnError(t *testing.T) {
	_, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	require.NoError(t, os.WriteFile(m.path(runFile), []byte("{"), 0o600))
	all, err := d.List(t.Context())
	require.ErrorContains(t, err, runFile)
	assert.Empty(t, all)
	require.NoError(t, os.Remove(m.path(runFile)))
}

func TestACallWaitsForTheHypervisorAndThenSaysHostLost(t *testing.T) {
	h, d := openFake(t, func(c *Config) { c.Reconnect = 200 * time.Millisecond })
	h.mu.Lock()
	h.down = true
	h.mu.Unlock()
	h.restart()
	_, err := d.List(t.Context())
	require.ErrorIs(t, err, vm.ErrHostLost)
	assert.Contains(t, err.Error(), "qemu:///system")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.List(ctx)
	require.ErrorIs(t, err, context.Canceled)
	h.mu.Lock()
	h.down = false
	h.mu.Unlock()
	require.Eventually(t, func() bool { _, err := d.List(t.Context()); return err == nil }, 20*time.Second, 20*time.Millisecond)
}

// once answers an error at the first call of an operation.
func once(op string, err error) func(string, string) error {
	var done atomic.Bool
	return func(o, _ string) error {
		if o == op && done.CompareAndSwap(false, true) {
			return err
		}
		return nil
	}
}

func (h *fakeHost) hooks(before, after func(op, name string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.after = before, after
}

func (h *fakeHost) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.domains)
}

// A connection that breaks in a call leaves open what became of it.
func TestACreateWhoseAnswerIsLostLeavesNothing(t *testing.T) {
	h, d := openFake(t, nil)
	h.hooks(nil, once("define", lostError()))
	s := fakeSpec()
	_, err := d.Create(t.Context(), s)
	require.ErrorIs(t, err, vm.ErrHostLost)
	assert.Zero(t, h.count())
	assert.NoDirExists(t, d.dir(vm.ID(s.Name)))
	_, err = d.Create(t.Context(), s)
	require.NoError(t, err)
}

func TestAStartWhoseAnswerIsLostLeavesTheMachineOff(t *testing.T) {
	h, d := openFake(t, nil)
	s := fakeSpec()
	s.OnExit = vm.Survive // or it would end with its connection
	m, err := d.Create(t.Context(), s)
	require.NoError(t, err)
	h.hooks(nil, once("start", lostError()))
	err = m.Start(t.Context())
	require.ErrorIs(t, err, vm.ErrHostLost)
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateDefined, info.State)
	require.NoError(t, m.Start(t.Context()))
	require.NoError(t, m.Destroy(t.Context()))
}

func TestAStartThatComesTooLateIsUndone(t *testing.T) {
	h, d := openFake(t, nil)
	m, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	h.hooks(nil, func(op, _ string) error {
		if op == "start" {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, m.Start(ctx), context.Canceled)
	h.hooks(nil, nil)
	require.NoError(t, m.Kill(t.Context())) // waits for the start to be through
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, vm.StateRunning, info.State)
	require.NoError(t, m.Start(t.Context()))
}

func TestACallThatHangsIsLeftAtTheContextsEnd(t *testing.T) {
	h, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	release := make(chan struct{})
	h.hooks(func(op, _ string) error {
		if op == "kill" {
			<-release
		}
		return nil
	}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Kill(ctx), context.DeadlineExceeded)
	// It is still under way, and nobody may start in its middle.
	require.ErrorIs(t, m.Suspend(t.Context()), vm.ErrState)
	close(release)
	require.NoError(t, m.Kill(t.Context()))
	end, err := m.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndKilled, end.Kind)
}

// libvirtd dies while it ends QEMU, and the next one knows only that it is off.
func TestAMachineThatWasKilledIsKilledAlsoWhereLibvirtHasForgottenWhy(t *testing.T) {
	for _, reason := range []int{offUnknown, offCrashed} {
		h, d := openFake(t, nil)
		m := startFake(t, d, fakeSpec())
		h.hooks(func(op, name string) error {
			if op != "kill" {
				return nil
			}
			h.stop(name, reason)
			return &callError{code: codeInvalid, text: "domain is not running"}
		}, nil)
		require.NoError(t, m.Kill(t.Context()))
		end, err := m.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, vm.EndKilled, end.Kind, "reason %d: %+v", reason, end)
	}
}

func TestAListingErrorIsAnError(t *testing.T) {
	h, d := openFake(t, nil)
	_, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	h.hooks(once("list", &callError{code: codeSystem, text: "cannot"}), nil)
	got, err := d.List(t.Context())
	require.Error(t, err)
	assert.Empty(t, got)
}

func TestAForeignDomainIsListedAndNeverRemoved(t *testing.T) {
	h, d := openFake(t, nil)
	for name, record := range map[string]string{"theirs": "", "damaged": "<machine>?</machine>"} {
		h.mu.Lock()
		h.domains[name] = &fakeDomain{name: name, record: record, state: domShutoff, reason: offDestroyed}
		h.mu.Unlock()
		m, err := d.Open(t.Context(), vm.ID(name))
		require.NoError(t, err)
		info, err := m.Info(t.Context())
		require.NoError(t, err)
		assert.True(t, info.Owner.Zero())
		assert.NotEmpty(t, info.Details["foreign"])
		require.ErrorIs(t, m.Destroy(t.Context()), vm.ErrState)
		require.ErrorIs(t, m.(*machine).SetOwner(t.Context(), vm.Owner{}), vm.ErrState)
		require.NoError(t, m.Kill(t.Context()))
	}
	all, err := d.List(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, 2)
}

// What a process leaves that dies between two steps of Create or Destroy.
func TestFoldersWithoutADomainAreRemovedAndOthersStay(t *testing.T) {
	h, d := openFake(t, nil)
	m, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	lost, err := d.Create(t.Context(), fakeSpec())
	require.NoError(t, err)
	h.mu.Lock()
	delete(h.domains, string(lost.ID()))
	h.mu.Unlock()
	for _, dir := range []string{newPrefix + "x", deadPrefix + "y", parentFolder + "/" + newPrefix + "z", parentFolder + "/" + deadPrefix + "w"} {
		require.NoError(t, os.MkdirAll(filepath.Join(d.Root(), dir, "sub"), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(d.Root(), socketFolder, "stale"), nil, 0o600))
	held, lock, err := hostdir.New(t.Context(), d.Root(), folderMode)
	require.NoError(t, err)
	_, err = d.List(t.Context())
	require.NoError(t, err)
	assert.NoDirExists(t, d.dir(lost.ID()))
	assert.DirExists(t, d.dir(m.ID()))
	assert.DirExists(t, held, "somebody makes it just now")
	for _, gone := range []string{newPrefix + "x", deadPrefix + "y", parentFolder + "/" + newPrefix + "z", parentFolder + "/" + deadPrefix + "w", socketFolder + "/stale"} {
		assert.NoFileExists(t, filepath.Join(d.Root(), gone))
	}
	require.NoError(t, lock.Unlock())
	require.NoError(t, lost.Destroy(t.Context()))
}

func TestDestroyRemovesAMachineThatAnotherRootMade(t *testing.T) {
	h, conf := newFake(t)
	a, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer a.Close()
	conf.Root += "2"
	b, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	defer b.Close()
	m := startFake(t, a, fakeSpec())
	same, err := b.Open(t.Context(), m.ID())
	require.NoError(t, err)
	require.NoError(t, same.Destroy(t.Context()))
	assert.NoDirExists(t, a.dir(m.ID()))
	assert.Zero(t, h.count())
	require.NoError(t, m.Destroy(t.Context()))
}

func TestADamagedMachineCanBeDestroyed(t *testing.T) {
	_, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	require.NoError(t, os.WriteFile(m.path(specFile), []byte("{"), 0o600))
	_, err := m.JobDisk(t.Context(), 0)
	require.ErrorContains(t, err, "damaged")
	require.NoError(t, m.Destroy(t.Context()))
	assert.NoDirExists(t, d.dir(m.ID()))
}

func TestAHandleOfAnOlderMachineNeverTouchesTheNewOne(t *testing.T) {
	_, d := openFake(t, nil)
	s := fakeSpec()
	old := startFake(t, d, s)
	require.NoError(t, old.Destroy(t.Context()))
	s.Owner.Incarnation = "another"
	m := startFake(t, d, s)
	require.NoError(t, old.Destroy(t.Context()))
	require.ErrorIs(t, old.Kill(t.Context()), vm.ErrNotFound)
	info, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateRunning, info.State)
}

func TestASurvivorIsAdoptedWithItsChannel(t *testing.T) {
	h, conf := newFake(t)
	first, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	s := fakeSpec()
	s.OnExit = vm.Survive
	m := startFake(t, first, s)
	second, err := open(t.Context(), conf, h.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Close()) })
	same, err := second.Open(t.Context(), m.ID())
	require.NoError(t, err)
	adopted := same.(*machine)
	_, err = adopted.Channel(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported, "its driver still has it")
	require.NoError(t, first.Close())
	require.NoError(t, adopted.SetOwner(t.Context(), vm.Owner{Pool: "next", Incarnation: s.Owner.Incarnation}))
	ch, err := adopted.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.Ready(t.Context())
	require.NoError(t, err)
	require.NoError(t, adopted.Stop(t.Context()))
	end, err := adopted.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.EndPoweredOff, end.Kind)
}

func TestKVMIsUsedOnlyAfterATinyGuestPassedUnderIt(t *testing.T) {
	withKVM := fmt.Sprintf(fakeCaps, `<domain type='kvm'/>`)
	for name, c := range map[string]struct {
		caps  string
		force bool
		// end, when set, ends the tiny guest.
		end  bool
		err  error
		want string
		why  string
	}{
		"it is not offered":     {caps: fmt.Sprintf(fakeCaps, ""), want: "tcg", why: "offers no KVM"},
		"it is not wanted":      {caps: withKVM, force: true, want: "tcg", why: "ForceTCG"},
		"the guest passes":      {caps: withKVM, end: true, want: "kvm", why: "passed"},
		"the guest hangs":       {caps: withKVM, want: "tcg", why: "did not end within"},
		"it cannot be started":  {caps: withKVM, err: &callError{code: codeInternal, text: "KVM is broken"}, want: "tcg", why: "KVM is broken"},
		"nor answered in time ": {caps: withKVM, err: context.DeadlineExceeded, want: "tcg", why: "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			h, conf := newFake(t)
			h.caps = c.caps
			conf.ForceTCG, conf.ProbeTimeout, conf.Poll = c.force, 200*time.Millisecond, 20*time.Millisecond
			runs := 0
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			h.hooks(func(op, _ string) error {
				if op == "run" {
					runs++
					return c.err
				}
				return nil
			}, func(op, name string) error {
				if op == "look" && c.end && strings.HasPrefix(name, "bullpen-probe") {
					wg.Go(func() { h.stop(name, offShutdown) })
				}
				return nil
			})
			d, err := open(t.Context(), conf, h.dial)
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			for range 2 {
				m, err := d.Create(t.Context(), fakeSpec())
				require.NoError(t, err)
				info, err := m.Info(t.Context())
				require.NoError(t, err)
				assert.Equal(t, c.want, info.Details["accelerator"])
				assert.Contains(t, info.Details["accelerator_why"], c.why)
			}
			again, err := open(t.Context(), conf, h.dial)
			require.NoError(t, err)
			defer func() { require.NoError(t, again.Close()) }()
			a, err := again.accelerator(t.Context())
			require.NoError(t, err)
			assert.Equal(t, c.want, a.String())
			assert.LessOrEqual(t, runs, 1, "it is tried once, also by the next driver")
			assert.Equal(t, 2, h.count(), "the tiny guest is gone")
		})
	}
}

func TestCreateRefusesWhatItCannotDo(t *testing.T) {
	_, d := openFake(t, nil)
	for want, change := range map[string]func(*vm.Spec){
		"Disks[0] has neither":    func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "raw"}} },
		"want qcow2":              func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "raw", Backing: "/b", BackingFormat: "raw"}} },
		"Kernel is empty":         func(s *vm.Spec) { s.Kernel = "" },
		"Owner.Incarnation has a": func(s *vm.Spec) { s.Owner.Incarnation = "a b" },
		"no such file":            func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "qcow2", Backing: "/none", BackingFormat: "raw"}} },
	} {
		s := fakeSpec()
		if s.Cmdline = "quiet"; change != nil {
			change(&s)
		}
		_, err := d.Create(t.Context(), s)
		require.ErrorContains(t, err, want)
		assert.NoDirExists(t, d.dir(vm.ID(s.Name)))
	}
	remote := &Driver{target: target{kind: kindSystem, host: "far"}}
	s := fakeSpec()
	s.Console = "/console"
	require.ErrorIs(t, remote.supported(s), errors.ErrUnsupported)
}

func TestAnInputThatIsTooLargeIsRefused(t *testing.T) {
	_, d := openFake(t, func(c *Config) { c.InputSize = 4096 })
	m := startFake(t, d, fakeSpec())
	require.ErrorIs(t, m.Insert(t.Context(), 0, picture(8192)), vm.ErrTooLarge)
	require.NoError(t, m.Insert(t.Context(), 0, picture(4096)))
	require.NoError(t, m.Insert(t.Context(), 0, picture(1000)))
	b, err := os.ReadFile(m.path(inputFile(0)))
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("p", 1000)+strings.Repeat("\x00", 3096), string(b), "nothing of the one before")
	require.NoError(t, m.Insert(t.Context(), 0, picture(4096)))
	b, err = os.ReadFile(m.path(inputFile(0)))
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("p", 4096), string(b))
	require.NoError(t, m.Eject(t.Context(), 0))
	b, err = os.ReadFile(m.path(inputFile(0)))
	require.NoError(t, err)
	assert.Equal(t, make([]byte, 4096), b)
	require.NoError(t, os.Remove(m.path(inputFile(1))))
	require.ErrorIs(t, m.Insert(t.Context(), 1, picture(1)), vm.ErrNotFound)
}

// picture is a vm.Image of that size.
type picture int64

func (p picture) ReadAt(b []byte, off int64) (int, error) {
	return strings.NewReader(strings.Repeat("p", int(p))).ReadAt(b, off)
}
func (p picture) Size() int64    { return int64(p) }
func (p picture) Digest() string { return fmt.Sprintf("sha256:%064d", int64(p)) }

func TestAParentOfAnotherShapeOrFormatIsRefused(t *testing.T) {
	_, d := openFake(t, nil)
	m := startFake(t, d, fakeSpec())
	ch, err := m.Channel(t.Context())
	require.NoError(t, err)
	_, err = ch.Ready(t.Context())
	require.NoError(t, err)
	require.NoError(t, m.Save(t.Context(), "p"))
	require.ErrorIs(t, m.Save(t.Context(), "q"), vm.ErrState, "it does not run any more")
	s := fakeSpec()
	s.Inputs = 1
	_, err = d.Fork(t.Context(), "p", s)
	require.ErrorContains(t, err, "Inputs 1")
	state := filepath.Join(d.parentDir("p"), stateFile)
	b, err := os.ReadFile(state)
	require.NoError(t, err)
	b[16] = 3
	require.NoError(t, os.WriteFile(state, b, 0o600))
	s = fakeSpec()
	_, err = d.Fork(t.Context(), "p", s)
	require.ErrorIs(t, err, errSaveFormat)
	_, err = d.Open(t.Context(), vm.ID(s.Name))
	require.ErrorIs(t, err, vm.ErrNotFound, "what was made in vain is gone")
	require.NoError(t, os.WriteFile(filepath.Join(d.parentDir("p"), parentFile), []byte("{"), 0o600))
	_, err = d.Parents(t.Context())
	require.Error(t, err, "never a part")
	require.NoError(t, d.DropParent(t.Context(), "p"))
	disky := fakeSpec()
	disky.Disks = []vm.Disk{{Format: "raw", Size: 4096}}
	require.ErrorIs(t, startFake(t, d, disky).Save(t.Context(), "r"), errors.ErrUnsupported)
}

func TestOpenPreparesAnEmbeddedRootOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "e")
	require.NoError(t, prepareEmbed(dir, true))
	conf := filepath.Join(dir, "etc", "qemu.conf")
	b, err := os.ReadFile(conf)
	require.NoError(t, err)
	assert.Contains(t, string(b), `stdio_handler = "file"`)
	require.NoError(t, os.WriteFile(conf, []byte("# mine\n"), 0o600))
	require.NoError(t, prepareEmbed(dir, false))
	b, err = os.ReadFile(conf)
	require.NoError(t, err)
	assert.Equal(t, "# mine\n", string(b))
	id, err := hostID(target{kind: kindEmbed, root: dir}, host{})
	require.NoError(t, err)
	again, err := hostID(target{kind: kindEmbed, root: dir + "/../e"}, host{uuid: "random"})
	require.NoError(t, err)
	assert.Equal(t, id, again)
	_, err = hostID(target{kind: kindSystem}, host{})
	require.ErrorContains(t, err, "host_uuid")
	session, err := hostID(target{kind: kindSession}, host{})
	require.NoError(t, err)
	assert.NotEqual(t, id, session)
}

func TestOpenRefusesARootThatIsALinkAndSaysWhatIsWrong(t *testing.T) {
	h, conf := newFake(t)
	link := filepath.Join(h.dir, "l")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	conf.Root = link
	_, err := open(t.Context(), conf, h.dial)
	require.ErrorContains(t, err, "symbolic links")
	h.down = true
	_, err = open(t.Context(), conf, h.dial)
	require.ErrorContains(t, err, "Failed to connect")
	h.down = false
	h.caps = "<"
	_, err = open(t.Context(), conf, h.dial)
	require.ErrorContains(t, err, "capabilities")
}
