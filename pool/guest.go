package pool

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Guest is a machine that a caller holds, until Release. Handles are never used
// again for another hand-out. It is safe for concurrent use.
type Guest struct {
	unit  *unit
	want  Want
	name  string
	token uint64
	fence func() error
	raw   vm.Machine // behind no fence of the guest's; see Machine

	properties map[string]string
	queued     time.Duration
	boot       time.Duration

	charge   int // machines of its account's quota
	released atomic.Bool
	loan     *borrowed                // of a guest that another process lends; unit is nil then
	reported atomic.Pointer[reported] // what a borrower said of the machine

	// What hangs on the guest is made when it is asked for.
	mu      sync.Mutex
	values  context.Context // given to Acquire
	ctx     context.Context
	cancel  context.CancelCauseFunc
	over    error // why it is not held any more
	machine vm.Machine
	lent    *lent
}

// newGuest hands a held unit out. The caller holds p.mu.
func newGuest(ctx context.Context, u *unit, w *wait, now time.Time) *Guest {
	g := &Guest{
		unit: u, want: w.want, name: u.name, token: u.token, fence: u.fence,
		properties: u.properties, boot: u.bootTime, values: ctx,
	}
	if !w.since.IsZero() {
		g.queued = now.Sub(w.since)
	}
	g.raw = u.machine
	if w.charged > 0 {
		g.charge = 1
	}
	u.guest = g
	return g
}

// end ends what hangs on the guest, once, for a reason.
func (g *Guest) end(cause error) {
	g.mu.Lock()
	if g.over == nil {
		g.over = cause
	}
	cancel := g.cancel
	g.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// check is the fence of the guest's machine: its token must be the slot's and
// the guest must not have been given back.
func (g *Guest) check() error {
	if g.released.Load() {
		return ErrReleased
	}
	return g.fence()
}

// Machine is the machine, behind a fence: after Release, or when its lease is
// lost, it and all that came from it refuse.
func (g *Guest) Machine() vm.Machine {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine == nil {
		g.machine = vm.GuardMachine(g.raw, g.check)
	}
	return g.machine
}

// Token is the fencing token of this hand-out: higher than that of any before
// on the same slot.
func (g *Guest) Token() uint64 { return g.token }

// Context ends when the guest is released or its lease is lost; context.Cause
// says which. It has the values of the context given to Acquire.
func (g *Guest) Context() context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil {
		g.ctx, g.cancel = context.WithCancelCause(context.WithoutCancel(g.values))
		if g.over != nil {
			g.cancel(g.over)
		}
	}
	return g.ctx
}

// Name is the machine's name.
func (g *Guest) Name() string { return g.name }

// Host is the name of the host that the machine runs on.
func (g *Guest) Host() string {
	if g.loan != nil {
		return g.loan.facts.Host
	}
	return g.unit.host.Name
}

// Template is the name of the template that the machine was made from.
func (g *Guest) Template() string {
	if g.loan != nil {
		return g.loan.facts.Template
	}
	return g.unit.template.Name
}

// Labels are those of the template over those of the host. The map is the
// caller's.
func (g *Guest) Labels() map[string]string {
	if g.loan != nil {
		return maps.Clone(g.loan.facts.Labels)
	}
	return maps.Clone(g.unit.place.labels)
}

// Properties are what the guest was told: the machine's own (machine, host,
// template, slot, pool, run) over the template's over the host's. The map is the
// caller's.
func (g *Guest) Properties() map[string]string { return maps.Clone(g.properties) }

// Job is Want.Job.
func (g *Guest) Job() string { return g.want.Job }

// Phases are how long the caller waited in the queue, and how long the machine
// took to be made or renewed before, which may overlap.
func (g *Guest) Phases() (queued, boot time.Duration) { return g.queued, g.boot }

// BootTime is how long the machine took to be made or renewed, until it was
// proven clean and ready.
func (g *Guest) BootTime() time.Duration { return g.boot }

