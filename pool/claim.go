package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
)

// How long single operations may take when nothing else bounds them.
const (
	storeTimeout   = 30 * time.Second
	listTimeout    = time.Minute
	destroyTimeout = 2 * time.Minute
)

// The kinds of failures on the way to a machine, told apart because they count
// against different things.
var (
	errFull  = errors.New("others have all slots or starts")
	errLock  = errors.New("others have the named lock")
	errStore = errors.New("the lease store does not answer")
	errHost  = errors.New("the host cannot be listed")
)

// Slots, starts and locks as keys of leases.
func slotKey(host string, n int) string  { return "host/" + host + "/slot/" + strconv.Itoa(n) }
func startKey(host string, n int) string { return "host/" + host + "/start/" + strconv.Itoa(n) }
func lockKey(name string, n int) string  { return "lock/" + name + "/" + strconv.Itoa(n) }

func keys(n int, key func(int) string) []string {
	ks := make([]string, n)
	for i := range ks {
		ks[i] = key(i)
	}
	return ks
}

// claim takes the leases that a machine needs: its slots, its locks, and a start.
// It never waits for others: what is not free is tried again later, so that
// nobody holds one and waits for the next.
func (p *Pool) claim(u *unit) error {
	ctx, cancel := context.WithTimeout(u.ctx, storeTimeout)
	defer cancel()
	h, t := u.host, u.template
	try := func(what string, held error, ks []string) (*lease.Lease, error) {
		l, err := p.leases.TryAny(ctx, ks, &lease.Options{Note: t.Name})
		switch {
		case err == nil:
			return l, nil
		case errors.Is(err, lease.ErrHeld):
			return nil, fmt.Errorf("%s: %w: %w", what, held, err)
		default:
			return nil, fmt.Errorf("%s: %w: %w", what, errStore, err)
		}
	}
	if u.fixture != nil {
		if err := p.claimExisting(ctx, u); err != nil {
			return err
		}
	}
	p.mu.Lock()
	locks, starts := p.config.Locks, h.Starts // Reload may change them
	p.mu.Unlock()
	for range t.Weight {
		p.mu.Lock()
		var ks []string
		for n, owner := range h.slots {
			if owner == nil && n < h.Slots {
				ks = append(ks, slotKey(h.id, n))
			}
		}
		p.mu.Unlock()
		if len(ks) == 0 {
			return fmt.Errorf("slot: %w", errFull)
		}
		l, err := try("slot", errFull, ks)
		if err != nil {
			return err
		}
		p.mu.Lock()
		n := 0
		for slotKey(h.id, n) != l.Key() {
			n++
		}
		h.slots[n] = u
		u.numbers = append(u.numbers, n)
		u.leases = append(u.leases, l)
		p.mu.Unlock()
		p.watchLease(u, l)
	}
	for _, name := range t.Locks {
		l, err := try("lock "+name, errLock, keys(locks[name], func(n int) string { return lockKey(name, n) }))
		if errors.Is(err, errLock) {
			return &lockError{name, err}
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		u.extra = append(u.extra, l)
		p.mu.Unlock()
		p.watchLease(u, l)
	}
	if starts > 0 && u.fixture == nil {
		l, err := try("start", errFull, keys(starts, func(n int) string { return startKey(h.id, n) }))
		if err != nil {
			return err
		}
		p.mu.Lock()
		u.start = l
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u.key = u.leases[0].Key()
	all := slices.Concat(u.leases, u.extra)
	u.driver = vm.Guard(h.Driver, func() error {
		for _, l := range all {
			if err := l.Check(); err != nil {
				return err
			}
		}
		return nil
	})
	u.set(booting, time.Now())
	p.noteBoot(u)
	return nil
}

// watchLease learns of a lease's loss. It ends with the lease.
func (p *Pool) watchLease(u *unit, l *lease.Lease) {
	p.wg.Go(func() {
		select {
		case <-l.Done():
		case <-p.hard.Done():
			return
		}
		if err := l.Err(); err != nil && !errors.Is(err, lease.ErrReleased) {
			p.mu.Lock()
			now := time.Now()
			p.lose(u, err, now)
			p.plan(now)
			p.unlock()
		}
	})
}

// lose takes note that a unit's right is lost: the guard refuses from now on,
// the guest is told, and whoever has the slot next destroys the machine. The
// caller holds p.mu.
func (p *Pool) lose(u *unit, err error, now time.Time) {
	if u.state == gone || u.released {
		return
	}
	u.lostErr = err
	p.stats.lost++
	p.noteUnit(EventLost, u, "", 0, err)
	u.cancel(err)
	switch u.state {
	case claiming, booting, renewing, destroying:
		return // its worker sees to it
	case ready:
		p.q.Drop(&u.item)
	case held:
		if u.guest != nil {
			u.guest.end(err)
		}
	}
	p.giveUp(u, now)
}

// giveUp ends a unit: its slot is the next one's. Leases that are left are
// given back behind it. The caller holds p.mu.
func (p *Pool) giveUp(u *unit, now time.Time) {
	u.released = true
	u.cancel(ErrReleased)
	u.stopWatch()
	for _, n := range u.numbers {
		u.host.slots[n] = nil
	}
	if u.fixture != nil {
		u.fixture.unit = nil
	}
	delete(p.live, u.incarnation)
	delete(u.host.missing, u)
	if u.state == kept { // its lease was lost
		p.kept--
	}
	leases := slices.Concat(u.extra, u.leases)
	if u.start != nil {
		leases = append(leases, u.start)
		u.start = nil
	}
	if len(leases) > 0 {
		locks := u.template.Locks
		if len(u.extra) == 0 {
			locks = nil
		}
		p.wg.Go(func() {
			p.releaseAll(leases)
			if len(locks) > 0 {
				p.unlocked(locks)
			}
		})
	}
	p.noteUnit(EventGone, u, u.key, 0, u.lostErr)
	if u.host.retired {
		p.wake(now)
	}
	u.set(gone, now)
}

// releaseAll gives leases back whatever happens to the pool meanwhile. A lease
// that cannot be given back, since the store does not answer, ends with the
// manager's session.
func (p *Pool) releaseAll(leases []*lease.Lease) {
	for _, l := range leases {
		if l == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		err := l.Release(ctx)
		cancel()
		if err != nil && !errors.Is(err, lease.ErrLost) && !errors.Is(err, lease.ErrReleased) {
			p.mu.Lock()
			p.note(Event{Kind: EventFailed, Reason: "giving back " + l.Key(), Err: err})
			p.unlock()
		}
	}
}
