package pool

import (
	"context"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/health"
	"github.com/bullpen-vm/bullpen/pool/internal/queue"
	"github.com/bullpen-vm/bullpen/pool/internal/reconcile"
	"github.com/bullpen-vm/bullpen/vm"
)

type (
	units = queue.Queue[*unit, *wait]
	class = queue.Class[*unit, *wait]
	item  = queue.Item[*unit, *wait]
)

// host is a Host and what the pool knows of it. All fields are under Pool.mu.
type host struct {
	Host
	id       string // of the driver
	index    int
	fixtures []*fixture           // existing machines
	slots    []*unit              // by number; nil: not taken by this pool
	used     int                  // slots promised to units, from claim on
	held     int                  // slots of machines that guests hold
	boots    int                  // units on their way to be made
	places   map[*template]*place // of what is made here
	recipes  map[*template]string
	way      vm.Rung // how its driver makes machines from parents; none: it does not
	have     holdings

	retired   bool // not in the configuration any more
	paused    bool
	listed    bool      // reconciled once
	looked    bool      // listed once, or tried
	swept     time.Time // the last regular look
	doubts    int       // listings in a row with machines of this pool's name whose owner lives
	sweeping  bool
	nextSweep time.Time
	nextAlive time.Time // when its ready machines are asked again
	sightings reconcile.Sightings
	missing   map[*unit]bool // ready machines that the last listing lacked

	lost   health.Breaker    // the host does not answer
	sick   health.Breaker    // several templates fail on it
	failed map[*template]int // failures in a row by template
	pairs  map[*template]*health.Breaker
	deaths map[*template]int // in use and in a row
	busy   health.Pause      // the hypervisor refuses for now
	full   health.Pause      // others have the slots, starts or locks
}

// template is a Template and what the pool knows of it.
type template struct {
	Template
	places  []*place
	retired bool // not in the configuration any more
	count   int  // units, in whatever state
	health  health.Breaker
	last    error         // of the last boot
	took    time.Duration // to boot, lately
	locked  health.Pause  // others have a named lock
	// bootLate and renewLate are the causes when a timeout ends the one or the
	// other.
	bootLate, renewLate error
	// reverts is the one rung to be tried first where that is to revert in
	// place, and others are those to be tried then; else nil.
	reverts, others []vm.Rung
	prove           func(context.Context, vm.Machine) error // clean and ready
}

// inputs is how many places for inputs its machines have.
func (t *template) inputs() int {
	if t.Spec.Inputs == 0 {
		return DefaultInputs
	}
	return t.Spec.Inputs
}

// free is how many of its machines are ready and nobody's.
func (t *template) free() int {
	n := 0
	for _, pl := range t.places {
		n += pl.class.Free()
	}
	return n
}

// place is a template on hosts of equal labels: one class of machines.
type place struct {
	template *template
	hosts    []*host
	class    *class
	labels   map[string]string
	inflight int // units that will become ready, if all goes well
}

type unitState uint8

const (
	claiming   unitState = iota // looks for slot, start and locks
	booting                     // is being made
	ready                       // clean; free or reserved
	held                        // a guest has it
	renewing                    // is being rolled back
	destroying                  // is being destroyed
	kept                        // a person has it
	detached                    // left the pool; its slot is kept
	gone                        // the slot is given up
	states
)

var stateNames = [...]string{"claiming", "booting", "ready", "held", "renewing", "destroying", "kept", "detached", "gone"}

func (s unitState) String() string { return stateNames[s] }

// unit is the pool's occupancy of a slot, from claim to the slot's release: one
// machine after another, each with an incarnation of its own.
type unit struct {
	item     item
	pool     *Pool
	host     *host
	template *template
	place    *place
	fixture  *fixture // its existing machine; nil: the pool makes its own
	state    unitState
	since    time.Time // of the state
	parked   bool      // ready, and not offered while its host does not answer
	doomed   bool      // chosen to make room, within one plan

	numbers  []int          // of its slots, the first names it
	leases   []*lease.Lease // of the slots, the first one's token counts
	extra    []*lease.Lease // of locks
	start    *lease.Lease   // of the start, while it boots
	key      string         // of the first slot
	driver   vm.Driver      // guarded by the slots' leases
	ctx      context.Context
	cancel   context.CancelCauseFunc
	lostErr  error              // why the slot's lease is lost
	released bool               // the leases are being given back: no loss counts any more
	watch    context.CancelFunc // of the goroutine that waits for the machine's end

	made        bool // a machine may be there
	machine     vm.Machine
	name        string
	incarnation string
	properties  map[string]string
	token       uint64       // of the next or present hand-out
	fence       func() error // bound to it
	uses        int
	born        time.Time
	bootTime    time.Duration
	renew       func()      // Pool.renew of it
	late        *time.Timer // ends a renewal that takes too long; nil before the first
	waiter      vm.Waiter   // of the machine waited; nil: it is none
	waited      vm.Machine
	rung        vm.Rung // by which the machine was made
	why         string  // it is made here
	guest       *Guest
	eager       []*wait // those that wait for it rather than take what they avoid
	keptUntil   time.Time
	keptFor     string
	recycle     bool // make it anew rather than revert it
	ended       bool // the machine ended by itself

	probing [4]*health.Breaker // whose half-open probe its boot is
}

// set changes a unit's state and all counts that hang on it.
func (u *unit) set(s unitState, now time.Time) {
	u.tally(-1)
	u.state, u.since = s, now
	u.tally(1)
	p := u.pool
	if s == gone {
		delete(p.units, u)
		if p.closing && len(p.units) == 0 {
			close(p.empty)
		}
	}
}

func (u *unit) tally(n int) {
	p := u.pool
	p.counts[u.state] += n
	switch u.state {
	case claiming, booting:
		u.host.boots += n
		u.place.inflight += n
	case renewing:
		u.place.inflight += n
	case destroying:
		p.vacating += n
	case held:
		u.host.held += n * u.template.Weight
	}
	if u.state != gone {
		u.host.used += n * u.template.Weight
		u.template.count += n
	}
}

// wait is one call that wants machines.
type wait struct {
	q       queue.Waiter[*unit, *wait]
	want    Want
	since   time.Time
	ready   chan struct{} // closed when the wait is over; nil while it never waited
	granted []*unit       // not handed out yet
	handed  []*Guest
	unit1   [1]*unit // room for granted and handed of those who want one
	guest1  [1]*Guest
	err     error   // why it was refused
	eager   *unit   // it is outside the queue until this one is made or not
	charged int     // machines counted against its account's quota, not handed out yet
	ticket  *Ticket // of a Request
}

// over ends a wait once.
func (w *wait) over() {
	if w.ready != nil {
		close(w.ready)
	}
}
