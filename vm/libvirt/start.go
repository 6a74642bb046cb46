package libvirt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/internal/calls"
)

// Start boots the domain and connects to its guest's channel.
func (m *machine) Start(ctx context.Context) error {
	late := func(struct{}) { m.undo("it was started too late") }
	_, err := do(ctx, m.d, vm.OpStart, m.id, late, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.start(ctx, vm.OpStart, nil, func(c conn, die bool) error { return c.Start(string(m.id), die) })
	})
	return err
}

// undo kills a machine that was started in vain.
func (m *machine) undo(why string) {
	ctx, cancel := context.WithTimeout(context.Background(), m.d.conf.KillTimeout)
	defer cancel()
	if err := m.kill(ctx, why); err != nil && !errors.Is(err, vm.ErrNotFound) {
		m.d.log.Warn("a machine that was started in vain could not be killed", "machine", m.id, "err", err)
	}
}

// start makes the machine run, by boot, under its lock. Its guest's memory is
// that of the parent, if there is one.
func (m *machine) start(ctx context.Context, op string, p *parentRecord, boot func(c conn, die bool) error) (err error) {
	spec, unlock, err := m.operate(ctx, op, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	info, err := m.look(ctx)
	if err != nil {
		return err
	}
	switch info.State {
	case vm.StateDefined, vm.StateStopped, vm.StateCrashed:
	default:
		return fmt.Errorf("%w: it is %v, want defined, stopped or crashed", vm.ErrState, info.State)
	}
	return m.startLocked(ctx, op, spec, p, boot)
}

// startLocked is start of a machine that is off, by who has its lock.
func (m *machine) startLocked(ctx context.Context, op string, spec specRecord, p *parentRecord, boot func(c conn, die bool) error) error {
	if r := m.d.own(m.id); r != nil {
		// It ended just now, and its supervisor has yet to say so.
		if err := r.over(ctx); err != nil {
			return err
		}
	}
	m.d.setStarting(m.id, true)
	defer m.d.setStarting(m.id, false)
	limit := m.d.conf.BootTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the hypervisor did not start it within %v: %w", limit, context.DeadlineExceeded))
	defer cancel()
	if m.foreign() {
		got, err := m.d.lookDomain(ctx, string(m.id))
		if err != nil {
			return err
		}
		// Nobody supervises it here: that it ends with its harness is the daemon's
		// to see to.
		if rec := m.d.recordOf(got); rec != nil && rec.OnExit == vm.Die.String() {
			return m.boot(ctx, specRecord{Name: string(m.id), OnExit: vm.Die}, boot)
		}
		return m.boot(ctx, specRecord{}, boot)
	}
	if err := removeAll(m.path(endFile)); err != nil {
		return err
	}
	before, err := readRun(m.d.dir(m.id))
	if err != nil {
		return err
	}
	now := runRecord{Boot: rand.Text(), Started: time.Now().UTC(), Harness: os.Getpid()}
	if p != nil {
		now.Saved, now.Secret = p.Spec.Incarnation, p.Secret
	}
	if err := full(writeBrief(m.path(runFile), now)); err != nil {
		return err
	}
	r := newRun(m, spec, now)
	if err := m.boot(ctx, spec, boot); err != nil {
		// It is as it was, if it was never seen to run.
		if before == nil {
			err = errors.Join(err, removeAll(m.path(runFile)))
		} else {
			err = errors.Join(err, m.writeEnd(now.Boot, vm.End{Kind: vm.EndUnknown, Detail: "it was not started: " + err.Error()}))
		}
		return m.withConsole(op, spec, err)
	}
	err = r.attach(ctx)
	if m.d.calls.Closing() {
		err = calls.ErrClosing // which may have looked for runs before this one was there
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.d.conf.KillTimeout)
		defer cancel()
		if r.supervised {
			return m.withConsole(op, spec, errors.Join(err, r.kill(kctx, "its start failed")))
		}
		err = errors.Join(err, m.d.killDomain(kctx, string(m.id)), m.writeEnd(now.Boot, vm.End{Kind: vm.EndKilled, Detail: "its start failed"}))
		return m.withConsole(op, spec, err)
	}
	return nil
}

