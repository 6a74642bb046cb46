package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Rung is one way to bring a machine to its known state; see Renew.
type Rung uint8

// The rungs, cheapest last.
const (
	RungNone    Rung = iota
	RungCold         // destroy, create on fresh disks, boot
	RungRevert       // revert a snapshot in place: the incarnation stays
	RungRestore      // restore a parent's saved state
	RungFork         // copy-on-write fork of a parent
)

var rungNames = [...]string{"none", "cold", "revert", "restore", "fork"}

// String is the rung's name.
func (r Rung) String() string {
	if int(r) < len(rungNames) {
		return rungNames[r]
	}
	return "unknown"
}

// Policy says how Renew may work.
type Policy struct {
	Driver Driver
	// Spec is of the machine to have; its Name and Owner.Incarnation are new,
	// for every rung but RungRevert makes a new incarnation.
	Spec Spec
	// Rungs are those allowed, in the order to be tried; none: the cheapest
	// that driver and machine are capable of first, RungCold last.
	Rungs []Rung
	// Parent names the parent for RungRestore and RungFork; empty: these two
	// are passed over. Snapshot likewise for RungRevert.
	Parent   string
	Snapshot string
	// Clean proves that the machine is clean and ready; nil: ProveClean.
	Clean func(ctx context.Context, m Machine) error
}

// Renewed is what Renew made.
type Renewed struct {
	Machine Machine // the same or a new one; owned by the caller
	Rung    Rung
	Cost    time.Duration
	// Skipped says why cheaper rungs were not taken, in their order.
	Skipped []Skipped
}

// Skipped is a rung that was not taken.
type Skipped struct {
	Rung Rung
	Err  error
}

// renewCleanup bounds the removal of a machine that was made in vain.
const renewCleanup = time.Minute

// Renew brings a machine to its known state by the first rung that works, or
// makes one when m is nil, and proves it clean. The machine that it returns runs
// and is ready. A rung that makes a new machine destroys m first, for the two
// would share one slot; of one that is a Halter the run is ended first, and it is
// destroyed while the new one is made, under another name. What a rung that fails
// has made is destroyed before the next is tried, and m before Renew returns.
//
// ErrBusy, ErrHostLost, ErrClosed and the context's end stop the ladder at once,
// since a more expensive rung would meet them too. With an error,
// Renewed.Machine is what is left of the machines, to be destroyed by the caller
// later: m when it was not destroyed, or a new one that could not be destroyed;
// nil when nothing is left. Skipped and Cost are set then too.
func Renew(ctx context.Context, m Machine, p Policy) (Renewed, error) {
	l := &ladder{p: p, m: m}
	began := time.Now()
	err := l.climb(ctx)
	r := Renewed{Machine: l.m, Rung: l.rung, Cost: time.Since(began), Skipped: l.skipped}
	return r, err
}

// ladder is the state of one Renew.
type ladder struct {
	p       Policy
	m       Machine // the one that is there, if any
	rung    Rung
	gone    bool // the machine that Renew was called with was destroyed
	burial  <-chan error
	skipped []Skipped
}

func (l *ladder) fail(err error) error {
	e := &OpError{Op: OpRenew, ID: ID(l.p.Spec.Name), Err: err}
	if l.p.Driver != nil {
		e.Driver = l.p.Driver.HostID()
	}
	if l.m != nil {
		e.ID = l.m.ID()
	}
	return e
}

func (l *ladder) climb(ctx context.Context) error {
	if l.p.Driver == nil {
		return l.fail(errors.New("Policy.Driver is nil, want the driver of the machine"))
	}
	rungs := l.p.Rungs
	if len(rungs) == 0 {
		rungs = []Rung{RungFork, RungRestore, RungRevert, RungCold}
	}
	for i, r := range rungs {
		if r == RungNone || int(r) >= len(rungNames) || slices.Contains(rungs[:i], r) {
			return l.fail(fmt.Errorf("Policy.Rungs[%d] is %v, want each of cold, revert, restore and fork at most once", i, r))
		}
	}
	clean := l.p.Clean
	if clean == nil {
		clean = ProveClean
	}
	for _, r := range rungs {
		err := l.try(ctx, r, clean)
		if err == nil {
			l.rung = r
			return nil
		}
		l.skipped = append(l.skipped, Skipped{r, err})
		if ctx.Err() != nil || final(err) {
			break
		}
	}
	errs := make([]error, len(l.skipped))
	for i, s := range l.skipped {
		errs[i] = fmt.Errorf("%v: %w", s.Rung, s.Err)
	}
	return l.fail(errors.Join(errs...))
}

// errStuck: a machine could not be destroyed, so no other may take its place.
var errStuck = errors.New("it could not be destroyed")

// final reports whether no other rung can do better.
func final(err error) bool {
	return errors.Is(err, ErrBusy) || errors.Is(err, ErrHostLost) || errors.Is(err, ErrClosed) || errors.Is(err, errStuck)
}