// Release gives the guest back. The caller is cut off from the machine before
// Release returns; the machine is renewed behind it, or destroyed when reason
// says that it is broken (see Broken). Any other reason is only told to others.
// It is idempotent and does no I/O (of a borrowed guest see OpenHandle). When the lease was lost before, the answer
// is an error that says so, for what was done under it may be in doubt.
func (g *Guest) Release(_ context.Context, reason error) error {
	if !g.released.CompareAndSwap(false, true) {
		return nil
	}
	if g.loan != nil {
		err := g.loan.giveBack(reason)
		g.end(ErrReleased)
		if err != nil {
			return &OpError{Op: "release", What: g.name, Why: g.want.Job, Err: err}
		}
		return nil
	}
	if r := g.reported.Load(); r != nil && !IsBroken(reason) {
		reason = r
	}
	u := g.unit
	p := u.pool
	p.mu.Lock()
	now := time.Now()
	var err error
	if u.guest == g {
		p.takeBack(u, reason, now)
		u.guest = nil
		p.credit(g.want.Account, g.charged(), now)
	}
	if u.lostErr != nil {
		err = &OpError{Op: "release", What: g.name, Why: g.want.Job, Err: u.lostErr}
	}
	p.unlock()
	g.end(ErrReleased)
	return err
}

// takeBack decides what becomes of a machine that was in use. The caller holds
// p.mu.
func (p *Pool) takeBack(u *unit, reason error, now time.Time) {
	if u.state != held {
		return // its lease was lost, or the pool took it away
	}
	p.stats.releases++
	p.stats.held += now.Sub(u.since)
	why := ""
	if p.watched && reason != nil {
		why = reason.Error()
	}
	p.noteUnit(EventReleased, u, why, now.Sub(u.since), nil)
	t := u.template
	if !IsBroken(reason) {
		delete(u.host.deaths, t)
	}
	idle, ends := t.Idle.limit()
	u.recycle = t.MostUses > 0 && u.uses >= t.MostUses || t.MostAge > 0 && now.Sub(u.born) >= t.MostAge
	switch {
	case p.closing:
		p.destroy(u, "the pool closes")
		return
	case IsBroken(reason):
		p.stats.failures++
		p.machineDied(u, reason, now)
		p.destroy(u, "it is broken: "+reason.Error())
	case u.lame() != "":
		p.destroy(u, u.lame())
	case u.host.paused:
		p.destroy(u, "its host is paused")
	case p.yields(u, now):
		p.destroy(u, "its slot is needed for another template")
	case ends && idle == 0 && p.unneeded(u):
		p.destroy(u, "nobody needs it")
	default:
		u.set(renewing, now)
		p.noteUnit(EventRenew, u, "", 0, nil)
		p.wg.Go(u.renew)
		return
	}
	p.plan(now)
}

// unneeded reports whether neither a waiter nor Ready wants the machine.
func (p *Pool) unneeded(u *unit) bool {
	coming := u.template.free()
	for _, pl := range u.template.places {
		coming += pl.inflight
	}
	if coming < u.template.Ready {
		return false
	}
	for _, d := range p.q.Active() {
		if d.Accepts(u.place.class) {
			return false
		}
	}
	return true
}

// cut takes a guest away from its holder. The caller holds p.mu.
func (g *Guest) cut(cause error) {
	g.released.Store(true)
	g.end(cause)
}

type guestKey struct{}

// NewContext gives a context that carries the guest.
func NewContext(ctx context.Context, g *Guest) context.Context {
	return context.WithValue(ctx, guestKey{}, g)
}

// FromContext gives the guest that a context carries; nil when it carries none.
func FromContext(ctx context.Context) *Guest {
	g, _ := ctx.Value(guestKey{}).(*Guest)
	return g
}

// String is "bullpen-0-1f… (debian-12 on h1, token 7)".
func (g *Guest) String() string {
	return fmt.Sprintf("%s (%s on %s, token %d)", g.name, g.Template(), g.Host(), g.token)
}
