package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// DefaultHold is how long a machine is kept for a person when nothing else is
// said.
const DefaultHold = time.Hour

// HoldOptions are those of one Hold.
type HoldOptions struct {
	Owner string        // for whom; empty: Want.Job
	TTL   time.Duration // how long; zero: DefaultHold
}

// How says how to get into a kept machine, and until when.
type How struct {
	Machine vm.ID
	Host    string // the name
	HostID  string // of the hypervisor
	Owner   string
	Until   time.Time         // wall clock
	Details map[string]string // the driver's, such as a command to get in
}

// String is "bullpen-0-1f… on h1 until 18:40:07 for TestA; login: …".
func (h How) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s", h.Machine, h.Host)
	if h.HostID != h.Host {
		fmt.Fprintf(&b, " (%s)", h.HostID)
	}
	fmt.Fprintf(&b, " until %s", h.Until.Format(time.TimeOnly))
	if h.Owner != "" {
		fmt.Fprintf(&b, " for %s", h.Owner)
	}
	for _, k := range slices.Sorted(maps.Keys(h.Details)) {
		fmt.Fprintf(&b, "; %s: %s", k, h.Details[k])
	}
	return b.String()
}

// Hold keeps the guest's machine for a person to look at, as it is and with its
// slot, and releases the guest: the caller is cut off from it as by Release.
// When the time has passed, or EndHold is called, it is destroyed, never used
// again. Close waits for it as for a guest. At most Config.Kept machines are
// kept at once (ErrQuota); after an error the guest is still held.
func (g *Guest) Hold(ctx context.Context, o HoldOptions) (How, error) {
	fail := func(err error) (How, error) {
		return How{}, &OpError{Op: "hold", What: g.name, Why: g.want.Job, Err: err}
	}
	if g.loan != nil {
		return fail(fmt.Errorf("it is borrowed, and its lender's to keep: %w", errors.ErrUnsupported))
	}
	if o.TTL < 0 {
		return fail(fmt.Errorf("HoldOptions.TTL is %v, want 0 (%v) or more", o.TTL, DefaultHold))
	}
	if o.TTL == 0 {
		o.TTL = DefaultHold
	}
	if o.Owner == "" {
		o.Owner = g.want.Job
	}
	info, err := g.Machine().Info(ctx)
	if err != nil {
		return fail(err)
	}
	u := g.unit
	p := u.pool
	p.mu.Lock()
	switch {
	case u.guest != g || u.state != held:
		err = ErrReleased
		if u.lostErr != nil {
			err = u.lostErr
		}
	case p.kept >= max(p.config.Kept, 0):
		err = fmt.Errorf("%w: %d of %d", ErrQuota, p.kept, max(p.config.Kept, 0))
	case !g.released.CompareAndSwap(false, true):
		err = ErrReleased
	}
	if err != nil {
		p.unlock()
		return fail(err)
	}
	now := time.Now()
	u.guest = nil
	p.credit(g.want.Account, g.charged(), now)
	u.keptFor, u.keptUntil = o.Owner, now.Add(o.TTL)
	p.kept++
	p.stats.releases++
	p.stats.held += now.Sub(u.since)
	u.set(kept, now)
	u.stopWatch()
	wait, cancel := context.WithTimeout(p.hard, o.TTL)
	u.watch = cancel
	p.noteUnit(EventKept, u, "for "+o.Owner, 0, nil)
	p.wg.Go(func() {
		defer cancel()
		<-wait.Done()
		if !errors.Is(wait.Err(), context.DeadlineExceeded) {
			return
		}
		p.mu.Lock()
		p.endHold(u, "it was kept for "+people(o.TTL).String())
		p.unlock()
	})
	p.unlock()
	g.end(ErrReleased)
	return How{
		Machine: info.ID, Host: u.host.Name, HostID: u.host.id, Owner: o.Owner,
		Until: now.Add(o.TTL), Details: maps.Clone(info.Details),
	}, nil
}

// EndHold destroys a machine that is kept, before its time has passed.
func (p *Pool) EndHold(machine string) error {
	p.mu.Lock()
	defer p.unlock()
	for u := range p.units {
		if u.state == kept && u.name == machine {
			p.endHold(u, "it is not needed any more")
			return nil
		}
	}
	return &OpError{Op: "end the hold of", What: machine, Err: errors.New("no such machine is kept")}
}

func (p *Pool) endHold(u *unit, reason string) {
	if u.state == kept {
		p.kept--
		p.destroy(u, reason)
	}
}