// boot has the hypervisor run the domain. Where it is not known whether that
// came to be, the domain is made to not run.
func (m *machine) boot(ctx context.Context, spec specRecord, boot func(c conn, die bool) error) error {
	m.d.hub.forget(string(m.id))
	die := spec.Name != "" && spec.OnExit == vm.Die && m.d.target.autoDestroy()
	err := m.d.line.use(ctx, false, func(c conn) error { return boot(c, die) })
	if !isLost(err) && (err != nil || context.Cause(ctx) == nil) {
		return err
	}
	kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.d.conf.KillTimeout)
	defer cancel()
	if err == nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, m.d.killDomain(kctx, string(m.id)))
}

// withConsole adds what the guest said to the error of a start.
func (m *machine) withConsole(op string, spec specRecord, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectWait)
	defer cancel()
	tail, cerr := m.d.consoleTail(ctx, spec, vm.ConsoleTail)
	if cerr != nil {
		m.d.log.Debug("the console cannot be read", "machine", m.id, "err", cerr)
	}
	return &vm.OpError{Op: op, Driver: m.d.hostID, ID: m.id, Err: err, Console: tail}
}

func (d *Driver) setStarting(id vm.ID, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.starts[id] = true
	} else {
		delete(d.starts, id)
	}
}

// machineID derives 32 hexadecimal digits from an incarnation.
func machineID(incarnation string) string {
	h := sha256.Sum256([]byte("bullpen machine id\n" + incarnation))
	return hex.EncodeToString(h[:16])
}

// connectWait bounds the wait for QEMU to listen: it does when it runs.
const connectWait = 10 * time.Second

// connect opens the host's end of a machine's channel. QEMU takes one at a time;
// a second one would wait, unheard, so they are kept apart by a lock.
func (m *machine) connect(ctx context.Context, spec specRecord, last runRecord) (*vm.Channel, *flock.Lock, error) {
	lock, err := flock.Try(m.path(channelLock), os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if errors.Is(err, flock.ErrLocked) {
		return nil, nil, fmt.Errorf("%s has its only channel: %w", flock.ReadNote(m.path(channelLock)), errors.ErrUnsupported)
	}
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*vm.Channel, *flock.Lock, error) { return nil, nil, errors.Join(err, lock.Unlock()) }
	if err := lock.Note("the driver"); err != nil {
		return fail(err)
	}
	said, secret, err := m.spoken(spec, last)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	if m.d.target.remote() {
		var c io.ReadWriteCloser
		err := m.d.line.use(ctx, false, func(on conn) (err error) {
			c, err = on.Channel(string(m.id), channelName)
			return err
		})
		if err != nil {
			return fail(fmt.Errorf("channel over the connection: %w", err))
		}
		return m.channelOn(c, spec, said, secret), lock, nil
	}
	var c net.Conn
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var dialer net.Dialer
		if c, err = dialer.DialContext(ctx, "unix", spec.Socket); err == nil {
			break
		}
		if serr := sleep(ctx, pause); serr != nil {
			return fail(fmt.Errorf("QEMU does not listen for its channel: %w: %w", serr, err))
		}
	}
	return m.channelOn(c, spec, said, secret), lock, nil
}

// channelOn makes the channel of a stream of bytes.
func (m *machine) channelOn(c io.ReadWriteCloser, spec specRecord, said, secret string) *vm.Channel {
	return vm.NewChannel(c, vm.ChannelConfig{
		Driver: m.d.hostID, Machine: m.id, HostName: string(m.id), MachineID: machineID(spec.Incarnation),
		Incarnation: spec.Incarnation, SavedIncarnation: said, Secret: vm.Secret(secret), Properties: spec.Properties,
		Keepalive: m.d.conf.Keepalive, Logger: m.d.conf.Logger,
	})
}
