package pool

import (
	"context"
	"log/slog"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
)

// The defaults.
const (
	DefaultIdle        = 10 * time.Minute // Template.Idle
	DefaultBootTimeout = 10 * time.Minute // Template.BootTimeout
	DefaultPoll        = 30 * time.Second // Config.Poll
	DefaultFailures    = 3                // Template.Failures
	DefaultKept        = 4                // Config.Kept
	DefaultJobDisk     = 64 << 20         // bytes, of the one job disk of a Spec without JobDisks; sparse
	DefaultInputs      = 4                // places for inputs of a Spec without Inputs
)

// Config says what a pool is made of. Hosts and Templates are needed.
type Config struct {
	// Name tells pools apart: leftovers of a dead run are taken for the
	// pool's own when they bear this name. Empty: "bullpen".
	Name string
	// Run describes the harness's run; it is written on machines.
	Run Run
	// Leases holds the slots. Who made it closes it, after the pool. Nil: the
	// pool makes and closes one of its own in memory, and shares hosts with
	// nobody.
	Leases    *lease.Manager
	Hosts     []Host
	Templates []Template
	// Locks are named locks that templates may ask for, with how many
	// machines may hold each at once, over all who share the lease store.
	Locks map[string]int
	// Quotas are how many machines the accounts of Want.Account may have at
	// once; an account without one has no limit.
	Quotas map[string]int
	// Poll is how often each host is listed; zero: DefaultPoll.
	Poll time.Duration
	// Drain is how long Close waits for guests to be released before it takes
	// them away; zero: until its context ends.
	Drain time.Duration
	// Kept is how many machines Guest.Hold may keep at once; zero:
	// DefaultKept, negative: none.
	Kept int
	// Trace is told of every change; nil: nobody is.
	Trace *Trace
	// Logger gets the same in words; nil: it is discarded.
	Logger *slog.Logger
}

// Run is one run of a harness.
type Run struct {
	ID          string // empty: a new uuid
	Start       time.Time
	Job         string // the job's exact name
	Description string // for people; may be anything
}

// Host is a hypervisor with a capacity.
type Host struct {
	// Name is for people and for Want.Avoid; empty: the driver's HostID.
	Name string
	// Driver is opened and closed by the caller, who closes it after the pool.
	Driver vm.Driver
	// Slots is how many machines (of weight 1) there may be, over all who
	// share the lease store.
	Slots int
	// Starts is how many may be booting at once, over all who share the lease
	// store; zero: no limit.
	Starts int
	// Labels are matched by Want.Labels; a template's go over them.
	Labels map[string]string
	// Properties are told to the guests; a template's go over them.
	Properties map[string]string
	// Keepalive is how often the host's ready machines are asked whether they
	// are there, and their template's Probe whether they are ready; one that
	// does not answer or is not is replaced. Zero: they are not.
	Keepalive time.Duration
}

