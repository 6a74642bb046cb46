package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// boot is one run of a machine. Until somebody opens its channel it is only this
// struct, without a goroutine.
type boot struct {
	h      *Hypervisor
	r      *record
	fault  Guest
	up     time.Time // when the guest says hello
	name   string    // what the agent says
	secret vm.Secret // what the guest believes
	inc    string    // likewise
	saved  string    // the parent's incarnation; empty: not made from one
	ended  chan struct{}
	ctx    context.Context // ends with the boot
	cancel context.CancelFunc
	work   sync.WaitGroup // its goroutines

	// Protected by h.mu:
	end     vm.End
	timer   *time.Timer   // a scripted end; nil: none
	gate    chan struct{} // not nil while paused; closed by Resume
	channel *vm.Channel
	by      *host // whose channel it is
	line    *end  // the guest's end of it
}

// run lets a machine run; takes is how long the guest boots. The caller holds mu.
func (h *Hypervisor) run(r *record, g Guest, takes time.Duration, from *parent) {
	b := &boot{
		h: h, r: r, fault: g, up: time.Now().Add(takes + g.Slow),
		name:   fmt.Sprintf("%s-%d", r.id, h.nextBoot(r)),
		secret: r.spec.Secret, inc: r.spec.Owner.Incarnation,
		ended: make(chan struct{}),
	}
	if from != nil {
		b.secret, b.inc, b.saved = from.secret, from.inc, from.inc
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	r.boot, r.state = b, vm.StateRunning
	switch {
	case g.Crash:
		b.endAfter(g.CrashAfter, vm.End{Kind: vm.EndCrashed, Detail: "kernel panic"})
	case g.PowerOff > 0:
		b.endAfter(g.PowerOff, vm.End{Kind: vm.EndPoweredOff, Detail: "powered off by itself"})
	}
}

func (h *Hypervisor) nextBoot(r *record) int {
	if r.boots == 0 {
		r.boots = 1
	}
	return r.boots
}

// endAfter ends the boot by itself after a while.
func (b *boot) endAfter(d time.Duration, end vm.End) {
	b.timer = time.AfterFunc(d, func() { b.finish(end) })
}

// finish ends the boot from within.
func (b *boot) finish(end vm.End) {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.h.finish(b.r, b, end)
}

// stop releases what the boot has. The caller holds mu.
func (b *boot) stop() {
	if b.timer != nil {
		b.timer.Stop()
	}
	if b.gate != nil {
		close(b.gate)
		b.gate = nil
	}
	b.cancel()
	close(b.ended)
	if b.line != nil {
		_ = b.line.Close() // in memory: it cannot fail
	}
}

// powerOff makes the guest end in an orderly way. The caller holds mu.
func (b *boot) powerOff() {
	if takes := b.h.c.Times.Stop; takes > 0 {
		if b.timer == nil || b.fault == (Guest{}) {
			b.endAfter(takes, vm.End{Kind: vm.EndPoweredOff, Detail: "powered off when asked to"})
		}
		return
	}
	b.h.finish(b.r, b, vm.End{Kind: vm.EndPoweredOff, Detail: "powered off when asked to"})
}

// Channel gives the boot's channel, and makes it when there is none or when the
// process that had it is gone.
func (m *machine) Channel(ctx context.Context) (*vm.Channel, error) {
	var ch *vm.Channel
	err := m.locked(ctx, vm.OpChannel, func() error {
		b := m.r.boot
		if b == nil {
			return fmt.Errorf("%w: it is %v and has no channel", vm.ErrState, m.r.state)
		}
		if b.channel != nil {
			select {
			case <-b.channel.Done():
			default:
				if b.by != m.d {
					return fmt.Errorf("%w: another process has its channel", vm.ErrBusy)
				}
				ch = b.channel
				return nil
			}
		}
		near, far := newPipe()
		sum := sha256.Sum256([]byte(m.r.id))
		b.channel = vm.NewChannel(near, vm.ChannelConfig{
			Driver: m.d.h.c.HostID, Machine: m.r.id, HostName: string(m.r.id), MachineID: hex.EncodeToString(sum[:16]),
			Incarnation: m.r.spec.Owner.Incarnation, SavedIncarnation: b.saved, Secret: b.secret,
			Properties: m.r.spec.Properties, Keepalive: m.d.h.c.Keepalive, Logger: m.d.h.c.Logger,
		})
		b.by, b.line, ch = m.d, far, b.channel
		b.spawn(func() { b.serve(far) })
		return nil
	})
	return ch, err
}

// spawn starts a goroutine of the boot's. The caller holds mu, so that it does
// not race with the end, or is such a goroutine.
func (b *boot) spawn(f func()) {
	b.h.guests.Add(1)
	b.work.Add(1)
	go func() {
		defer b.h.guests.Done()
		defer b.work.Done()
		f()
	}()
}

// running waits while the machine is paused.
func (b *boot) running() {
	b.h.mu.Lock()
	gate := b.gate
	b.h.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-b.ended:
		}
	}
}

// touch marks the guest as used.
func (b *boot) touch(what string) {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.r.memory.jobs++
	if b.r.memory.dirty == "" {
		b.r.memory.dirty = what
	}
}