// try takes one rung. When it answers nil, l.m is the renewed machine.
func (l *ladder) try(ctx context.Context, r Rung, clean func(context.Context, Machine) error) error {
	switch r {
	case RungRevert:
		return l.revert(ctx, clean)
	case RungRestore, RungFork:
		f, err := l.forker(ctx, r)
		if err != nil {
			return err
		}
		return l.anew(ctx, clean, func(ctx context.Context) (Machine, error) { return f.Fork(ctx, l.p.Parent, l.p.Spec) })
	default:
		return l.anew(ctx, clean, func(ctx context.Context) (Machine, error) {
			m, err := l.p.Driver.Create(ctx, l.p.Spec)
			if err != nil {
				return nil, err
			}
			return m, m.Start(ctx)
		})
	}
}

// forker looks whether a parent can be used, before anything is destroyed for it.
func (l *ladder) forker(ctx context.Context, r Rung) (Forker, error) {
	if l.p.Parent == "" {
		return nil, errors.New("no parent is named")
	}
	f, ok := As[Forker](l.p.Driver)
	if !ok {
		return nil, fmt.Errorf("the driver makes no machines from parents: %w", errors.ErrUnsupported)
	}
	if f.Rung() != r {
		return nil, fmt.Errorf("the driver's way is %v: %w", f.Rung(), errors.ErrUnsupported)
	}
	parents, err := f.Parents(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(parents, l.p.Parent) {
		return nil, fmt.Errorf("parent %s: %w", l.p.Parent, ErrNotFound)
	}
	return f, nil
}

// revert goes back in place.
func (l *ladder) revert(ctx context.Context, clean func(context.Context, Machine) error) error {
	switch {
	case l.p.Snapshot == "":
		return errors.New("no snapshot is named")
	case l.gone:
		return errors.New("the machine was destroyed for the rung before")
	case l.m == nil:
		return errors.New("there is no machine yet")
	}
	s, ok := As[Snapshotter](l.m)
	if !ok {
		return fmt.Errorf("the machine keeps no snapshots: %w", errors.ErrUnsupported)
	}
	if err := l.eject(ctx); err != nil {
		return err
	}
	if err := s.Revert(ctx, l.p.Snapshot); err != nil {
		return err
	}
	// Hypervisors may leave a reverted machine off or paused, whatever it was.
	r := &run{m: l.m}
	if err := r.wake(ctx); err != nil {
		return err
	}
	return clean(ctx, l.m)
}

// eject empties the input places of the machine.
func (l *ladder) eject(ctx context.Context) error {
	a, ok := As[Attacher](l.m)
	if !ok {
		return nil
	}
	for place := range l.p.Spec.Inputs {
		if err := a.Eject(ctx, place); err != nil {
			return err
		}
	}
	return nil
}

// anew destroys what is there and makes another machine by make, which may
// answer a machine beside an error.
func (l *ladder) anew(ctx context.Context, clean func(context.Context, Machine) error, make func(context.Context) (Machine, error)) error {
	m, err := l.replace(ctx, make)
	if err == nil {
		err = clean(ctx, m)
	}
	if serr := l.buried(); serr != nil {
		// What is left is the old one; the new one is nobody's.
		return errors.Join(err, serr, l.discard(ctx, m))
	}
	if err == nil {
		l.m = m
		return nil
	}
	if derr := l.discard(ctx, m); derr != nil {
		l.m, l.gone = m, true
		return errors.Join(err, derr)
	}
	return err
}

// replace makes a machine in the place of the one that is there. What it answers
// may be there before that one is gone: see buried.
func (l *ladder) replace(ctx context.Context, make func(context.Context) (Machine, error)) (Machine, error) {
	if l.m == nil {
		return make(ctx)
	}
	var err error
	beside := l.halt(ctx)
	l.bury(ctx)
	if beside {
		// A failure may be for what the old one still has: a port, a device, a place.
		var m Machine
		if m, err = make(ctx); err == nil || m != nil || ctx.Err() != nil || final(err) && !errors.Is(err, ErrBusy) {
			return m, err
		}
	}
	if serr := l.buried(); serr != nil {
		return nil, errors.Join(err, serr)
	}
	return make(ctx)
}

// halt reports whether nothing of the machine that is there runs any more, so that
// another can be made beside it.
func (l *ladder) halt(ctx context.Context) bool {
	h, ok := As[Halter](l.m)
	return ok && l.m.ID() != ID(l.p.Spec.Name) && h.Halt(ctx) == nil
}

// bury begins to destroy the machine that is there, and buried waits for that.
func (l *ladder) bury(ctx context.Context) {
	old, done := l.m, make(chan error, 1)
	l.burial = done
	go func() { done <- old.Destroy(ctx) }()
}

// buried answers nil when the machine that Renew was called with is gone, or was
// never there. It waits for as long as Destroy does.
func (l *ladder) buried() error {
	if l.burial == nil {
		return nil
	}
	err := <-l.burial
	l.burial = nil
	if err != nil {
		return fmt.Errorf("%s: %w: %w", l.m.ID(), errStuck, err)
	}
	l.m, l.gone = nil, true
	return nil
}

// discard destroys a machine that was made in vain; m may be nil.
func (l *ladder) discard(ctx context.Context, m Machine) error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewCleanup)
	defer cancel()
	if err := m.Destroy(ctx); err != nil {
		return fmt.Errorf("%s: %w: %w", m.ID(), errStuck, err)
	}
	return nil
}
