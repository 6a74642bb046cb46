package vm

import (
	"context"
	"time"
)

// ID names a machine within one hypervisor. Drivers derive it from
// [Spec].Name; it is stable for the life of the machine and is never used
// again for another one, because names contain the incarnation.
type ID string

// Driver makes and finds machines on one hypervisor.
//
// Methods that take a context block until the hypervisor has answered or the
// context has ended. What a call did although its context ended is cleaned up
// by the driver: a machine that comes into being late is destroyed, not leaked.
type Driver interface {
	// HostID identifies the hypervisor: all who reach this hypervisor, from
	// whatever process, get the same text, and no other hypervisor has it. It
	// does no I/O.
	HostID() string

	// Create defines a machine and its disks but does not start it. An
	// existing machine of that name is ErrExists and is left as it is. When
	// Create fails, nothing is left behind.
	Create(ctx context.Context, s Spec) (Machine, error)

	// Open finds a machine by its ID; ErrNotFound when there is none.
	Open(ctx context.Context, id ID) (Machine, error)

	// List answers with every machine of the hypervisor that the driver can
	// see, whoever owns it, or with an error: never with a part, and never
	// with "none" for "could not look".
	List(ctx context.Context) ([]Info, error)

	// Close releases the connection and waits for the driver's goroutines. It
	// is idempotent. Machines made with OnExit Die are ended by it; those made
	// with Survive go on. Calls after Close answer ErrClosed.
	Close() error
}

// Machine is one virtual machine. Changes of state that overlap or are illegal
// in the present state answer ErrState.
type Machine interface {
	// ID does no I/O.
	ID() ID

	// Info looks at the machine; ErrNotFound when it is gone.
	Info(ctx context.Context) (Info, error)

	// Start boots a defined or stopped machine. It returns when the
	// hypervisor runs it, which is before the guest is ready: see Messenger.
	// A boot that fails carries the last lines of the console.
	Start(ctx context.Context) error

	// Stop asks the guest to power off and returns without waiting for it.
	// Stopping a machine that does not run is no error.
	Stop(ctx context.Context) error

	// Kill ends the machine at once and returns when it does not run any
	// more. Killing a machine that does not run is no error.
	Kill(ctx context.Context) error

	// Destroy kills the machine and removes it with all that the driver made
	// for it. It is idempotent, also when the machine is gone, and may be
	// called again after an error.
	Destroy(ctx context.Context) error
}

// Info is what a driver knows of a machine at one moment.
type Info struct {
	ID       ID
	Template string // of the Spec it was made from
	State    State
	Owner    Owner     // as written on the machine; zero when nothing is
	Created  time.Time // wall clock, for people
	End      *End      // how its last run ended; nil while it runs or before it ran
	// Details are free key-values of the driver, such as the accelerator and
	// why it was chosen.
	Details map[string]string
}

// State is where a machine stands.
type State uint8

// The states of a machine. The zero value is StateUnknown: a driver that cannot
// tell says so.
const (
	StateUnknown  State = iota // the driver cannot tell
	StateDefined               // made, never started
	StateStarting              // Start was called and has not returned
	StateRunning
	StatePaused
	StateStopped // ran, and ended in an orderly way or was killed
	StateCrashed // ran, and ended by itself in a disorderly way
)

var stateNames = [...]string{"unknown", "defined", "starting", "running", "paused", "stopped", "crashed"}

// String is the state's name in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// EndKind says how a machine's run, or a job's run on it, came to its end.
type EndKind uint8

// The kinds of ends.
const (
	EndUnknown    EndKind = iota // nobody can tell
	EndDone                      // the guest said that the job is done and its records are on the disk
	EndPoweredOff                // the machine stopped in an orderly way without a word about the job
	EndCrashed                   // the guest panicked or the machine's process died by itself
	EndKilled                    // somebody outside ended the machine
	EndHung                      // the deadline passed without a word, and the machine had to be killed or is silent
	EndHostLost                  // the hypervisor cannot be reached
)

var endNames = [...]string{"unknown", "done", "powered off", "crashed", "killed", "hung", "host lost"}

// String is the kind in words.
func (k EndKind) String() string {
	if int(k) < len(endNames) {
		return endNames[k]
	}
	return "unknown"
}

// End is how a run ended. Ends say dead or alive; the truth about a job is in
// the records on its disk.
type End struct {
	Kind   EndKind
	Detail string // the hypervisor's or the guest's words, for people
	// Console is the tail of the console where the driver has one and the end
	// was not EndDone; at most ConsoleTail bytes.
	Console []byte
}

// ConsoleTail is how much of a console an End or a failed boot carries, in bytes.
const ConsoleTail = 4 << 10