// Template is the recipe that machines are made from.
type Template struct {
	Name string
	// Group and Built are for those who want the newest of several templates, such
	// as nightly builds of one system: see Want.Group. A version belongs into
	// Labels, for those who want that one.
	Group string
	Built time.Time
	// Labels are matched by Want.Labels.
	Labels map[string]string
	// Properties are told to the guest, over the host's and under the
	// machine's own (machine, host, template, slot, pool, run).
	Properties map[string]string
	// Spec is what to make. Name, Template, Owner and Secret are filled in,
	// and JobDisks and Inputs where they are empty: one of DefaultJobDisk, and
	// DefaultInputs.
	Spec vm.Spec
	// Hosts are the names of the hosts it can be made on; empty: all.
	Hosts []string
	// Existing are machines that others made, and that this template is of:
	// they are leased, checked, reverted to Snapshot where that is set, left
	// alone for 10 s to 1 h when they are not clean, and never made or
	// destroyed. They take no slots. Of Spec, Inputs and Properties are used.
	Existing []Existing

	// Ready is how many machines are kept booted and clean ahead of demand.
	Ready int
	// Most is how many there may be at once; zero: what the slots allow.
	Most int
	// Idle is how long a machine beyond Ready stays unused; the zero value
	// means DefaultIdle. See IdleFor.
	Idle Idle
	// MostUses is after how many uses a machine is made anew rather than
	// reverted in place; zero: no limit.
	MostUses int
	// MostAge is the age above which a machine that nobody uses is made anew;
	// zero: no limit. Machines in use are never touched for their age.
	MostAge time.Duration
	// Weight is how many slots a machine takes; zero: 1. For the first waiter
	// that needs more slots than any host has free, slots of one host are kept
	// free as they come, so that lighter machines do not overtake it for ever.
	Weight int
	// Locks are named locks of Config.Locks that a machine holds while it
	// exists.
	Locks []string

	// Clean proves that a machine is at its known state; nil: vm.ProveClean,
	// where the machine has a channel.
	Clean func(ctx context.Context, m vm.Machine) error
	// Probe says that a clean machine is ready to be handed out; nil: it is.
	Probe func(ctx context.Context, m vm.Machine) error
	// BootTimeout is how long a machine may take to be made, booted, proven
	// clean and probed; RenewTimeout the same for a used machine. Zero:
	// DefaultBootTimeout.
	BootTimeout  time.Duration
	RenewTimeout time.Duration
	// Failures is how many boots in a row may fail, on whatever hosts, before
	// those who wait get the error; zero: DefaultFailures.
	Failures int

	// Rungs, Parent and Snapshot are those of vm.Policy. Hosts that have the
	// parent are preferred for new machines, within ParentCredit.
	Rungs    []vm.Rung
	Parent   string
	Snapshot string
	// OnExit is what becomes of machines when the harness ends without Close.
	// With vm.Survive the next run of a pool of this name in the same lease
	// store adopts those that were made from the same recipe (Name, Spec,
	// Properties, Rungs, Parent, Snapshot) and are clean, or can be reverted in
	// place, and destroys the others. Machines that weigh more than one slot or
	// hold locks are not adopted.
	OnExit vm.OnExit
}

// Idle is how long a machine that is not needed stays warm. The zero value means
// DefaultIdle, a negative one for ever.
type Idle time.Duration

// IdleNever keeps machines however long they are idle.
const IdleNever Idle = -1

// atOnce stands for zero, which means the default.
const atOnce Idle = 1

// IdleFor gives the Idle of a duration: zero is at once, negative is never.
func IdleFor(d time.Duration) Idle {
	switch {
	case d < 0:
		return IdleNever
	case d == 0:
		return atOnce
	}
	return Idle(d)
}

// limit gives the duration; ok is false when there is none.
func (i Idle) limit() (d time.Duration, ok bool) {
	switch {
	case i < 0:
		return 0, false
	case i == 0:
		return DefaultIdle, true
	case i == atOnce:
		return 0, true
	}
	return time.Duration(i), true
}

// Want is what a caller asks for. The zero value takes any machine.
type Want struct {
	// Template names a template; empty: any.
	Template string
	// Group, where Template is empty, is for the newest template of that
	// Template.Group, by Built and then the later one in Config.Templates, of
	// those that have machines with Labels. It is chosen when the call is made: a
	// newer one that Reload brings is for later calls.
	Group string
	// Labels must be the machine's with equal values.
	Labels map[string]string
	// Priority goes before arrival, highest first.
	Priority int
	// Job is who asks, such as the test's name: others who wait are told.
	Job string
	// Account is whose quota the machine counts against; see Config.Quotas.
	Account string
	// Timeout bounds the wait beside the context; zero: the context alone.
	Timeout time.Duration
	// Inputs are the digests (diskio.Image.Digest) of the inputs that the
	// machine will be given: of the machines that are free, and of the hosts
	// where one could be made, those that have them are preferred, within
	// InputsCredit. Whose turn it is does not change by it.
	Inputs []string
	// Avoid are names of hosts or machines that are taken only when no other
	// is free or can be made. While another is made the call lets later ones
	// have what it avoids.
	Avoid []string
}
